"""`sbatch find_sw.sh` on a real Slurm: where the log is, what it ends with, and what a wrong folder looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

LOGS = "super_weights/src/slurm_sw_out"


def test_the_log_of_a_real_search_holds_its_verdict(
    cluster: Cluster, script_root: Path, script_environment: dict[str, str], find_flags: Callable[[Path], list[str]]
) -> None:
    record = script_root / "super_weights" / "tiny.json"
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
    assert json.loads(record.read_text())["schema"] == 1


def test_flags_pass_and_the_exit_code_is_the_programs(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str]
) -> None:
    prompt = 'Apple Inc. is a $HOME "company" *'
    job = cluster.submit("find_sw.sh", "--prompt", prompt, "--bad", cwd=stub_root, env=script_environment)
    assert cluster.wait(job)["ExitCode"] == "2:0"
    lines = (stub_root / LOGS / f"checkmodel_{job}.out").read_text().splitlines()
    assert lines[0] == f"flags {['find', '--prompt', prompt, '--bad']} in {stub_root}"
    assert lines[1] == "swlottery: no flag --bad"
    assert lines[-1] == "find_sw: exit code 2"


def test_from_elsewhere_with_chdir(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str], tmp_path: Path
) -> None:
    script = str(stub_root / "find_sw.sh")
    job = cluster.submit("-D", str(stub_root), script, cwd=tmp_path, env=script_environment)
    shown = cluster.wait(job)
    log = stub_root / LOGS / f"checkmodel_{job}.out"
    assert (shown["JobState"], shown["StdOut"]) == ("COMPLETED", str(log))
    assert log.read_text().endswith("find_sw: exit code 0\n")


def test_output_elsewhere(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "other.log"
    job = cluster.submit(f"--output={log}", "find_sw.sh", cwd=stub_root, env=script_environment)
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert f"find_sw: log {log}\n" in log.read_text()


def test_from_a_wrong_folder_slurm_cannot_open_the_log(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str], tmp_path: Path
) -> None:
    """No line of ours has run then. As documented beside the logs: scontrol tells, by its reason and the log's path."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    job = cluster.submit(str(stub_root / "find_sw.sh"), cwd=wrong, env=script_environment)
    shown = cluster.wait(job)
    assert (shown["JobState"], shown["Reason"], shown["ExitCode"]) == ("FAILED", "JobLaunchFailure", "0:53")
    assert shown["StdOut"] == f"{wrong}/{LOGS}/checkmodel_{job}.out"
    assert list(wrong.iterdir()) == []


def test_from_a_wrong_folder_where_the_log_can_be_opened(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / LOGS).mkdir(parents=True)
    job = cluster.submit(str(stub_root / "find_sw.sh"), cwd=tmp_path, env=script_environment)
    assert cluster.wait(job)["ExitCode"] == "2:0"
    said, last = (tmp_path / LOGS / f"checkmodel_{job}.out").read_text().splitlines()
    assert f"{tmp_path} is not the root of the swlottery repository" in said
    assert "sbatch -D" in said
    assert last == "find_sw: exit code 2"


def test_a_cancelled_job_says_so_in_its_log(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str]
) -> None:
    job = cluster.submit("find_sw.sh", "--sleep", cwd=stub_root, env=script_environment)
    log = stub_root / LOGS / f"checkmodel_{job}.out"
    cluster.wait_for(f"the first line of {log}", lambda: log.exists() and "flags" in log.read_text())
    cluster.run("scancel", job)
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    cluster.wait_for("the last line", lambda: "find_sw: exit code 143\n" in log.read_text())
    assert "CANCELLED" in log.read_text()


def test_by_hand_inside_an_allocation_the_script_keeps_its_own_log(
    cluster: Cluster, stub_root: Path, script_environment: dict[str, str], tmp_path: Path
) -> None:
    """SLURM_JOB_ID is set there, but it is no batch script: the log has a time stamp, and any folder will do."""
    command = f"bash '{stub_root}/find_sw.sh' --model x"
    shown = cluster.run("srun", "--ntasks=1", "bash", "-c", command, cwd=tmp_path, env=script_environment)
    (log,) = (stub_root / LOGS).glob("checkmodel_*.out")
    assert len(log.stem) == len("checkmodel_20260101_000000")
    assert log.read_text() == shown
