"""`sbatch func_train.sh` on a real Slurm, with the real program. What holds for both scripts: test_jobs.py."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, missing

from both_scripts import TRAIN, hide_modules
from lottery.runs import events, only_run

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

REPOSITORY = Path(__file__).resolve().parents[2]
Environment = dict[str, str]
TrainFlags = Callable[..., list[str]]


def test_the_log_of_a_real_run_tells_all_of_it(
    cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    flags = train_flags(prune_rate="0.3", seed=3)
    hide_modules(script_root)  # the folder of the job
    job = cluster.submit("func_train.sh", *flags, cwd=script_root, env=script_environment)
    shown = cluster.wait(job, seconds=240)
    log = TRAIN.log_of(script_root, job)
    text = log.read_text()
    assert shown["JobState"] == "COMPLETED", text
    assert shown["StdOut"] == str(log)
    for part in (
        "2 rounds of train, prune, rewind",
        "What each prune will leave",
        "Round 2 of 2: training under 70.00 % remaining",
        "Prune 2: removed",
        "remaining 49.01 %",  # floors of 16,384 at 0.3, twice
        "Final ticket: training under 49.01 % remaining",
        "All rounds",
        "What became of the tracked weights",
    ):
        assert part in text, part
    assert text.splitlines()[-2:] == [f"func_train: log {log}", "func_train: exit code 0"]
    assert "\r" not in text  # no progress bar
    run = only_run(script_root)
    stored = json.loads((run / "settings.json").read_text())
    assert (stored["prune_rate"], stored["seed"], stored["steps"]) == ("0.3", 3, 6)  # the flags came through
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert (script_root / "plots" / run.name / "magnitude.png").exists()


def test_find_then_train_as_the_readme_says(
    cluster: Cluster,
    script_root: Path,
    script_environment: Environment,
    find_flags: Callable[[Path], list[str]],
    train_flags: TrainFlags,
    planted_gpt2: tuple[Path, Any],
    tmp_path: Path,
) -> None:
    """Its two lines, in its shell, but for the model and the config: the second job reads what the first one wrote."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    lines = re.search(r"^ +(job=\$\(sbatch .*)\n +(sbatch --dependency=.*)$", readme, re.MULTILINE)
    assert lines, "README.md shows no find job with a train job behind it"
    model, coordinate = planted_gpt2
    record = Path("super_weights") / "planted.json"
    find = find_flags(record)
    find[find.index("--model") + 1] = str(model)
    train = train_flags(model=model, super_weights=record, follow="0,1,2")
    commands = (
        lines[1].split("--model")[0] + f'{shlex.join(find)}); echo "$job"\n'
        f"{lines[2].split('--config')[0].replace('sbatch', 'sbatch --parsable')}{shlex.join(train)}\n"
    )
    said = cluster.run("bash", "-c", commands, cwd=script_root, env=script_environment)
    first, second = said.split()
    assert cluster.show(second)["JobState"] == "PENDING"  # a search takes longer than this question
    assert cluster.wait(first, seconds=240)["JobState"] == "COMPLETED"
    shown = cluster.wait(second, seconds=240)
    text = TRAIN.log_of(script_root, second).read_text()
    assert shown["JobState"] == "COMPLETED", text

    found = json.loads((script_root / record).read_text())["super_weights"]
    places = [(weight["layer"], weight["out"], weight["in"]) for weight in found]
    assert places == [tuple(coordinate)[:3]]
    (start,) = events(only_run(script_root), "start")
    followed = [(one["kind"], one["layer"], one["out"], one["in"]) for one in start["followed"]]
    assert followed == [("super_weight", *places[0]), ("foreign", 0, 1, 2)]
    name = f"super weight ({', '.join(map(str, places[0]))})"
    assert f"{name} " in text
    last = " ".join(text[text.index("What became of the tracked weights") :].split())
    assert re.search(
        rf"S{re.escape(name[1:])} was (kept through round 2|pruned in round \d), at [\d.]+ % sparsity", last
    )


def test_a_training_behind_a_search_that_failed_never_starts(
    cluster: Cluster, stub_root: Path, script_environment: Environment
) -> None:
    first = cluster.submit("find_sw.sh", "--bad", cwd=stub_root, env=script_environment)
    second = cluster.submit(f"--dependency=afterok:{first}", "func_train.sh", cwd=stub_root, env=script_environment)
    assert cluster.wait(first)["JobState"] == "FAILED"
    cluster.wait_for("Slurm's verdict", lambda: cluster.show(second)["Reason"] == "DependencyNeverSatisfied")
    cluster.run("scancel", second)
    assert TRAIN.logs(stub_root) == []


@pytest.mark.slow
def test_a_cancelled_training_goes_on_when_it_is_submitted_again(
    cluster: Cluster, script_root: Path, script_environment: Environment, train_flags: TrainFlags
) -> None:
    """As README says; and it ends with the bits of a run that was left alone."""
    flags = train_flags(rounds=1, steps=300, eval_steps=10)
    job = cluster.submit("func_train.sh", *flags, cwd=script_root, env=script_environment)
    log = TRAIN.log_of(script_root, job)
    cluster.wait_for("an evaluation", lambda: log.exists() and re.search(r"^ +10 ", log.read_text(), re.M), 120)
    cluster.run("scancel", job)
    assert cluster.wait(job)["JobState"] == "CANCELLED"
    cluster.wait_for("the last line", lambda: "func_train: exit code 75\n" in log.read_text())
    assert "the same command goes on from there" in log.read_text()
    run = only_run(script_root)
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    stopped = json.loads((run / "status.json").read_text())["step"]

    again = cluster.submit("func_train.sh", *flags, cwd=script_root, env=script_environment)
    assert cluster.wait(again, seconds=240)["JobState"] == "COMPLETED"
    text = TRAIN.log_of(script_root, again).read_text()
    assert f"going on from step {stopped:,}" in text
    assert only_run(script_root) == run
    ended = (run / "final" / "model.safetensors").read_bytes()

    shutil.rmtree(run)
    alone = cluster.submit("func_train.sh", *flags, cwd=script_root, env=script_environment)
    assert cluster.wait(alone, seconds=240)["JobState"] == "COMPLETED"
    assert (run / "final" / "model.safetensors").read_bytes() == ended
