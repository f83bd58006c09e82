"""The README, docs/flags.md and docs/logs.md are kept true: commands, flags and defaults are the program's.

Its quick commands are run here, on fewer steps; of all others the flags are parsed and checked. Those are run
elsewhere: ./quickstart.sh by tests/models/test_smollm2.py, the jobs by tests/slurm.
"""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from swlottery import cli
from swlottery.commands import find
from swlottery.config import FindSettings, TraceSettings, TrainSettings
from swlottery.data import builtin
from swlottery.settings_file import from_file

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
FLAGS = (REPOSITORY / "docs" / "flags.md").read_text(encoding="utf-8")
LOGS = (REPOSITORY / "docs" / "logs.md").read_text(encoding="utf-8")
TEXT = README + FLAGS + LOGS
COMMANDS = {"find_sw.sh": ("find", FindSettings), "func_train.sh": ("train", TrainSettings)}
OWN = {
    f"--{field.name.replace('_', '-')}"
    for kind in (FindSettings, TrainSettings, TraceSettings)
    for field in dataclasses.fields(kind)
}
SBATCH = {"--parsable", "--dependency", "--gres", "--ntasks", "--gpus-per-node", "-p"}

INDENTED = re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL), re.MULTILINE)
INLINE = [
    text for text in re.findall(r"`([^`\n]+)`", TEXT) if re.match(r"(sbatch|bash|\./|\.venv/|swlottery) ?\S", text)
]
LINES = INDENTED + [text for text in INLINE if text not in INDENTED]


def rows(script):
    """The rows of the table of a script's flags."""
    section = FLAGS.partition(f"### The flags of {script}")[2].partition("\n#")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `--")
    ]


def flags_in(text):
    return re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)


def words(line):
    """A command's words, without what the shell does around it."""
    inside = re.fullmatch(r"\w+=\$\((.*)\)", line)
    return [word for word in shlex.split(inside[1] if inside else line, comments=True) if word != "…"]


def masked(line):
    """A line of a log without its numbers, and with single spaces."""
    return " ".join(re.sub(r"-?\d[\d,.]*(e-\d+)?", "#", line).rstrip(".").split())


LOG = [line for line in README.partition("```\n")[2].partition("```")[0].splitlines() if line != "…"]

# --- the commands


def test_its_commands_are_found():
    assert [line for line in INDENTED if not re.match(r"(\w+=\$\()?(sbatch|bash|\./|\.venv/bin/swlottery)", line)] == []
    assert len(INDENTED) >= 8
    assert {"sbatch --gres=gpu:1 -p PARTITION find_sw.sh …", "bash find_sw.sh --help"} <= set(INLINE)


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_good(line):
    """The script is there, the flags in front of it are sbatch's, and those behind it make settings that pass."""
    first, *rest = words(line)
    if first == ".venv/bin/swlottery":
        assert cli.parser().parse_args(rest).command in ("prepare", "status", "sweep", "report", "trace")
        return
    if first.startswith("./"):
        assert (REPOSITORY / first).stat().st_mode & 0o100
        return
    assert first in ("sbatch", "bash")
    (at,) = (nth for nth, word in enumerate(rest) if word in COMMANDS)
    before, script, given = rest[:at], rest[at], rest[at + 1 :]
    assert (REPOSITORY / script).is_file()
    assert {word.partition("=")[0] for word in before if word.startswith("-")} <= (
        SBATCH if first == "sbatch" else set()
    )
    command, kind = COMMANDS[script]
    if given == ["--help"]:
        return
    parsed = cli.parser().parse_args([command, *given])
    stored = from_file(REPOSITORY / parsed.config) if getattr(parsed, "config", None) else {}
    made = cli._settings(kind, parsed, stored)
    if kind is TrainSettings:
        made.check()
    else:
        find.check(made)


def test_its_quick_commands_run(
    script_root: Path,
    script_environment: dict[str, str],
    few_docstrings: None,
    no_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A lottery, two arms that branch from it, the same command once more, and how the runs stand.

    The first by its script, the others by what the script calls: each start imports torch; and they draw nothing. In
    the place of the built-in text, and of the tokenizer trained on it, stands a sixteenth of that text.
    """
    smoke = [line for line in INDENTED if "configs/smoke.yaml" in line]
    assert len(smoke) == 3 and "--from-round-1" not in smoke[0]
    status = next(line for line in INDENTED if "swlottery status" in line)
    report = next(line for line in INDENTED if "swlottery report" in line)
    fewer = "--steps 2 --rounds 1 --context 32 --eval-sequences 2 --threads 1 --device cpu".split()  # noqa: SIM905
    monkeypatch.setenv("SWLOTTERY_ROOT", str(script_root))
    monkeypatch.chdir(script_root)
    builtin.docstrings()  # now in the cache, for the script too

    def there() -> set[str]:
        return {path.name for path in (script_root / "runs").glob("*")}

    def called(command: str, *given: str) -> str:
        capsys.readouterr()
        assert cli.main([command, *given]) == 0
        return capsys.readouterr().out

    environment = script_environment | {"SWLOTTERY_CACHE": os.environ["SWLOTTERY_CACHE"]}
    done = subprocess.run([*words(smoke[0]), *fewer], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What became of the tracked weights" in done.stdout
    logged = {masked(part) for line in done.stdout.splitlines() for part in (line, *line.split(". "))}
    assert [line for line in LOG if masked(line) not in logged] == []
    (first,) = there()
    assert words(smoke[0])[:2] == ["bash", "func_train.sh"]
    assert f"{first} is done" in called("train", *words(smoke[0])[2:], *fewer) and there() == {first}
    for arm in smoke[1:]:
        before = there()
        said = called("train", *words(arm.replace("runs/RUN", f"runs/{first}"))[2:], *fewer)
        assert f"branches from runs/{first}" in said and len(there() - before) == 1
        assert ("PRUNED" in said) == arm.endswith("--force-prune sw")
    table = called(*words(status)[1:])
    assert table.count(" finished ") == 3 and first in table
    assert "wrote    report.html" in called(*words(report)[1:])
    assert first in (script_root / "report.html").read_text()


# --- the flags


@pytest.mark.parametrize("script", COMMANDS)
def test_a_table_of_flags_is_the_programs(script):
    settings = {field.name: field for field in dataclasses.fields(COMMANDS[script][1])}
    assert len(rows(script)) > 8
    for flags, _, default in rows(script):
        for flag in flags_in(flags):
            if flag == "--config":
                continue
            setting = settings[flag[2:].replace("-", "_")]
            if default and not default.startswith("six"):
                assert str(setting.default).removesuffix(".0") == default.strip("`"), flag
            elif not default:
                assert setting.default in (None, "", False, dataclasses.MISSING), flag


