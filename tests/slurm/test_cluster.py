"""The test cluster itself: jobs start soon, also again after a requeue, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cluster import Cluster, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def test_a_requeued_job_starts_again_soon(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text('#!/bin/bash\necho start $SLURM_RESTART_COUNT; test -n "$SLURM_RESTART_COUNT" || sleep 300\n')
    job = cluster.submit("--open-mode=append", "--output=log", "--requeue", str(script), cwd=tmp_path)
    cluster.wait(job, {"RUNNING"})
    cluster.run("scontrol", "requeue", job)
    began = time.monotonic()
    assert cluster.wait(job, {"COMPLETED"}, seconds=60)["Restarts"] == "1"
    assert time.monotonic() - began < 40
    assert "start 1" in (tmp_path / "log").read_text()


def test_several_tasks_run_under_srun(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit("--ntasks=2", "--output=log", "--wrap", "srun bash -c 'echo rank $SLURM_PROCID'", cwd=tmp_path)
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert sorted((tmp_path / "log").read_text().split("\n")) == ["", "rank 0", "rank 1"]


def test_nothing_is_left_running(tmp_path: Path) -> None:
    """A second cluster beside the first, stopped with a job that ignores SIGTERM; both have ports of their own."""
    with tempfile.TemporaryDirectory(prefix="swlottery-slurm-") as folder:
        own = Cluster(Path(folder))
        with own:
            job = own.submit("--output=log", "--wrap", "trap '' TERM; sleep 300 & sleep 300", cwd=tmp_path)
            own.wait(job, {"RUNNING"})
            assert len(own.processes()) > 3
        assert own.processes() == []


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cluster import Cluster
with Cluster(Path(sys.argv[2])):
    print("up", flush=True)
    time.sleep(300)
"""


def test_a_killed_test_run_leaves_no_daemon() -> None:
    with tempfile.TemporaryDirectory(prefix="swlottery-slurm-") as folder:
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "up\n"
            os.kill(run.pid, signal.SIGKILL)
        end = time.monotonic() + 20
        while Cluster(Path(folder)).processes() and time.monotonic() < end:
            time.sleep(0.1)
        assert Cluster(Path(folder)).processes() == []
