"""`swlottery sweep` and `swlottery status` without Slurm. With it: tests/slurm/test_arrays.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lottery.runs import forked
from studies import write
from swlottery.cli import main
from swlottery.study import grid
from swlottery.study import states as states_of
from swlottery.study import sweep as sweeps
from swlottery.study.sweep import flags_of


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWLOTTERY_ROOT", str(tmp_path))
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points run in forked processes: these need not import torch, and draw nothing. The test of signals runs them as
    users do."""

    def train(point: str, log: Path, *_: Any) -> int:
        return forked(["train", "--point", point], log)

    monkeypatch.setattr(sweeps, "_train", train)
    monkeypatch.setattr("swlottery.commands.train._draw", lambda *_: [])


def states(root: Path) -> dict[str, str]:
    return {one.label: one.state for one in states_of.states(root / "runs" / "small")}


def test_points_run_in_turn_and_only_what_is_open_runs_again(
    root: Path, tiny_gpt2: Path, quick: None, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = root / "later.txt"
    arms = {"a": {}, "b": {"prune_rate": 0.3, "from_round_1": "a"}, "broken": {"data": str(missing)}}
    path = write(root, tiny_gpt2, arms)
    assert main(["sweep", str(path), "--local"]) == 1
    said = capfd.readouterr().out
    assert states(root) == {"a": "done", "b": "done", "broken": "failed"}
    assert "2 done, 1 failed" in said and "failed: broken: exit code 2: swlottery: " in said and str(missing) in said
    folder = root / "runs" / "small"
    assert len({path.parent for path in folder.glob("*/*/settings.json")}) == 2, "a refused point leaves nothing"
    (b,) = folder.glob("b/*/settings.json")
    assert json.loads((b.parent / "metrics.jsonl").read_text().splitlines()[0])["from_round_1"].startswith(
        str(folder / "a")
    )

    assert main(["status", str(folder)]) == 0
    shown = capfd.readouterr().out
    assert "broken: swlottery: " in shown and "3 points: 2 done, 1 failed" in shown
    assert main(["status", str(root / "runs")]) == 0
    assert f"study {folder}: 3 points: 2 done, 1 failed" in capfd.readouterr().out

    missing.write_text((root / "text.txt").read_text() + "more")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[ab]/*/rounds.csv")}
    assert main(["sweep", str(path), "--local"]) == 0
    said = capfd.readouterr().out
    assert "failed: broken: swlottery: " in said and "1 of 1: broken" in said
    assert set(states(root).values()) == {"done"}
    assert {path: path.stat().st_mtime_ns for path in folder.glob("[ab]/*/rounds.csv")} == before
    assert main(["sweep", str(path), "--local"]) == 0
    assert "nothing to run" in capfd.readouterr().out


def test_points_run_at_once_here_and_branches_behind_all_others(
    root: Path, tiny_gpt2: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {
        "a": {},
        "b": {"prune_rate": 0.3, "from_round_1": "a"},
        "c": {"seed": 1},
        "d": {"prune_rate": 0.4, "from_round_1": "a"},
    }
    both, train, order = threading.Barrier(2, timeout=60), sweeps._train, []

    def together(point: str, log: Path, *rest: Any) -> int:
        order.append(log.stem)
        both.wait()  # breaks where the other of a pair is not there at the same time
        return train(point, log, *rest)

    monkeypatch.setattr(sweeps, "_train", together)
    assert main(["sweep", str(write(root, tiny_gpt2, arms)), "--local", "--at-once", "2"]) == 0
    assert set(order[:2]) == {"a", "c"} and set(order[2:]) == {"b", "d"}
    assert set(states(root).values()) == {"done"}


def test_a_point_whose_settings_changed_is_a_new_one(root: Path, tiny_gpt2: Path, quick: None) -> None:
    assert main(["sweep", str(write(root, tiny_gpt2, {"a": {}})), "--local"]) == 0
    write(root, tiny_gpt2, {"a": {"seed": 5}})
    assert main(["sweep", str(root / "study.yaml"), "--local"]) == 0
    assert len(list((root / "runs" / "small" / "a").glob("*/settings.json"))) == 2
    assert states(root) == {"a": "done"}


def test_a_dry_run_prints_flags_and_does_nothing(
    root: Path, tiny_gpt2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(root, tiny_gpt2, {"a": {}, "b": {"one_shot": True, "from_round_1": "a"}}, follow=["0,1,2", "1,2,3"])
    assert main(["sweep", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("a: swlottery train --") and "--follow 0,1,2 --follow 1,2,3" in said[0]
    assert said[1].startswith("b   (branches from a): swlottery train") and "--one-shot" in said[1]
    assert f"--from-round-1 {root / 'runs' / 'small' / 'a'}" in said[1] and said[2] == "2 points; nothing was submitted"
    assert not (root / "runs").exists()


def test_flags_are_those_that_give_the_settings_back() -> None:
    from swlottery.cli import parser
    from swlottery.config import TrainSettings

    settings = {"model": "a b", "one_shot": True, "compile": False, "follow": ["1,2,3"], "lr": 1e-3, "revision": None}
    import shlex

    parsed = parser().parse_args(["train", *shlex.split(flags_of(settings))])
    assert (parsed.model, parsed.one_shot, parsed.follow, parsed.lr) == ("a b", True, ["1,2,3"], 1e-3)
    assert set(settings) <= set(TrainSettings.__dataclass_fields__)


def test_a_signal_stops_the_sweep_and_its_point_and_the_same_command_goes_on(root: Path, tiny_gpt2: Path) -> None:
    path = write(root, tiny_gpt2, {"a": {}, "b": {"seed": 1}}, steps=3000, eval_steps=100)
    command = [sys.executable, "-m", "swlottery.cli", "sweep", str(path), "--local"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "SWLOTTERY_ROOT": str(root)}, text=True
    )
    log = root / "runs" / "small" / "logs" / "a.out"
    until = time.monotonic() + 120
    while not (log.exists() and "  100  " in log.read_text()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped: the same command goes on from there" in out
    assert states(root) == {"a": "stopped", "b": "new"}


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ("missing.jsonl:0", "No such file"),
        ("points.jsonl:7", "no line 7"),
        ("points.jsonl", "SLURM_ARRAY_TASK_ID is not set"),
    ],
)
def test_a_point_that_is_not_there(
    named: str, complaint: str, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    (root / "points.jsonl").write_text('{"label": "a", "settings": {}}\n')
    assert main(["train", "--point", str(root / named)]) == 2
    assert complaint in capsys.readouterr().err


def test_points_of_an_earlier_version_are_known_again(tmp_path: Path) -> None:
    """Numbers of tokens were numbers, and 0 was the default."""
    old = {"data": "owner/set", "dtype": "float32", "data_tokens": 0, "steps": 7}
    assert states_of._identity(old) == states_of._identity({"data": "owner/set", "steps": 7})
    assert states_of._identity({**old, "data_tokens": 500}) == states_of._identity(
        {"data": "owner/set", "steps": 7, "data_tokens": "500"}
    )
    assert states_of._identity({**old, "data_tokens": "0"}) != states_of._identity({"data": "owner/set", "steps": 7}), (
        "all, by name"
    )
    (tmp_path / "points").mkdir()
    line = {"label": "a", "settings": {"data_tokens": 500, "steps": 7}}
    (tmp_path / "points" / "1.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "points" / "1.job").write_text("12\n")
    assert states_of._tasks(tmp_path, {"a": {"data_tokens": "500", "steps": 7}}) == {"a": "12_0"}


def test_a_percent_sign_in_a_path_is_no_pattern_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def submit(script: Path, arguments: list[str], options: list[str], folder: Path) -> str:
        given.extend(options)
        return "1"

    monkeypatch.setattr("swlottery.runtime.slurm.largest_array", lambda: 2)
    monkeypatch.setattr("swlottery.runtime.slurm.submit", submit)
    folder = tmp_path / "a%j b"
    assert list(sweeps.submit([grid.Point("a", {})], {}, folder, tmp_path / "func_train.sh")) == [("1", 1)]
    assert f"--output={tmp_path}/a%%j b/logs/%A_%a.out" in given


def test_arrays_follow_each_other_and_the_parents_in_the_queue(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arrays of two: three points from the start, three that branch, of which one is of a parent that runs already."""
    arms = {"a": {}, "b": {"seed": 1}, "c": {"seed": 2}, "d": {"seed": 3}}
    branches = {f"{arm}2": {**own, "prune_rate": 0.3, "from_round_1": arm} for arm, own in arms.items() if arm != "b"}
    given: list[list[str]] = []

    def submit(script: Path, arguments: list[str], options: list[str], folder: Path) -> str:
        assert (script, folder, arguments[0]) == (root / "func_train.sh", root, "--point")
        given.append(options)
        return str(100 + len(given))

    monkeypatch.setattr("swlottery.runtime.slurm.is_available", lambda: True)
    monkeypatch.setattr("swlottery.runtime.slurm.largest_array", lambda: 2)
    monkeypatch.setattr("swlottery.runtime.slurm.submit", submit)
    monkeypatch.setattr("swlottery.runtime.slurm.queued", lambda jobs: {"50_0": "RUNNING"} if "50" in set(jobs) else {})
    path = write(root, root / "model", arms | branches)
    assert main(["sweep", str(path)]) == 2 and "func_train.sh is missing" in capsys.readouterr().err
    (root / "func_train.sh").touch()
    assert main(["sweep", str(path), "--sbatch=--array=3"]) == 2 and "the sweep's own" in capsys.readouterr().err
    folder = root / "runs" / "small"
    (folder / "points").mkdir(parents=True)
    (folder / "points" / "1.job").write_text("50\n")
    point = grid.read(path, root).placed(root).points[0]
    (folder / "points" / "1.jsonl").write_text(json.dumps({"label": "a", "settings": point.settings}) + "\n")
    assert main(["sweep", str(path), "--at-once", "1", "--sbatch=--partition=gpu"]) == 0
    arrays = [next(option for option in options if option.startswith("--array")) for options in given]
    assert arrays == ["--array=0-1%1", "--array=0-0%1", "--array=0-1%1", "--array=0-0%1"]
    behind = [[option for option in options if option.startswith("--dependency")] for options in given]
    assert behind[0] == []
    assert behind[1] == ["--dependency=afterany:101"]
    assert behind[2] == ["--dependency=afterany:102:50"], "a2 branches from a, which runs in job 50"
    assert behind[3] == ["--dependency=afterany:103"]
    assert all(options[0] == "--partition=gpu" and "--job-name=small" in options for options in given)
    files = [path for path in sorted((folder / "points").glob("*.jsonl")) if path.stem != "1"]
    assert [path.with_suffix(".job").read_text() for path in files] == ["101\n", "102\n", "103\n", "104\n"]
    labels = [[json.loads(line)["label"] for line in path.read_text().splitlines()] for path in files]
    assert labels == [["b", "c"], ["d"], ["a2", "c2"], ["d2"]]
    said = capsys.readouterr().out
    assert "7 points: 1 running, 6 new" in said and "submitted 2 points as job 103" in said
