"""`swlottery sweep` on a real Slurm: an array, two at a time, of which one point is made to fail."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, missing

from studies import write

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

REPOSITORY = Path(__file__).resolve().parents[2]
Environment = dict[str, str]


def points(number: int) -> dict[str, dict[str, Any]]:
    """So many arms, with batches of their own."""
    return {f"p{i}": {"data_seed": i} for i in range(number)}


def swlottery(cluster: Cluster, root: Path, environment: Environment, *arguments: str) -> str:
    """What the command says, run on the cluster's login node."""
    done = subprocess.run(
        [sys.executable, "-m", "swlottery.cli", *arguments],
        cwd=root,
        env={**cluster.environment(environment), "PYTHONPATH": str(root / "src"), "SWLOTTERY_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def jobs(said: str) -> list[str]:
    """The arrays that a sweep submitted."""
    return [line.partition(" as job ")[2].partition(";")[0] for line in said.splitlines() if " as job " in line]


def wait(cluster: Cluster, job: str, at_most: int, seconds: float) -> int:
    """Wait for an array's end; returns the most of its tasks that were seen at work at the same time."""
    most = 0

    def ended() -> bool:
        nonlocal most
        states = cluster.run("squeue", "-h", "-r", "-j", job, "-o", "%T").split()
        most = max(most, sum(state == "RUNNING" for state in states))
        assert most <= at_most
        return not states

    cluster.wait_for(f"the end of array {job}", ended, seconds)
    return most


@pytest.mark.slow
def test_six_points_two_at_a_time_one_of_which_fails(
    cluster: Cluster, script_root: Path, script_environment: Environment, tiny_gpt2: Path
) -> None:
    later = script_root / "later.txt"
    study = str(write(script_root, tiny_gpt2, points(6) | {"p3": {"data_seed": 3, "data": str(later)}}))
    said = swlottery(cluster, script_root, script_environment, "sweep", study, "--at-once", "2")
    assert "6 points: 6 new" in said
    (job,) = jobs(said)
    folder = script_root / "runs" / "small"
    shown = swlottery(cluster, script_root, script_environment, "status", str(folder))
    assert "pending" in shown and "6 points: " in shown
    again = swlottery(cluster, script_root, script_environment, "sweep", study)
    assert "nothing to run" in again and not jobs(again), "what waits or runs is not submitted twice"
    assert wait(cluster, job, 2, 300) == 2

    shown = swlottery(cluster, script_root, script_environment, "status", str(folder))
    assert "6 points: 5 done, 1 failed" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("p3: ")]
    assert "later.txt" in line

    later.write_text((script_root / "text.txt").read_text() + "more")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/rounds.csv")}
    assert len(before) == 5
    said = swlottery(cluster, script_root, script_environment, "sweep", study)
    assert "failed: p3: " in said and "submitted 1 point as job" in said
    wait(cluster, jobs(said)[0], 1, 120)
    assert "6 points: 6 done" in swlottery(cluster, script_root, script_environment, "status", str(folder))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_branches_wait_for_the_run_that_they_branch_from(
    cluster: Cluster, script_root: Path, script_environment: Environment, tiny_gpt2: Path
) -> None:
    arms = points(1) | {"branch": {"prune_rate": 0.3, "from_round_1": "p0", "data_seed": 0}}
    study = write(script_root, tiny_gpt2, arms)
    said = swlottery(cluster, script_root, script_environment, "sweep", str(study))
    first, second = jobs(said)
    assert cluster.run("squeue", "-h", "-j", second, "-o", "%E").strip().startswith(f"afterany:{first}")
    wait(cluster, first, 1, 120)
    wait(cluster, second, 1, 120)
    folder = script_root / "runs" / "small"
    assert "2 points: 2 done" in swlottery(cluster, script_root, script_environment, "status", str(folder))
    (run,) = (folder / "branch").iterdir()
    begun = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert begun["from_round_1"] == str(next((folder / "p0").iterdir()))
    assert os.listdir(folder / "logs") and all(
        name.startswith((f"{first}_", f"{second}_")) for name in os.listdir(folder / "logs")
    )


def test_an_array_that_is_too_large_is_cut_and_its_parts_follow_each_other(
    cluster: Cluster,
    stub_root: Path,
    script_environment: Environment,
    tmp_path: Path,
    tiny_gpt2: Path,
    monkeypatch: Any,
) -> None:
    from swlottery.commands.sweep import SweepSettings, sweep
    from swlottery.runtime import slurm

    for name, value in cluster.environment(script_environment).items():
        monkeypatch.setenv(name, value)
    assert slurm.largest_array() == 1001  # Slurm's default
    monkeypatch.setattr(slurm, "largest_array", lambda: 2)
    assert sweep(SweepSettings(str(write(stub_root, tiny_gpt2, points(5))), at_once=1), stub_root) == 0
    files = sorted((stub_root / "runs" / "small" / "points").glob("*.jsonl"))
    assert [len(path.read_text().splitlines()) for path in files] == [2, 2, 1]
    numbers = [path.with_suffix(".job").read_text().strip() for path in files]
    for before, after in pairwise(numbers):
        shown = cluster.run("squeue", "-h", "-j", after, "-o", "%E").strip()
        assert shown.startswith(f"afterany:{before}") or not shown
    for number in numbers:
        wait(cluster, number, 1, 60)
    logs = stub_root / "runs" / "small" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == sorted(
        f"{n}_{i}.out" for n, size in zip(numbers, (2, 2, 1), strict=True) for i in range(size)
    )


def test_a_sweep_from_inside_an_allocation_hands_nothing_of_it_on(
    cluster: Cluster, stub_root: Path, script_environment: Environment, tiny_gpt2: Path, monkeypatch: Any
) -> None:
    """srun in the job would bind and share as the shell's own step does, or ask for more than the job has."""
    from swlottery.commands.sweep import SweepSettings, sweep

    inside = cluster.run("srun", "-n1", "-c2", "--cpu-bind=none", "env", "-0")
    for name, value in (entry.split("=", 1) for entry in inside.split("\0")[:-1]):
        monkeypatch.setenv(name, value)
    for name, value in (script_environment | {"SBATCH_JOB_NAME": "mine", "SLURM_MEM_PER_NODE": "99000"}).items():
        monkeypatch.setenv(name, value)
    assert {"SLURM_CPU_BIND", "SLURM_CPUS_PER_TASK", "SLURM_STEP_ID"} <= {*os.environ}
    (stub_root / "src" / "swlottery" / "cli.py").write_text("import os\nprint(dict(os.environ))\n\ndef main(): ...\n")
    assert sweep(SweepSettings(str(write(stub_root, tiny_gpt2, points(1)))), stub_root) == 0
    folder = stub_root / "runs" / "small"
    (number,) = (path.read_text().strip() for path in folder.glob("points/*.job"))
    wait(cluster, number, 1, 60)
    text = (folder / "logs" / f"{number}_0.out").read_text()
    assert text.endswith("exit code 0\n")
    got = ast.literal_eval(text.splitlines()[0])
    assert got["SLURM_JOB_ID"] == got["SLURM_ARRAY_JOB_ID"] == number and got["SBATCH_JOB_NAME"] == "mine"
    assert "SLURM_MEM_PER_NODE" not in got and "SLURM_CPUS_PER_TASK" not in got
    assert "none" not in got.get("SLURM_CPU_BIND", "")


def test_a_checkout_that_is_edited_while_points_wait_changes_nothing(
    cluster: Cluster, script_root: Path, script_environment: Environment, tiny_gpt2: Path
) -> None:
    """Not even where the job gets none of the variables of whoever submitted it, nor to a path in a setting."""
    source = script_root / "src"
    source.unlink()
    shutil.copytree(REPOSITORY / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    study = str(write(script_root, tiny_gpt2, points(3), data="text.txt"))
    git = ["git", "-C", str(script_root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (source / "swlottery" / "version.py").write_text('__version__ = "mine"\n')

    given = ("--at-once", "1", "--sbatch=--export=NONE")
    said = swlottery(cluster, script_root, script_environment, "sweep", study, *given)
    this = f"frozen copy of commit {commit[:12]}, changed"
    assert f"code: {this}" in said
    folder = script_root / "runs" / "small"
    cluster.wait_for("the first", lambda: list(folder.glob("p*/*/SHA256SUMS")), 240)
    for name in ("src/swlottery/commands/train.py", "src/swlottery/version.py"):
        (script_root / name).write_text("raise SystemExit('spoiled')")
    for name in ("scripts/job.sh", "scripts/venv.sh", "func_train.sh"):
        (script_root / name).write_text("echo spoiled; exit 9")
    (script_root / "requirements.txt").write_text("spoiled\n")  # an environment would be made anew
    (script_root / "pyproject.toml").unlink()
    assert len(list(folder.glob("p*/*/SHA256SUMS"))) < 2, "one waits"
    wait(cluster, jobs(said)[0], 1, 240)

    logs = [log.read_text() for log in folder.glob("logs/*")]
    assert all(f"\ncode: {this}\n" in f"\n{log}" and "spoiled" not in log for log in logs) and len(logs) == 3, logs
    stored = [json.loads(path.read_text()) for path in folder.glob("p*/*/environment.json")]
    assert len(stored) == 3
    for one in stored:
        assert (one["code"]["commit"], one["code"]["frozen"], one["versions"]["swlottery"]) == (commit, True, "mine")
        assert re.fullmatch(rf"SLURM_ARRAY_TASK_ID=\d swlottery train --point {folder}/points/1.jsonl", one["command"])
    assert all(b'+__version__ = "mine"' in path.read_bytes() for path in folder.glob("p*/*/code.diff"))
    shutil.copy(REPOSITORY / "src/swlottery/commands/train.py", source / "swlottery" / "commands" / "train.py")
    (source / "swlottery" / "version.py").write_text('__version__ = "mine"\n')
    shown = swlottery(cluster, script_root, script_environment, "status", str(folder))
    assert "3 points: 3 done" in shown and f"code of 3 runs: {this}" in shown
