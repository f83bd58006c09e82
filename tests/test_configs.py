"""The config files: each loads and passes its checks, and those in configs/seed say what the first runs did."""

from __future__ import annotations

import re
import shlex
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from swlottery import cli
from swlottery.commands.trace import placed
from swlottery.config import TraceSettings, TrainSettings
from swlottery.lottery.prune import planned
from swlottery.settings_file import from_file
from swlottery.study.grid import read

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STUDIES = sorted((CONFIGS / "study").glob("*.yaml"))
TRACES = sorted((CONFIGS / "trace").glob("*.yaml"))
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(STUDIES) - set(TRACES))
SEEDS = {path.stem: path for path in sorted((CONFIGS / "seed").glob("*.yaml"))}
IN_SCOPE = 124_373_760
LEFT = {
    "0.2": [99_499_008, 79_599_207, 63_679_366, 50_943_493, 40_754_795],
    "0.1": [111_936_384, 100_742_746, 90_668_472, 81_601_625, 73_441_463],
}
"""What floor(p · remaining) of IN_SCOPE leaves after each of five prunes, worked out by hand in whole numbers."""

FIRST_RUNS = {  # steps a round, rate, when the coordinate went, and what the first write-up got wrong besides
    "876812": (10, "0.2", "gone at prune 1, where its matrix kept 57.0 %.", ""),
    "876819": (10_000, "0.2", "alive after prune 4, where its matrix kept 25.4 %; prune 5 is not known.", ""),
    "876823": (10_000, "0.1", "gone at prune 4, where its matrix kept 60.2 %.", ""),
    "877713": (3_000, "0.2", "gone at prune 3, where its matrix kept 33.2 %.", "written up as 10 %, 40.96 %, 0.8⁴"),
    "877756": (3_000, "0.1", "gone at prune 1, where its matrix kept 85.7 %.", "written up as 20 %, 81.00 %, 0.9²"),
}


def settings(path: Path) -> TrainSettings:
    """The settings of a file."""
    return TrainSettings(**from_file(path))


