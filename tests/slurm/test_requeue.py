"""A training job, stopped in every way that Slurm has: it goes on by itself, with the same bits and one log.

Each way comes at a moment drawn by a seed, once the run has begun; some jobs of a cluster are hit more than once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, missing

from both_scripts import TRAIN, make_environment, make_root
from lottery.runs import flags, only_run, traces
from lottery.test_tracker import in_tensorboard, lengths
from swlottery.report.global_steps import GlobalSteps

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

INTERVAL = 50
Environment = dict[str, str]


def story(log: str) -> list[tuple[str, ...]]:
    """What a log tells of a run, without times: every line of an evaluation, every title, every prune, in order."""
    told = []
    for line in log.splitlines():
        if re.match(r" +[\d,]+ +[\d.—]+ +[\d.]+ +[\d.,]+ ", line):
            told.append(tuple(line.split()[:4]))
        elif line.startswith(("swlottery 0", "Round ", "Final ticket", "Prune ", "trained: ", "leader ", "Leader ")):
            told.append((line.partition(", in ")[0],))
    return told


@pytest.fixture(scope="module")
def module_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("requeue") / "root")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def chosen(tiny_gpt2: Path, module_root: Path) -> list[str]:
    """Flags of a run of three rounds that takes some ten seconds."""
    text = module_root / "train.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would learn by heart." for i in range(200)))
    return flags(
        tiny_gpt2,
        text,
        module_root,
        rounds=3,
        steps=150,
        eval_steps=10,
        checkpoint_steps=INTERVAL,
        checkpoint_seconds=1e9,
    )[1:]


@pytest.fixture(scope="module")
def alone(cluster: Cluster, module_root: Path, environment: Environment, chosen: list[str]) -> tuple[Any, list[Any]]:
    """The traces and the story of a job that nobody disturbed."""
    job = cluster.submit("func_train.sh", *chosen, cwd=module_root, env=environment)
    shown = cluster.wait(job, seconds=400)
    assert shown["JobState"] == "COMPLETED", TRAIN.log_of(module_root, job).read_text()
    found = traces(only_run(module_root)), story(TRAIN.log_of(module_root, job).read_text())
    assert len(found[1]) > 4 * 16
    return found


@pytest.fixture
def fresh(module_root: Path) -> Path:
    """The root without the runs of others."""
    shutil.rmtree(module_root / "runs", ignore_errors=True)
    return module_root


def has_begun(cluster: Cluster, root: Path, job: str, steps: int, seconds: float = 120) -> None:
    """Wait until the log of a job tells of a step that far."""
    cluster.wait_for(
        f"step {steps} in the log of job {job}",
        lambda: (
            TRAIN.log_of(root, job).exists()
            and re.search(rf"^ +{steps} ", TRAIN.log_of(root, job).read_text(), re.M) is not None
        ),
        seconds,
    )


def slowed(cluster: Cluster, job: str) -> None:
    """Give the process a tenth of the time until Slurm's warning of the time limit has ended it.

    Slurm looks every half a minute only, and a fast machine would be done by then. It may also look early.
    """
    process, end = cluster.task(job, 0), time.monotonic() + 120
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.9)
            os.kill(process, signal.SIGCONT)
            time.sleep(0.1)


WAYS: dict[str, Callable[[Cluster, str], object]] = {
    "scontrol requeue": lambda cluster, job: cluster.run("scontrol", "requeue", job),
    "scancel --signal=USR1": lambda cluster, job: cluster.run("scancel", "--signal=USR1", job),
    "scancel --signal=USR1 --batch": lambda cluster, job: cluster.run("scancel", "--signal=USR1", "--batch", job),
    "scancel --signal=TERM": lambda cluster, job: cluster.run("scancel", "--signal=TERM", job),
    "scancel --signal=HUP": lambda cluster, job: cluster.run("scancel", "--signal=HUP", job),
    "SIGKILL": lambda cluster, job: os.kill(cluster.task(job, 0), signal.SIGKILL),
    "time limit": slowed,
}


@pytest.mark.slow
@pytest.mark.parametrize(("way", "seed"), [(way, n) for n, way in enumerate(WAYS)])
def test_a_run_that_is_hit_goes_on_by_itself_to_the_same_bits(
    way: str, seed: int, cluster: Cluster, alone: Any, fresh: Path, chosen: list[str], environment: Environment
) -> None:
    limits = ["--time=1", "--signal=B:USR1@30"] if way == "time limit" else []
    job = cluster.submit(*limits, "func_train.sh", *chosen, cwd=fresh, env=environment)
    has_begun(cluster, fresh, job, 10)
    time.sleep(random.Random(seed).uniform(0, 2))
    WAYS[way](cluster, job)
    shown = cluster.wait(job, seconds=500)
    text = TRAIN.log_of(fresh, job).read_text()
    assert shown["JobState"] == "COMPLETED", text
    assert int(shown["Restarts"]) >= 1
    assert traces(only_run(fresh)) == alone[0]
    assert story(text) == alone[1], text
    begun_anew = text.count("asked to stop before the first step")  # Slurm sends its warning up to a minute early
    assert text.count("\nstarted again. ") == int(shown["Restarts"]) - begun_anew, text
    for before, after in re.findall(
        r"^ +([\d,]+) (?:(?!^ +[\d,]+ ).)*?going on from step ([\d,]+);", text, re.M | re.S
    ):
        assert (before, after) == ("150", "0") or int(before) - int(
            after
        ) <= 2 * INTERVAL  # a round's end, and the next
    if way != "scontrol requeue":
        code = 137 if way == "SIGKILL" else 75
        assert f"func_train: exit code {code}, requeue 1 of at most 20" in text
    assert text.endswith("func_train: exit code 0\n")


def test_requeues_are_capped(cluster: Cluster, fresh: Path, chosen: list[str], environment: Environment) -> None:
    job = cluster.submit("func_train.sh", *chosen, cwd=fresh, env={**environment, "SWLOTTERY_REQUEUES": "0"})
    has_begun(cluster, fresh, job, 10)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    shown = cluster.wait(job)
    text = TRAIN.log_of(fresh, job).read_text()
    assert (shown["JobState"], shown["ExitCode"]) == ("FAILED", "75:0")
    assert "func_train: not requeued: started again 0 times already (SWLOTTERY_REQUEUES=0)" in text
    assert "Stopped early" in text and text.endswith("func_train: exit code 75\n")
    assert json.loads((only_run(fresh) / "status.json").read_text())["state"] == "stopped"


@pytest.mark.slow
def test_a_run_that_is_requeued_and_killed_is_one_run_in_a_tracker(
    cluster: Cluster, alone: Any, fresh: Path, chosen: list[str], environment: Environment
) -> None:
    pytest.importorskip("tensorboard")
    job = cluster.submit("func_train.sh", *chosen, "--tracker", "tensorboard", cwd=fresh, env=environment)
    for restarts, way in enumerate(("SIGKILL", "scontrol requeue", "SIGKILL")):
        has_begun(cluster, fresh, job, 10)
        begun = f"{restarts} restarts of job {job}"
        cluster.wait_for(begun, lambda n=restarts: TRAIN.log_of(fresh, job).read_text().count("started again") == n)
        time.sleep(1)
        WAYS[way](cluster, job)
    shown = cluster.wait(job, seconds=500)
    text = TRAIN.log_of(fresh, job).read_text()
    assert shown["JobState"] == "COMPLETED" and int(shown["Restarts"]) == 3, text
    run = only_run(fresh)
    assert traces(run) == alone[0] and "note: the tracker" not in text
    rows = GlobalSteps(run).new(lengths(run), {})
    sent = [(key, step) for key, step, _ in in_tensorboard(fresh)]
    assert sorted(sent) == sorted((key, step) for step, row in rows.items() for key in row)
    assert len(rows) == 4 * 15 + 1
