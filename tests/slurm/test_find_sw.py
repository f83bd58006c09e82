"""`sbatch find_sw.sh` on a real Slurm, with the real program. What holds for both scripts: test_jobs.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, missing

from both_scripts import hide_modules

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

LOGS = "super_weights/src/slurm_sw_out"


def test_the_log_of_a_real_search_holds_its_verdict(
    cluster: Cluster, script_root: Path, script_environment: dict[str, str], find_flags: Callable[[Path], list[str]]
) -> None:
    record = script_root / "super_weights" / "tiny.json"
    hide_modules(script_root)  # the folder of the job
    job = cluster.submit("find_sw.sh", *find_flags(record), cwd=script_root, env=script_environment)
    shown = cluster.wait(job, seconds=240)
    log = script_root / LOGS / f"checkmodel_{job}.out"
    text = log.read_text()
    assert shown["JobState"] == "COMPLETED", text
    assert shown["StdOut"] == str(log)
    assert "Verdicts" in text
    assert "leader" in text  # nothing is super in a network that was never trained
    assert text.splitlines()[-2:] == [f"find_sw: log {log}", "find_sw: exit code 0"]
    assert "\r" not in text  # no progress bar
    assert json.loads(record.read_text())["schema"] == 2