def comment(path: Path) -> str:
    """All comments of a file, as one line."""
    lines = (line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return " ".join(lines)


def test_the_command_of_the_small_llamas_study_judges_each_trained_network_once(tmp_path: Path) -> None:
    """As its file gives it, on the folders that a sweep leaves: a branch has a copy of the round 1 of its parent."""
    path = CONFIGS / "study" / "plan-llama.yaml"
    (command,) = re.findall(r"^#     (for .*; done)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    for point in read(path, CONFIGS.parent).points:
        (tmp_path / "runs" / "plan-llama" / point.label / "run" / "round_1").mkdir(parents=True)
    for name in ("points", "logs"):
        (tmp_path / "runs" / "plan-llama" / name).mkdir()
    said = subprocess.run(
        ["bash", "-euc", f'swlottery() {{ echo "$@"; }}; {command}'], cwd=tmp_path, capture_output=True, text=True
    )
    assert said.returncode == 0 and not said.stderr, said
    judged = re.findall(r"find --model (\S+-(\w+)/run/round_1) .*--out \1/record.json", said.stdout)
    assert sorted(arm for _, arm in judged) == sorted(["A1", "B1", "C1"] * 8), "nothing is tracked in I1"


def test_there_are_the_presets_and_the_five_first_runs() -> None:
    presets = {"smoke", "smollm2-cpu", "gpt2-mini", "llama-mini", "gpt2-pretrained", "gpt2-scratch"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == presets
    assert set(SEEDS) == set(FIRST_RUNS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_passes_its_checks(path: Path) -> None:
    settings(path).check()
    assert comment(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_says_nothing_twice(path: Path) -> None:
    """YAML takes the last of two lines with one name, without a word."""
    names = re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_commands_in_its_comment_are_good(path: Path) -> None:
    """They are parsed, and the config that they name is the file itself."""
    for command, flags in re.findall(
        r"^# +(?:bash|sbatch).* (find_sw|func_train)\.sh(.*)", path.read_text(), re.MULTILINE
    ):
        name = "find" if command == "find_sw" else "train"
        parsed = cli.parser().parse_args([name, *shlex.split(flags)])
        if name == "train":
            assert CONFIGS.parent / parsed.config == path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_record_is_the_one_that_find_writes_of_its_model(path: Path) -> None:
    from swlottery.models.names import slug

    own = settings(path)
    if own.super_weights not in ("discover", "none"):
        assert own.super_weights == f"super_weights/{slug(own.model)}.json"


@pytest.mark.parametrize("run", FIRST_RUNS)
def test_a_first_run_is_set_up_as_it_was(run: str) -> None:
    own = settings(SEEDS[run])
    steps, rate, *_ = FIRST_RUNS[run]
    assert (own.steps, own.prune_rate, own.rounds) == (steps, rate, 5)
    assert (own.schedule, own.one_shot, own.rewind, own.rewind_step) == ("", False, "weights", 0)
    assert (own.model, own.start, own.init) == ("gpt2", "scratch", "gpt2")
    assert (own.freeze_biases, own.vocabulary, own.data) == (True, 50_304, "openwebtext")
    assert (own.micro_batch, own.grad_accum, own.context) == (12, 20, 1024)
    assert own.micro_batch * own.grad_accum * own.context == 245_760
    assert (own.lr, own.lr_schedule, own.warmup) == (6e-4, "constant", 0)
    assert (own.beta1, own.beta2, own.weight_decay, own.clip) == (0.9, 0.95, 0.1, 1.0)
    assert (own.scope, own.criterion) == ("all", "global-magnitude")
    assert own.coordinates() == [(2, 447, 666)]


def test_the_first_runs_start_from_one_initialisation_and_differ_in_length_and_rate_only() -> None:
    ours = [vars(settings(path)) for path in SEEDS.values()]
    assert len({own["seed"] for own in ours}) == 1
    differing = {name for own in ours for name in own if own[name] != ours[0][name]}
    assert differing == {"steps", "prune_rate", "eval_steps"}


@pytest.mark.parametrize("run", FIRST_RUNS)
def test_what_the_first_write_up_got_wrong_stands_in_its_file(run: str) -> None:
    said = comment(SEEDS[run])
    steps, rate, fate, swapped = FIRST_RUNS[run]
    assert said.startswith(f"First run {run}: {steps:,} steps a round, {100 * Decimal(rate):.0f} %.")
    assert fate in said
    assert "was decided by the prune before" in said
    assert "foreign" in said
    assert "one initialisation" in said
    for part in ("124,373,760", "50,304", "245,760", "OpenWebText", "(2, 447, 666)"):
        assert part in said
    assert ("Swapped label" in said) == bool(swapped)
    for part in filter(None, swapped.split(", ")):
        assert part in said


@pytest.mark.parametrize("run", FIRST_RUNS)
def test_what_its_prunes_leave_follows_the_floor_rule(run: str) -> None:
    own = settings(SEEDS[run])
    counts, _ = planned(own, IN_SCOPE)
    left = [IN_SCOPE - sum(counts[: n + 1]) for n in range(5)]
    assert left == LEFT[own.prune_rate]
    tenths = int(own.prune_rate[2:])
    for count, before, after in zip(counts, [IN_SCOPE, *left], left, strict=False):
        assert count == before * tenths // 10
        assert before - count == after
    assert [f"{100 * number / IN_SCOPE:.2f}" for number in left] == (
        ["80.00", "64.00", "51.20", "40.96", "32.77"] if tenths == 2 else ["90.00", "81.00", "72.90", "65.61", "59.05"]
    )


def test_so_many_weights_are_in_scope() -> None:
    """GPT-2 of their vocabulary, without memory for its weights: biases are out of scope and counts."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from swlottery.lottery.scope import in_scope
    from swlottery.models.architectures import Roles

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50_304))
    scope = in_scope(model, Roles(model), "all")
    assert sum(parameter.numel() for parameter in scope.values()) == IN_SCOPE
    assert not [name for name in scope if name.endswith("bias")]


# --- the studies

POINTS = {
    "plan": 66,
    "plan-mini": 176,
    "plan-llama": 80,
    "kept": 80,
    "kept300": 20,
    "pilot": 6,
    "smollm2": 9,
    "gpt2": 40,
}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_makes_its_points(path: Path) -> None:
    study = read(path, CONFIGS.parent)
    assert study.name == path.stem and len(study.points) == POINTS[path.stem]
    commands = [
        shlex.split(line[1:].partition(";")[0]) for line in path.read_text().splitlines() if "swlottery sweep" in line
    ]
    assert len(commands) == 1 and commands[0][:2] == ["swlottery", "sweep"]
    parsed = cli.parser().parse_args(commands[0][1:])
    assert CONFIGS.parent / parsed.study == path


def test_the_study_of_the_mini_is_the_design() -> None:
    """docs/study.md: ten seeds, every arm of a seed from one round 1 but two, T and the rewind step by the pilot."""
    points = {point.label: point for point in read(CONFIGS / "study" / "kept.yaml", CONFIGS.parent).points}
    design = (CONFIGS.parent / "docs" / "study.md").read_text(encoding="utf-8")
    assert "So **T = 100**" in design and "fixed by the pilot" not in design
    arms = {label.rpartition("-")[2] for label in points}
    assert arms == set(re.findall(r"^\| `(\w+)` \|", design, re.MULTILINE))
    own = {label.rpartition("-")[2] for label, point in points.items() if point.parent is None}
    assert own == {"late20", "xavier20", "twin"}
    assert {point.settings["steps"] for point in points.values()} == {100}
    assert {point.settings.get("rewind_step", 0) for label, point in points.items() if label.endswith("late20")} == {5}
    pilot = {point.settings["seed"] for point in read(CONFIGS / "study" / "pilot.yaml", CONFIGS.parent).points}
    assert pilot == {101, 102} and not pilot & {point.settings["seed"] for point in points.values()}


# --- the traces


def test_there_are_three_pythias_and_five_gpt2s() -> None:
    seeds = ("alias", 21), ("battlestar", 49), ("caprica", 81), ("darkmatter", 343), ("expanse", 777)
    assert {path.stem for path in TRACES} == {
        *(f"pythia-{size}" for size in ("70m", "160m", "410m")),
        *(f"{name}-gpt2-small-x{seed}" for name, seed in seeds),
    }


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_trace_has_revisions_that_there_are(path: Path) -> None:
    """As far as their authors say: the steps at which they were saved, in order; the command in the file runs it."""
    own = TraceSettings(**from_file(path, TraceSettings))
    checkpoints = placed(own.checkpoints(), own.tokens_per_step)
    steps = [one.step for one in checkpoints]
    assert steps == sorted(steps) and [one.revision for one in checkpoints] == own.revisions.split(",")
    pythia = path.stem.startswith("pythia")
    assert own.model == [("EleutherAI/" if pythia else "stanford-crfm/") + path.stem]
    if pythia:
        there = {0, *(2**n for n in range(10)), *range(1000, 143_001, 1000)}
        assert {0, 1, 2, 512, 1000, 143_000} <= set(steps) <= there and own.tokens_per_step == 2_097_152
        assert {one.revision for one in checkpoints} == {f"step{step}" for step in steps}
        assert checkpoints[-1].tokens == 299_892_736_000
    else:
        there = {*range(10, 101, 10), *range(100, 2001, 50), *range(2000, 20_001, 100), *range(20_000, 400_001, 1000)}
        assert {10, 400_000} <= set(steps) <= there and own.tokens_per_step == 512 * 1024
        assert {one.revision for one in checkpoints} == {f"checkpoint-{step}" for step in steps}
    (command,) = re.findall(r"--wrap 'exec \.venv/bin/swlottery (.*)'", path.read_text())
    assert CONFIGS.parent / cli.parser().parse_args(command.split()).config == path
    assert "could not be checked here" in comment(path)
