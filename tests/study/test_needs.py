"""The plan of experiments, configs/study/plan.yaml and plan-mini.yaml; and what a study will take, by --dry-run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from lottery.runs import events, table
from odd import TEXT, refused, run
from swlottery.config import TrainSettings
from swlottery.lottery.prune import prune_count
from swlottery.runtime import files, sums
from swlottery.study.grid import Study, read
from swlottery.study.needs import measured

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "configs" / "study"
PLAN = {  # arm: steps, rates, what differs, and what it branches from
    "A1": (3_000, ["0.1"] * 5, {}, ""),
    "A2": (3_000, ["0.2"] * 5, {}, "A1"),
    "B1": (10_000, ["0.1"] * 5, {}, ""),
    "B2": (10_000, ["0.2"] * 5, {}, "B1"),
    "C1": (10_000, ["0.1"] * 5, {"init": "xavier"}, ""),
    "C2": (10_000, ["0.2"] * 5, {"init": "xavier"}, "C1"),
    "D1": (10_000, ["0.05", "0.1", "0.15", "0.2"], {}, "B1"),
    "D2": (10_000, ["0.05", "0.1", "0.15", "0.2"], {"criterion": "layer-magnitude"}, "B1"),
    "F1": (20_000, ["0.2"] * 5, {"init": "xavier"}, ""),
    "G1": (10_000, ["0.15"] * 5, {}, "B1"),
    "H1": (10_000, ["0.1"] * 5, {"init": "xavier", "warmup": 1_000, "lr_schedule": "cosine"}, ""),
    "I1": (10_000, ["0.2"], {"prune_at_start": True}, ""),
    "J1": (50_000, ["0.1"] * 5, {}, ""),
    "M2": (50_000, ["0.2"] * 7, {"init": "xavier"}, ""),
    "R1": (1_000, ["0.2"] * 5, {}, ""),
    "R5": (5_000, ["0.2"] * 5, {}, ""),
    "R20": (20_000, ["0.2"] * 5, {}, ""),
    "C1z": (10_000, ["0.1"] * 5, {"init": "xavier-zero-gains"}, ""),
    "C2z": (10_000, ["0.2"] * 5, {"init": "xavier-zero-gains"}, "C1z"),
    "P-protect": (10_000, ["0.2"] * 5, {"protect": "sw"}, "B1"),
    "P-sw": (10_000, ["0.2"] * 5, {"force_prune": "sw"}, "B1"),
    "P-controls": (10_000, ["0.2"] * 5, {"force_prune": "controls"}, "B1"),
}
ARMS = {"init", "criterion", "lr_schedule", "prune_at_start", "protect", "force_prune", "warmup"}


@pytest.fixture(params=["plan", "plan-mini"])
def study(request: pytest.FixtureRequest) -> Study:
    return read(STUDIES / f"{request.param}.yaml", ROOT)


def test_the_plan_has_its_arms_at_every_seed(study: Study) -> None:
    mini = study.name == "plan-mini"
    seeds = range(1, 9 if mini else 4)
    assert [point.label for point in study.points] == [f"seed{seed}-{arm}" for arm in PLAN for seed in seeds]
    for point in study.points:
        own = TrainSettings(**point.settings)
        steps, rates, differs, parent = PLAN[point.arm]
        assert own.steps == steps / (50 if mini else 1) and [str(rate) for rate in own.rates()] == rates
        asked = differs | {"warmup": differs.get("warmup", 0) / (50 if mini else 1)}
        usual = vars(TrainSettings())
        assert {name: getattr(own, name) for name in ARMS} == {name: asked.get(name, usual[name]) for name in ARMS}
        assert point.parent == (f"{point.label.rpartition(point.arm)[0]}{parent}" if parent else None)
        assert own.seed == own.data_seed == int(point.label[4]) and own.eval_steps * 10 == own.steps
        assert own.scope == "all" and own.freeze_biases and own.start == "scratch"
        if not mini:
            assert own.micro_batch * own.grad_accum * own.context == 245_760 and own.vocabulary == 50_304
            assert own.coordinates() == [(2, 447, 666)] and own.data == "openwebtext"


def test_a_dry_run_lists_every_arm_and_seed_with_its_hours(
    study: Study, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    said = run("sweep", str(STUDIES / f"{study.name}.yaml"), "--dry-run", "--tokens-per-second", "400000")
    assert said.code == 0 and not (ROOT / "runs" / study.name).exists()
    lines = said.out.splitlines()
    seeds = len(study.points) // len(PLAN)
    for point, line in zip(study.points, lines, strict=False):
        branch = f"   (branches from {point.parent})" if point.parent else ""
        assert line.startswith(f"{point.label}{branch}: swlottery train --")
    rows = [re.split(r" {2,}", line) for line in lines[len(study.points) + 2 :]]
    in_all = rows[len(PLAN)]
    for row, (arm, (steps, rates, differs, parent)) in zip(rows, PLAN.items(), strict=False):
        trainings = len(rates) + (not parent) - ("prune_at_start" in differs)
        steps = steps * trainings // (50 if study.name == "plan-mini" else 1)
        hours = seeds * steps * (2_048 if study.name == "plan-mini" else 245_760) / 400_000 / 3600
        counts = [f"{number:,}" for number in (seeds, seeds * trainings, seeds * steps)]
        assert row[: 4 + bool(parent)] == [arm, *([parent] if parent else []), *counts]
        assert f"{hours:,.{1 if hours >= 1 else 3}f}" in row
    assert in_all[:2] == ["in all", str(len(study.points))]
    if study.name == "plan":
        assert "1.25T" in in_all and "864.8" in in_all  # 5,067,000 steps of 245,760 tokens
    assert "one process without any: 400,000 (--tokens-per-second)" in said.out
    assert lines[-1] == f"{len(study.points)} points; nothing was submitted"


@pytest.fixture
def small(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plan with a model of its shape made small: one seed, two steps a round, the first prune alone."""
    monkeypatch.setattr("swlottery.commands.train._draw", lambda *_: [])
    (here / "t.txt").write_text(TEXT)
    content = yaml.safe_load((STUDIES / "plan.yaml").read_text())
    changes = {"model": "gpt2-mini", "vocabulary": 300, "data": str(here / "t.txt"), "data_tokens": "auto"}
    changes |= {"context": 32, "micro_batch": 2, "grad_accum": 1, "eval_sequences": 2, "follow": ["2,47,66"]}
    changes |= {"threads": 1, "device": "cpu", "dtype": "float32", "compile": False}
    for own in content["arms"].values():
        own |= {"data_seed": own.get("steps", 10_000), "rounds": 1}  # no two arms the same
        own |= {"steps": 2, "eval_steps": 2} | ({"schedule": "0.05"} if "schedule" in own else {})
    content |= {"name": "small", "config": str(ROOT / content["config"]), "settings": changes, "grid": {"seed": [1]}}
    (here / "small.yaml").write_text(yaml.safe_dump(content))
    return here / "small.yaml"


