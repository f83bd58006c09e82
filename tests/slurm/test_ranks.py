"""Several tasks of one job under srun: they train one network, and a lost one ends the job by name.

What ranks do among themselves: tests/lottery/test_ranks.py.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, missing

from both_scripts import TRAIN, at_terminal
from lottery.runs import events, only_run
from swlottery.cli import main

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Environment = dict[str, str]
TrainFlags = Callable[..., list[str]]


def test_two_tasks_train_as_one_does_and_stop_together(
    cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    """The one is no job, and runs in this process."""
    common = {"grad_accum": 2, "rounds": 1, "steps": 20, "eval_steps": 10, "lr": 1e-3, "rank_timeout": 60}
    runs = [script_root / name for name in ("alone", "together")]
    assert main(["train", *train_flags(**common, runs=runs[0], plots=script_root / "plots")]) == 0
    flags = train_flags(**common, runs=runs[1])
    job = cluster.submit("--ntasks=2", "func_train.sh", *flags, cwd=script_root, env=script_environment)
    shown = cluster.wait(job, seconds=240)
    text = TRAIN.log_of(script_root, job).read_text()
    assert (shown["JobState"], shown["NumTasks"]) == ("COMPLETED", "2"), text
    ((alone,), (together,)) = (folder.iterdir() for folder in runs)
    one, two = (events(run, "evaluation") for run in (alone, together))
    assert len(one) == len(two) == 6
    assert max(abs(a["val_loss"] - b["val_loss"]) for a, b in zip(one, two, strict=True)) < 1e-5
    assert (together / "environment.json").read_text().count('"tasks": 2') == 1
    assert text.count("What became of the tracked weights") == 1  # one task writes


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)], ids=["killed", "stopped"]
)
def test_a_lost_task_ends_the_job_by_name(
    how: signal.Signals, cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    flags = train_flags(grad_accum=2, steps=100_000, eval_steps=20, rank_timeout=10)
    job = cluster.submit("--ntasks=2", "func_train.sh", *flags, cwd=script_root, env=script_environment)
    log = TRAIN.log_of(script_root, job)
    cluster.wait_for("an evaluation", lambda: log.exists() and re.search(r"^ +20 ", log.read_text(), re.M), 120)
    lost = cluster.task(job, 1)
    os.kill(lost, how)
    begun = time.monotonic()
    shown = cluster.wait(job, seconds=120)
    took = time.monotonic() - begun
    text = log.read_text()
    assert shown["JobState"] == "FAILED" and shown["Restarts"] == "0", text
    assert took < 10 + 30 + 5 + 20, f"{took:.0f} s: more than the timeout, srun's half minute, and KillWait"
    (line,) = re.findall(r"^swlottery: (rank 1 .*)$", text, re.MULTILINE)
    assert line.startswith(f"rank 1 (process {lost} on ") and "gives no sign of life since" in line
    assert "Failed\n------\n" in text or how == signal.SIGSTOP
    assert not [
        pid
        for pid in cluster.processes()
        if f"SLURM_JOB_ID={job}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    only_run(script_root)


def test_in_a_shell_on_a_terminal_there_is_one_task(
    cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    """srun starts four shells there, of which three have no terminal, nothing to read, and end at once."""
    flags = train_flags(rounds=1, super_weights="none")
    inside = ["bash", "-c", 'if [ -t 0 ]; then bash "$@"; fi', "bash", str(script_root / TRAIN.file), *flags]
    shown, code = at_terminal(["srun", "-n4", "--pty", *inside], cluster.environment(script_environment))
    assert code == 0, shown
    assert '"tasks": 1' in (only_run(script_root) / "environment.json").read_text()


def test_tasks_by_hand_without_a_place_to_meet_are_one_line(
    cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    """Also in such a shell, whose variables they inherit."""
    flags = shlex.join([sys.executable, "-m", "swlottery.cli", "train", *train_flags()])
    env = cluster.environment(script_environment) | {"PYTHONPATH": str(script_root / "src")}
    for command in (f"srun -n2 {flags}", f"srun -n2 --pty bash -c '# no exec\nsrun --overlap -n2 {flags}'"):
        shown, code = at_terminal(["bash", "-c", command.replace("\\n", "\n")], env)
        assert code == 2, shown
        assert shown.count("swlottery: 2 tasks, and MASTER_ADDR does not say where they meet") == 1, shown