@pytest.mark.parametrize("script", COMMANDS)
def test_help_names_every_flag_of_a_table(script):
    command = [sys.executable, "-m", "swlottery.cli", COMMANDS[script][0], "--help"]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    assert all(flag in said for flags, *_ in rows(script) for flag in flags_in(flags))


@pytest.mark.parametrize("script", COMMANDS)
def test_the_choices_that_a_table_names_are_the_programs(script):
    settings = {field.name: field.metadata["flag"] for field in dataclasses.fields(COMMANDS[script][1])}
    for flags, text, _ in rows(script):
        choices = [settings.get(flag[2:].replace("-", "_"), {}).get("choices") for flag in flags_in(flags)]
        if all(choices):
            assert set(re.findall(r"`([\w+-]+)`", text)) <= set().union(*choices), flags


def test_every_flag_in_the_text_exists():
    assert set(flags_in(TEXT)) <= OWN | SBATCH | {"--help", "--config", "--out", "--markdown"}


# --- what it names


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)|`((?:bench|docs)/[\w.]+)`", README))))
def test_what_it_links_to_is_there(path):
    assert (REPOSITORY / (path[0] or path[1])).exists()


def test_the_configs_it_names_are_those_there_are():
    section = FLAGS.partition("### Configs")[2].partition("\n#")[0]
    there = {path.name for path in (REPOSITORY / "configs").glob("*.yaml")}
    assert set(re.findall(r"`([\w-]+\.yaml)`", section)) == there
    seeds = {path.stem for path in (REPOSITORY / "configs" / "seed").iterdir()}
    assert set(re.findall(r"\b87\d{4}\b", section)) == seeds


def test_there_are_as_many_architectures_as_it_says():
    page = (REPOSITORY / "docs" / "architectures.md").read_text(encoding="utf-8")
    covered = re.findall(r"^\| \S+ \| (?:row|proof) \|", page, re.MULTILINE)
    assert f"[{len(covered)} architectures](docs/architectures.md)" in README


def test_the_log_reads_as_it_says():
    """What it names of the training log stands in the code that writes it."""
    report = REPOSITORY / "src" / "swlottery" / "report" / "logs"
    written = "".join((report / name).read_text() for name in ("train.py", "tables.py", "survival.py"))
    for words_ in ("What each prune will leave", "|w|/thr.", "its matrix", "PRUNED", "All rounds", "What became of"):
        assert words_ in written


