"""`swlottery sweep` and `swlottery status` without Slurm. With it: tests/slurm/test_arrays.py."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from both_scripts import hide_modules, make_environment
from lottery.runs import forked
from studies import write
from swlottery.cli import main
from swlottery.runtime import child, files, provenance, slurm
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


@pytest.mark.parametrize(
    ("listed", "expected"),
    [("abc", "a1 a2 b1 b2 c1 c2"), ("bac", "a1 b1 a2 b2 c1 c2"), ("cba", "c1 c2 a1 b1 a2 b2")],
)
def test_one_arm_is_run_after_the_other_here(
    listed: str, expected: str, root: Path, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All seeds of an arm before those of the next in the study; a branch waits for its parent."""
    arms = {"a": {}, "b": {"prune_rate": 0.3, "from_round_1": "a"}, "c": {"prune_rate": 0.4}}
    order: list[str] = []
    monkeypatch.setattr(sweeps, "_train", lambda point, log, *rest: order.append(log.stem) or 0)
    path = write(root, tiny_gpt2, {name: arms[name] for name in listed})
    path.write_text(path.read_text() + "\ngrid: {seed: [1, 2]}\n")
    assert main(["sweep", str(path), "--local"]) == 0
    assert order == [f"seed{name[1]}-{name[0]}" for name in expected.split()]


def test_a_sweep_that_goes_on_keeps_to_the_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first seed has only its last arm left; the others have an earlier one."""
    path, order = tmp_path / "study.yaml", list[str]()
    path.write_text("settings: {steps: 9}\ngrid: {seed: [1, 2, 3]}\narms: {a: {}, b: {lr: 0.1}, c: {lr: 0.2}}\n")
    study = grid.read(path, tmp_path)
    sweeps.write_study(tmp_path, study)

    def train(point: str, log: Path, *rest: Any) -> int:
        order.append(log.stem)
        return 0

    monkeypatch.setattr(sweeps, "_train", train)
    left = [point for point in study.points if point.arm != "a" and point.label != "seed1-b"]
    assert sweeps.run_here(left, tmp_path, tmp_path, tmp_path, {}, lambda *_: None, lambda *_: None) == [0] * 5
    assert order == ["seed2-b", "seed3-b", "seed1-c", "seed2-c", "seed3-c"]


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
    assert (
        f"--from-round-1 {root / 'runs' / 'small' / 'a'}" in said[1] and said[-1] == "2 points; nothing was submitted"
    )
    assert not (root / "runs").exists()


def test_flags_are_those_that_give_the_settings_back() -> None:
    from swlottery.cli import parser
    from swlottery.config import TrainSettings

    settings = {"model": "a b", "one_shot": True, "compile": False, "follow": ["1,2,3"], "lr": 1e-3, "revision": None}
    parsed = parser().parse_args(["train", *shlex.split(flags_of(settings))])
    assert (parsed.model, parsed.one_shot, parsed.follow, parsed.lr) == ("a b", True, ["1,2,3"], 1e-3)
    assert set(settings) <= set(TrainSettings.__dataclass_fields__)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_sweep_and_its_point_and_the_same_command_goes_on(
    number: int, root: Path, tiny_gpt2: Path
) -> None:
    path = write(root, tiny_gpt2, {"a": {}, "b": {"seed": 1}}, steps=3000, eval_steps=100)
    command = [sys.executable, "-m", "swlottery.cli", "sweep", str(path), "--local"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env={**os.environ, "SWLOTTERY_ROOT": str(root)},
        text=True,
        start_new_session=True,
    )
    log = root / "runs" / "small" / "logs" / "a.out"
    until = time.monotonic() + 120
    while not (log.exists() and "  100  " in log.read_text()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    if number == signal.SIGHUP:
        os.killpg(process.pid, number)  # a terminal that closes tells the points too
    else:
        process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75 and "stopped: the same command goes on from there" in out
    assert states(root) == {"a": "stopped", "b": "new"}
    assert log.read_text().splitlines()[-1].startswith("stopped after")


def test_a_point_that_ends_before_it_can_save_is_stopped_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/sleep")
    monkeypatch.setattr(child, "command", lambda *_: [sys.executable, "60"])
    assert sweeps._train("points:0", root / "log", root, lambda: True, provenance.PACKAGE) == 75


def test_a_point_gets_neither_the_current_folder_nor_a_jobs_variables(
    root: Path, tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "here").mkdir()
    hide_modules(root / "here")
    monkeypatch.chdir(root / "here")
    monkeypatch.setenv("PYTHONPATH", f":{os.environ.get('PYTHONPATH', '')}:.")
    monkeypatch.setattr(sys, "executable", f"{make_environment(tmp_path / 'old')['SWLOTTERY_VENV']}/bin/python3")
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "SLURM_CPUS_PER_TASK": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(["sweep", str(write(root, tiny_gpt2, {"a": {}}, threads=0)), "--local"]) == 0, [
        log.read_text() for log in root.glob("runs/small/logs/*")
    ]
    assert states(root) == {"a": "done"}
    (stored,) = root.glob("runs/small/a/*/environment.json")
    assert (json.loads(stored.read_text())["tasks"], json.loads(stored.read_text())["threads"]) == (1, 2)


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
    (folder / "points").mkdir(parents=True)
    assert list(sweeps.submit([grid.Point("a", {})], {}, folder, tmp_path, tmp_path, {})) == [("1", 1)]
    assert f"--output={tmp_path}/a%%j b/logs/%A_%a.out" in given


def test_arrays_follow_each_other_and_the_parents_in_the_queue(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arrays of two: three points from the start, three that branch, of which one is of a parent that runs already."""
    arms = {"a": {}, "b": {"seed": 1}, "c": {"seed": 2}, "d": {"seed": 3}}
    branches = {f"{arm}2": {**own, "prune_rate": 0.3, "from_round_1": arm} for arm, own in arms.items() if arm != "b"}
    given: list[list[str]] = []

    def submit(script: Path, arguments: list[str], options: list[str], folder: Path) -> str:
        points = Path(arguments[1])
        assert (script, folder, arguments[0]) == (points.with_suffix(".sh"), root, "--point")
        assert (
            f"\nswlottery_code={points.parents[1] / '.code'} swlottery_python={sys.executable} " in script.read_text()
        )
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