@pytest.mark.slow
def test_the_first_two_steps_of_every_arm_run_on_a_cpu(small: Path) -> None:
    """By the lines that the dry run prints, those first that branch from nothing."""
    commands = [line for line in run("sweep", str(small), "--dry-run").out.splitlines() if ": swlottery " in line]
    folder = small.parent / "runs" / "small"
    for command in sorted(commands, key=lambda line: "(branches from " in line):
        said = run(*shlex.split(command.partition(": swlottery ")[2]))
        arm = command.split()[0].removeprefix("seed1-").rstrip(":")
        assert said.code == 0, (arm, said)
        _, rates, differs, parent = PLAN[arm]
        (history,) = folder.glob(f"seed1-{arm}/*/metrics.jsonl")
        rows, at_start = table(history.parent, "rounds.csv"), "prune_at_start" in differs
        assert len(rows) == 2 - at_start
        total, pruned, left = (int(rows[-1][name]) for name in ("total", "pruned", "remaining"))
        assert (pruned, left) == (prune_count(total, rates[0]), total - pruned)
        assert bool(events(history.parent, "start")[0]["from_round_1"]) == bool(parent)
        assert (
            min(event["round"] for event in events(history.parent, "evaluation") if event["step"] == 0) > 1
        ) == bool(parent)
        zero_gains = differs.get("init") == "xavier-zero-gains"
        assert ("all norms' gains start at zero (--init xavier-zero-gains)" in said.out) == zero_gains

    said = run("sweep", str(small), "--dry-run")
    ((pace, how),) = measured(folder).values()
    assert how == "22 of its runs, CPU (threads: 1)" and f"{pace:,.0f} (gpt2-mini: the median of {how})" in said.out
    in_all = next(re.split(r" {2,}", line) for line in said.out.splitlines() if line.startswith("in all"))
    stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert float(in_all[-2].removesuffix(" GB")) == pytest.approx(stored / 1e9, rel=0.1)