def test_the_answer_stands_in_the_tables_of_the_study():
    """Every number of the README's answer comes from a CSV file of the page that it follows, and there is no other."""
    import pandas

    from swlottery.report.page.answer import ends

    def table(name: str, page: str = "results") -> pandas.DataFrame:
        return pandas.read_csv(REPOSITORY / "docs" / page / f"{name}.csv")

    def bracket(written: str, digits: int) -> str:
        return "[" + ", ".join(f"{end:.{digits}f}" for end in ends(written)) + "]"

    answer = README.partition(": why?\n")[2].partition("\n## ")[0]
    survival = table("plan_survival").set_index(["arm", "networks that count"]).sort_index()
    by_20, by_10 = (survival.loc[(f"{rate} % × 5 (T 4000)", "with a super weight")] for rate in (20, 10))
    networks = table("super_weights").set_index("set-up").loc["llama-mini, T 4000"]
    damage = table("networks").query("verdict == 'critical'")["ΔNLL"]
    points = table("plan_survival_points").query("tracks == 'super weight'")
    points["seed"] = points["run"].str.extract(r"seed(\d+)-")
    alive = points[points["pruned by prune"].isna()].groupby("arm")["seed"].agg(set)
    assert "10 % × 5 (T 4000)" not in alive and len(alive["20 % × 5 (T 4000)"]) == 1, "kept at 20 %, lost at 10 %"
    contrast = table("contrast").query("`first arm` == '20 % × 5 (T 4000)'").sort_values("remaining, %").iloc[0]
    assert abs(contrast["shift of d"]) < contrast["sd of the controls"] and contrast["p (Holm)"] > 0.05
    last = table("found_last").set_index("arm")
    grave = last["verdict"].isin(["critical", "jointly critical"]).groupby("arm").agg(["sum", "size"])
    those = last[last["verdict"].isin(["critical", "jointly critical"])]
    assert set(those["found"].str[:3]) == {"(0,"} == set(points["weight"].str[:3]), "all in the first layer"
    again = table("again").set_index("arm")
    assert not again.loc["10 % × 5 (T 4000)", "kept"].any(), "others than before"
    changes = table("loss_changes").set_index("arm")
    first = table("plan_family").set_index("question").loc["pruned_first"]
    assert first["answer"] == "no" and first["networks that count"] == "with a super weight"
    facts = [
        f"at 20 % leave {by_20['remaining, %']:.2f} % of the weights",
        f"at 10 % leave {by_10['remaining, %']:.2f} %.",
        f"{networks['with a super weight']} of {networks['networks']} have one",
        f"rises by {damage.min():.2f} to {damage.max():.2f} nat",
        f"the last {100 - table('critical')['falls at sparsity, % (after round 1)'].min():.2f} % of the weights",
        f"at 20 % keep {by_20['kept']} of {by_20['networks']}",
        f"at 10 % keep {by_10['kept']} of {by_10['networks']}",
        f"With {contrast['remaining, %']:.0f} % of the weights remaining",
        f"{contrast['shift of d']:+.2f} {bracket(contrast['95 % interval'], 2)} on a log scale",
        f"{contrast['networks']} networks are too few",
        f"{by_20['controls kept, %']:.0f} % and {by_10['controls kept, %']:.0f} % are kept",
        f"{grave.loc['10 % × 5 (T 4000)', 'sum']} of {grave.loc['10 % × 5 (T 4000)', 'size']} tickets",
        f"{grave.loc['20 % × 5 (T 4000)', 'sum']} of {grave.loc['20 % × 5 (T 4000)', 'size']} have",
        f"{by_20['matrix kept, %']:.1f} % of that layer's",
        *(
            f"by {changes.loc[arm, 'change']:+.3f} nat {bracket(changes.loc[arm, '95 % interval'], 3)}"
            for arm in ("10 % × 5 (T 4000)", "20 % × 5 (T 4000)")
        ),
        f"by {first['difference']:+.3f} nat {bracket(first['95 % interval'], 3)} in {first['networks']} networks: "
        f"less than the {first['margin']:g} nat",
        f"until {table('critical', 'results-smollm2')['least over all rounds'].min():.2f} % of the weights",
    ]
    plain = re.sub(r"\s+", " ", answer).replace("−", "-")
    for fact in facts:
        assert fact in plain
    others = {"20 %", "10 %", "135", "3", "64", "4,000", "90 %"}  # rates, the set-up, a model's name, the figure's band
    numbers = set(re.findall(r"(?<![\w.])\d[\d.,]*\d(?: %)?|(?<![\w.])\d(?: %)?", re.sub("SmolLM2|θ_0", "", plain)))
    assert {number for number in numbers - others if number not in " ".join(facts)} == set()