STUB = "def main():\n    print('{said}', __file__)\n"


@pytest.fixture
def stub(root: Path) -> Path:
    """The file of a program, in ``root``, that trains nothing, and so leaves its points open."""
    package = root / "src" / "swlottery"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STUB.format(said="first"))
    return package / "cli.py"


def test_points_run_the_code_that_was_frozen(root: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, folder = str(write(root, root / "model", {"a": {}})), root / "runs" / "small"
    log, frozen = folder / "logs" / "a.out", folder / ".code" / "src" / "swlottery" / "cli.py"
    assert main(["sweep", study, "--local"]) == 0
    assert log.read_text() == f"first {frozen}\n" and "code: frozen copy of " in capsys.readouterr().out
    assert json.loads((folder / "points" / "1.json").read_text())["live"] is False
    assert main(["sweep", study, "--local"]) == 0

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stub.write_text(STUB.format(said="second"))
    write(root, root / "model", {"a": {}, "b": {"seed": 1}})
    assert main(["sweep", study, "--local"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--live" in line and "another name" in line and f"PYTHONPATH={folder / '.code' / 'src'}" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    assert main(["sweep", study, "--local", "--live"]) == 0
    assert log.read_text().splitlines()[-1] == f"second {stub}"
    assert json.loads((folder / "points" / "3.json").read_text())["live"] is True
    stub.write_text(STUB.format(said="first"))
    assert main(["sweep", study, "--local"]) == 0
    assert log.read_text().splitlines()[-1] == f"first {frozen}"


def test_git_is_asked_once_which_code_it_is(root: Path, stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, git = list[str](), provenance._git

    def seen(place: Path, *arguments: str) -> bytes:
        asked.append(arguments[0])
        return git(place, *arguments)

    monkeypatch.setattr(provenance, "_git", seen)
    study = str(write(root, root / "model", {"a": {}}))
    for more, times in ([], 1), (["--live"], 1), ([], 0):
        asked.clear()
        assert main(["sweep", study, "--local", *more]) == 0
        assert asked.count("rev-parse") == times, more


def test_the_way_out_can_be_given_to_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "two words"
    monkeypatch.setenv("SWLOTTERY_ROOT", str(root))
    package, frozen = root / "src" / "swlottery", root / "runs" / "small" / ".code"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STUB.format(said="first"))
    study = str(write(root, root / "model", {"a": {}}))
    assert main(["sweep", study, "--local"]) == 0
    (package / "cli.py").write_text(STUB.format(said="second"))
    assert main(["sweep", study, "--local"]) == 2
    said = shlex.split(capsys.readouterr().err)
    assert f"PYTHONPATH={frozen / 'src'}" in said and sys.executable in said
    assert said[said.index("rm") : said.index("rm") + 3] == ["rm", "-r", str(frozen)]
    shutil.rmtree(frozen)
    assert main(["sweep", study, "--local"]) == 0
    assert (root / "runs" / "small" / "logs" / "a.out").read_text().splitlines()[-1].startswith("second")


def test_a_frozen_copy_that_was_edited_is_refused(root: Path, stub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = str(write(root, root / "model", {"a": {}}))
    assert main(["sweep", study, "--local"]) == 0
    (root / "runs" / "small" / ".code" / "src" / "swlottery" / "cli.py").write_text(STUB.format(said="other"))
    assert main(["sweep", study, "--local"]) == 2
    assert "was edited" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_frozen_code(root: Path, tiny_gpt2: Path) -> None:
    """As the line says that refuses other code. The program is the real one; the point runs that too."""
    package = root / "src" / "swlottery"
    shutil.copytree(provenance.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    arms: dict[str, Any] = {"a": {"data": str(root / "later.txt")}}
    study = str(write(root, tiny_gpt2, arms))
    assert main(["sweep", study, "--local"]) == 1
    (package / "commands" / "train.py").write_text("raise SystemExit('edited')")
    (root / "later.txt").write_text((root / "text.txt").read_text() + "more")
    assert main(["sweep", study, "--local"]) == 2
    frozen = root / "runs" / "small" / ".code" / "src"
    command = [sys.executable, "-m", "swlottery.cli", "sweep", study, "--local"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(frozen)}, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert states(root) == {"a": "done"}
    log = (root / "runs" / "small" / "logs" / "a.out").read_text()
    assert "\ncode: frozen copy of " in log


def test_a_frozen_job_never_makes_an_environment(stub_root: Path, script_environment: dict[str, str]) -> None:
    """It takes that of whoever submitted it, or none: the files that say what belongs in one may have changed."""
    place = stub_root / "runs" / "small" / ".code"
    provenance.freeze(stub_root / "src" / "swlottery", place)
    script = sweeps._frozen_script(stub_root / "1.jsonl", place).rename(stub_root / "runs" / "1.sh")
    script.write_text(script.read_text().replace(sys.executable, str(stub_root / "bin" / "python3")))
    (stub_root / "pyproject.toml").unlink()
    job = script_environment | {"SLURM_JOB_ID": "1"}
    done = subprocess.run(["bash", str(script)], cwd=stub_root, env=job, capture_output=True, text=True)
    assert done.returncode == 2 and "is gone: start the same sweep again" in done.stderr, done


def test_a_study_that_is_done_is_not_refused(
    root: Path, stub: Path, tiny_gpt2: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    study = str(write(root, tiny_gpt2, {"a": {}}))
    assert main(["sweep", study, "--local"]) == 0
    stub.write_text(STUB.format(said="second"))
    assert main(["sweep", study, "--local"]) == 0
    assert "nothing to run" in capsys.readouterr().out


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make a program of Slurm that runs these lines of shell."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def write_program(name: str, lines: str) -> None:
        (tools / name).write_text(f"#!/bin/bash\n{lines}\n", encoding="latin-1")
        (tools / name).chmod(0o755)

    write_program("scontrol", "echo 'Slurm is upgraded on Monday'; echo 'MaxArraySize            = 1001'")
    write_program("squeue", "echo 'Welcome to the cluster'")
    return write_program


@pytest.mark.parametrize(
    "said",
    [
        "123",
        "'Quota 7 %' 123",
        "'café 12' 'job 9' '' 123 '3 jobs are yours' '1 2'",
        "'123;siblings'",
        "'  123;siblings  ' 'sbatch: 5;'",
    ],
)
def test_the_jobs_number_is_found_among_what_a_site_prints(
    said: str, root: Path, program: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    program("sbatch", f"printf '%s\\n' {said}")
    (root / "func_train.sh").touch()
    path = str(write(root, root / "model", {"a": {}}))
    assert main(["sweep", path]) == 0
    assert "submitted 1 point as job 123;" in capsys.readouterr().out
    (job,) = root.glob("runs/small/points/*.job")
    assert job.read_text() == "123\n"
    program("squeue", "printf '%s\\n' 'Slow today: 3' '123 0 PENDING' '7 N/A RUNNING'")
    assert main(["sweep", path]) == 0, "not submitted again"
    assert "nothing to run" in capsys.readouterr().out


def test_a_disk_that_is_full_when_the_jobs_number_is_kept(
    root: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> None:
        if ".job" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    program("sbatch", "echo 123")
    (root / "func_train.sh").touch()
    path = str(write(root, root / "model", {"a": {}}))
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync", full)
        assert main(["sweep", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1.job (No space left on device)" in line
    assert [file.name for file in (root / "runs" / "small" / "points").glob("*.j*")] == ["1.jsonl", "1.json"]
    assert main(["sweep", path]) == 0, "no half of a number is in its way"


@pytest.mark.parametrize("said", ["'Quota 7 %' 'no number'", "''", "12 123", "'Submitted batch job'"])
def test_without_one_number_the_sweep_says_what_sbatch_said(
    said: str, root: Path, program: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    program("sbatch", f"printf '%s\\n' {said}")
    (root / "func_train.sh").touch()
    assert main(["sweep", str(write(root, root / "model", {"a": {}}))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said.replace("'", "") in line and "may have submitted the job all the same" in line and "squeue" in line
    assert not list(root.glob("runs/small/points/*.job"))


def test_a_slurm_that_does_not_answer(
    root: Path,
    program: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE", 0.5)
    (root / "func_train.sh").touch()
    path = str(write(root, root / "model", {"a": {}}))
    program("sbatch", "exec sleep 9")
    assert main(["sweep", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sbatch did not answer within 0.5 s: it may have submitted the job all the same" in line
    program("sbatch", "echo 5")
    assert main(["sweep", path]) == 0
    program("squeue", "exec sleep 9")
    capsys.readouterr()
    assert main(["status", str(root / "runs" / "small")]) == 2
    assert "squeue did not answer within 0.5 s: try again later" in capsys.readouterr().err


def test_a_job_gets_nothing_of_the_job_that_submits_it(
    root: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_a_job = (
        "SLURM_CPU_BIND SLURM_MEM_PER_NODE SLURM_NTASKS SLURM_JOB_ID SLURM_CONFLICT SLURMD_NODENAME SRUN_CPUS_PER_TASK "
        "PMI_RANK PMIX_RANK MASTER_ADDR MASTER_PORT RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK "
        "TORCHELASTIC_RUN_ID SWLOTTERY_BATCH_JOB SQUEUE_STATES"
    )
    of_the_user = "SLURM_CONF SLURM_JWT SLURM_CLUSTERS SBATCH_PARTITION SBATCH_MEM_BIND SWLOTTERY_REQUEUES RANKS"
    for name in f"{of_a_job} {of_the_user}".split():
        monkeypatch.setenv(name, "1")
    program("sbatch", f"compgen -e >{root / 'variables'}; echo 1")
    (root / "func_train.sh").touch()
    assert main(["sweep", str(write(root, root / "model", {"a": {}}))]) == 0
    got = set((root / "variables").read_text().split())
    assert not got & set(of_a_job.split()) and got >= set(of_the_user.split())
