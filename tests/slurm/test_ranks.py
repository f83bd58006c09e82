"""Several tasks of one job under srun: they train one network, and a lost one ends the job by name.

What ranks do among themselves: tests/lottery/test_ranks.py.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, missing

from both_scripts import TRAIN
from lottery.runs import events, only_run

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Environment = dict[str, str]
TrainFlags = Callable[..., list[str]]


def test_two_tasks_train_as_one_does_and_stop_together(
    cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    common = {"grad_accum": 2, "rounds": 1, "steps": 50, "eval_steps": 10, "lr": 1e-3, "rank_timeout": 60}
    found = {}
    for tasks in (1, 2):
        runs = script_root / f"runs{tasks}"
        flags = train_flags(**common, runs=runs)
        job = cluster.submit(f"--ntasks={tasks}", "func_train.sh", *flags, cwd=script_root, env=script_environment)
        shown = cluster.wait(job, seconds=240)
        assert (shown["JobState"], shown["NumTasks"]) == ("COMPLETED", str(tasks)), TRAIN.log_of(
            script_root, job
        ).read_text()
        (found[tasks],) = runs.iterdir()
    one, two = (events(found[n], "evaluation") for n in (1, 2))
    assert len(one) == len(two) == 12
    assert max(abs(a["val_loss"] - b["val_loss"]) for a, b in zip(one, two, strict=True)) < 1e-5
    assert (found[2] / "environment.json").read_text().count('"tasks": 2') == 1
    text = TRAIN.log_of(script_root, job).read_text()
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