def test_a_rate_is_measured_by_task_and_by_device_and_only_on_sound_files(tmp_path: Path) -> None:
    def made(name: str, pace: float | None, tasks: int, gpu: str, **settings: Any) -> None:
        folder = tmp_path / name / "run"
        folder.mkdir(parents=True)
        files.write_json(folder / "settings.json", {"model": "gpt2", "context": 1024, **settings})
        here = {"gpu": {"name": gpu} if gpu else None, "threads": 2, "tasks": tasks}
        files.write_json(folder / "environment.json", sums.sealed(here))
        files.write_json(folder / "status.json", sums.sealed({"state": "running", "tokens_per_second": pace}))

    for name, pace, tasks in (("a", 100.0, 1), ("b", 240.0, 2), ("c", 140.0, 1)):
        made(name, pace, tasks, "H100")
    made("d", 9e9, 1, "H200")
    made("e", None, 1, "H100")
    made("f", 7.0, 1, "", context=64)
    (tmp_path / "g" / "run").mkdir(parents=True)
    (tmp_path / "g" / "run" / "status.json").write_text("{")
    paces = measured(tmp_path)
    assert paces["gpt2", 1024] == (120.0, "3 of its runs, H100")
    assert paces["gpt2", 64] == (7.0, "1 of its runs, CPU (threads: 2)")
    assert measured(tmp_path / "nowhere") == {}


def test_what_is_not_known_is_said_and_nothing_is_fetched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("a dry run asks no network")

    monkeypatch.setattr("transformers.utils.hub.cached_file", fetch)
    monkeypatch.setattr("swlottery.data.tokenizer.builtin_text", fetch)
    arms = {"hub": {"model": "owner/model"}, "long": {"model": "owner/model", "context": 512}}
    arms |= {
        "gpt2": {"start": "scratch", "model": "gpt2", "rewind_step": 1},
        "mini": {"start": "scratch", "model": "gpt2-mini"},
        "branch": {"start": "scratch", "model": "gpt2-mini", "from_round_1": "runs/x", "prune_rate": "0.3"},
    }
    (here / "s.yaml").write_text(json.dumps({"settings": {"steps": 10, "rounds": 1}, "arms": arms}))
    said = run("sweep", "s.yaml", "--dry-run")
    rows = {line.split()[0]: line.split()[2:] for line in said.out.splitlines()[7:12]}
    assert said.code == 0 and "tokens a second of one GPU, or of one process without any: not known" in said.out
    assert rows["hub"][:5] == ["2", "20", "—", "—", "—"] and rows["long"][1:4] == ["20", "81.9K", "—"]
    assert rows["gpt2"][1:3] == ["19", "156K"] and rows["gpt2"][4:6] == ["1.83", "GB"]
    assert rows["mini"][1] == "20" and rows["branch"][:2] == ["1", "10"] and rows["branch"][4:] == rows["mini"][4:]


def test_a_branch_from_another_first_training_is_refused_before_any_runs(here: Path) -> None:
    for changed in ({"steps": 9}, {"prune_at_start": True}, {"init": "xavier"}):
        arms = {"a": {}, "b": {"prune_rate": "0.1", "from_round_1": "a", **changed}}
        content = {"settings": {"start": "scratch", "model": "gpt2-mini"}, "arms": arms}
        (here / "s.yaml").write_text(json.dumps(content))
        refused(run("sweep", "s.yaml", "--dry-run"), "b branches from a, and has another", next(iter(changed)))
    content["arms"] = {"a": {"prune_at_start": True}, "b": {"from_round_1": "a"}}
    (here / "s.yaml").write_text(json.dumps(content))
    refused(run("sweep", "s.yaml", "--local"), "b branches from a, and has another prune_at_start")
    refused(
        run("sweep", "s.yaml", "--tokens-per-second", "5"), "--tokens-per-second 5.0 changes nothing without --dry-run"
    )
    assert not (here / "runs").exists()
