"""What docs/method.md and docs/slurm.md name is there.

Columns of the watch, controls, scopes, criteria, rewindings; what the scripts ask of Slurm, commands, a study.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from swlottery import cli
from swlottery.config import FindSettings, SweepSettings, TraceSettings, TrainSettings
from swlottery.lottery import matching
from swlottery.lottery.prune import planned
from swlottery.lottery.scope import SCOPES
from swlottery.runtime.tables import WATCH
from swlottery.settings_file import from_file
from swlottery.study import grid as study

REPOSITORY = Path(__file__).resolve().parents[1]
METHOD = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
SLURM = (REPOSITORY / "docs" / "slurm.md").read_text(encoding="utf-8")
FLAGS = {field.name: field.metadata["flag"] for field in dataclasses.fields(TrainSettings)}


def section(number: int) -> str:
    """The text of one numbered section."""
    return METHOD.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """What is set as code in the first column of the tables of a text, in order."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row) if not name.startswith("--")]


def test_the_columns_of_the_watch() -> None:
    place = {"round", "step", "kind", "layer", "out", "in"}
    assert first_cells(section(12)) == [name for name in WATCH if name not in place]


def test_the_kinds_of_controls() -> None:
    assert first_cells(section(13)) == list(matching.KINDS)
    assert f"{matching.COUNT} of each" in section(13)


def test_scopes_criteria_and_rewindings() -> None:
    assert first_cells(section(8)) == list(SCOPES) == list(FLAGS["scope"]["choices"])
    assert set(FLAGS["criterion"]["choices"]) <= set(re.findall(r"`([a-z-]+)`", section(9)))
    assert first_cells(section(10)) == list(FLAGS["rewind"]["choices"])


def test_the_example_of_five_prunes() -> None:
    total = 124_373_760
    counts, _ = planned(TrainSettings(), total)
    left = [f"{total - sum(counts[: n + 1]):,}" for n in range(5)]
    assert f"leave {', '.join(left[:-1])} and {left[-1]}." in " ".join(section(9).split())


def test_every_flag_it_names_exists() -> None:
    named = {flag[2:].replace("-", "_") for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", METHOD)}
    assert named <= {*FLAGS, *(field.name for field in dataclasses.fields(FindSettings))}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py)`", METHOD))))
def test_every_file_it_names_is_there(name: str) -> None:
    assert (REPOSITORY / name).is_file() or list((REPOSITORY / "src" / "swlottery").rglob(name))


# --- docs/slurm.md


def indented(text: str, first: str) -> str:
    """The indented block that begins with a line."""
    lines = text[text.index(f"    {first}") :].splitlines()
    kept = [line for line in lines if line.startswith("    ")]
    return textwrap.dedent(
        "\n".join(kept[: next((i for i, line in enumerate(lines) if not line.startswith("    ")), None)])
    )


def test_what_the_script_asks_of_slurm() -> None:
    asked = re.findall(r"^#SBATCH (--\S+)$", (REPOSITORY / "func_train.sh").read_text(), re.MULTILINE)
    told = re.findall(r"`(--[^`]+)`", " ".join(re.findall(r"^\| (`--[^|]+)\|", SLURM, re.MULTILINE)))
    assert {flag for cell in told for flag in cell.split()} == set(asked) - {"--job-name=func_train"}


def test_the_study_in_it_is_one(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(indented(SLURM, "name: rates"))
    found = study.read(path, REPOSITORY)
    assert [point.label for point in found.points[::3]] == ["seed0-p20", "seed0-p10"] and len(found.points) == 6
    assert found.points[3].parent == "seed0-p20"


@pytest.mark.parametrize(
    "line", re.findall(r"^    (?:job=\$\()?(?:sbatch|\.venv/bin/swlottery) .*$", SLURM, re.MULTILINE)
)
def test_its_commands_parse(line: str) -> None:
    given = shlex.split(line.strip().removeprefix("job=$(").rstrip(")"))
    if "--wrap" in given:
        given = shlex.split(given[given.index("--wrap") + 1].removeprefix("exec "))
        parsed = cli.parser().parse_args(given[1:])
        from_file(REPOSITORY / parsed.config, TraceSettings)
    if given[0] != "sbatch":
        assert cli.parser().parse_args(given[1:]).command in ("prepare", "sweep", "status", "trace")
        return
    at = next(i for i, word in enumerate(given) if word.endswith(".sh"))
    assert (REPOSITORY / given[at]).is_file()
    parsed = cli.parser().parse_args([{"find_sw.sh": "find", "func_train.sh": "train"}[given[at]], *given[at + 1 :]])
    tasks = [int(word.partition("=")[2]) for word in given[:at] if word.startswith("--ntasks")]
    for number in tasks:
        assert from_file(REPOSITORY / parsed.config)["grad_accum"] % number == 0


def test_every_flag_and_variable_of_it_exists() -> None:
    ours = {*FLAGS, *(field.name for one in (SweepSettings, FindSettings) for field in dataclasses.fields(one))}
    scripts = "".join(path.read_text() for path in (REPOSITORY / "scripts").iterdir())
    text = scripts + (REPOSITORY / "src" / "swlottery" / "runtime" / "files.py").read_text()
    for name in set(re.findall(r"`(?:--)([a-z][a-z-]*)`", SLURM)) - {"requeue"}:  # that is sbatch's
        assert name.replace("-", "_") in ours, name
    for name in set(re.findall(r"SWLOTTERY_[A-Z0-9]+", SLURM)):
        assert name in text, name
    assert "${SWLOTTERY_REQUEUES:-20}" in scripts and "at most 20 times" in SLURM
