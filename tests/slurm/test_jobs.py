"""What `sbatch` does with either script on a real Slurm: where the log is, its end, and a wrong folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster import Cluster, missing

from both_scripts import Script

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Environment = dict[str, str]


def test_flags_pass_and_the_exit_code_is_the_programs(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment
) -> None:
    prompt = 'Apple Inc. is a $HOME "company" *'
    job = cluster.submit(script.file, "--prompt", prompt, "--bad", cwd=stub_root, env=script_environment)
    assert cluster.wait(job)["ExitCode"] == "2:0"
    lines = script.log_of(stub_root, job).read_text().splitlines()
    assert lines[0] == f"flags {[script.command, '--prompt', prompt, '--bad']} in {stub_root}"
    assert "swlottery: no flag --bad" in lines[1:-1]  # srun has a word on it as well
    assert lines[-1] == f"{script.name}: exit code 2"


def test_from_elsewhere_with_chdir(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    job = cluster.submit("-D", str(stub_root), str(stub_root / script.file), cwd=tmp_path, env=script_environment)
    shown = cluster.wait(job)
    log = script.log_of(stub_root, job)
    assert (shown["JobState"], shown["StdOut"]) == ("COMPLETED", str(log))
    assert log.read_text().endswith(f"{script.name}: exit code 0\n")


def test_output_elsewhere(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    log = tmp_path / "other.log"
    job = cluster.submit(f"--output={log}", script.file, cwd=stub_root, env=script_environment)
    assert cluster.wait(job)["JobState"] == "COMPLETED"
    assert f"{script.name}: log {log}\n" in log.read_text()


def test_from_a_wrong_folder_slurm_cannot_open_the_log(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    """No line of ours has run then. As documented beside the logs: scontrol tells, by its reason and the log's path."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    job = cluster.submit(str(stub_root / script.file), cwd=wrong, env=script_environment)
    shown = cluster.wait(job)
    assert (shown["JobState"], shown["Reason"], shown["ExitCode"]) == ("FAILED", "JobLaunchFailure", "0:53")
    assert shown["StdOut"] == str(script.log_of(wrong, job))
    assert list(wrong.iterdir()) == []
    assert "Reason=JobLaunchFailure ExitCode=0:53" in (stub_root / script.folder / "README.md").read_text()


def test_from_a_wrong_folder_where_the_log_can_be_opened(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    (tmp_path / script.folder).mkdir(parents=True)
    job = cluster.submit(str(stub_root / script.file), cwd=tmp_path, env=script_environment)
    assert cluster.wait(job)["ExitCode"] == "2:0"
    said, last = script.log_of(tmp_path, job).read_text().splitlines()
    assert f"{tmp_path} is not the root of the swlottery repository" in said
    assert "sbatch -D" in said
    assert last == f"{script.name}: exit code 2"


def test_a_cancelled_job_says_so_in_its_log(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment
) -> None:
    job = cluster.submit(script.file, "--sleep", cwd=stub_root, env=script_environment)
    log = script.log_of(stub_root, job)
    cluster.wait_for(f"the first line of {log}", lambda: log.exists() and "flags" in log.read_text())
    cluster.run("scancel", job)
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    cluster.wait_for("the last line", lambda: f"{script.name}: exit code 143\n" in log.read_text())
    assert "CANCELLED" in log.read_text()


def test_by_hand_inside_an_allocation_the_script_keeps_its_own_log(
    cluster: Cluster, script: Script, stub_root: Path, script_environment: Environment, tmp_path: Path
) -> None:
    """SLURM_JOB_ID is set there, but it is no batch script: the log has a time stamp, and any folder will do."""
    command = f"bash '{stub_root / script.file}' --model x"
    shown = cluster.run("srun", "--ntasks=1", "bash", "-c", command, cwd=tmp_path, env=script_environment)
    (log,) = script.logs(stub_root)
    assert len(log.stem) == len(f"{script.log}_20260101_000000")
    assert log.read_text() == shown
