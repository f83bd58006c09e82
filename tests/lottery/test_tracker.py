"""A tracker shows a run once, with each number once, whatever becomes of the run; and no tracker stops a run."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import odd
from lottery import test_ranks
from lottery.runs import events, flags, forked, only_run, table, traces
from swlottery.commands import tracker
from swlottery.config import TrainSettings
from swlottery.report.global_steps import GlobalSteps
from swlottery.runtime import checkpoint, sums
from swlottery.runtime.folder import held

Numbers = list[tuple[str, int, float]]
"""(key, global step, number)."""
MISSING = [name for name in ("swanlab", "dvclive", "wandb", "mlflow") if importlib.util.find_spec(name) is None]


def in_tensorboard(folder: Path) -> Numbers:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = {path.parent for path in folder.rglob("*tfevents*")}
    seen = EventAccumulator(str(place), size_guidance={"scalars": 0})
    seen.Reload()
    return [(tag, one.step, one.value) for tag in seen.Tags()["scalars"] for one in seen.Scalars(tag)]


def in_trackio(folder: Path) -> Numbers:
    rows = []
    for file in (folder / "trackio").rglob("*.jsonl"):
        records = map(json.loads, file.read_text().splitlines())
        rows += [(one["run_id"], one["step"], json.dumps(one["metrics"])) for one in records if one["kind"] == "metric"]
    if (store := folder / "trackio" / "swlottery.db").exists():
        with sqlite3.connect(store) as base:
            rows += base.execute("select run_id, step, metrics from metrics").fetchall()
    assert len({run for run, _, _ in rows}) <= 1
    return [(key, step, number) for _, step, text in rows for key, number in json.loads(text).items()]


READ: dict[str, Callable[[Path], Numbers]] = {"tensorboard": in_tensorboard, "trackio": in_trackio}


def lengths(run: Path) -> dict[str, int]:
    return {name: (run / name).stat().st_size for name in ("metrics.jsonl", "watch.csv")}


def ended(at: int, number: signal.Signals, folder: Path = Path(), name: str = "") -> Callable[[], None]:
    """A patch for the child: a signal at a step; with the name of a tracker, when it has taken something new, which
    is killed then too."""

    def patch() -> None:
        from swlottery.lottery.training import Training

        real, taken, followers = Training.step, Counter[str](), []

        class Seen(tracker.Follower):
            def __init__(self, *given: Any) -> None:
                super().__init__(*given)
                followers.append(self)

        before = len(READ[name](folder)) if name else 0

        def step(self: Training, *given: Any) -> Any:
            taken["steps"] += 1
            if taken["steps"] == at:
                for follower in followers if name else ():
                    until = time.monotonic() + 60
                    while len(READ[name](folder)) == before and time.monotonic() < until:
                        time.sleep(0.01)
                    follower._process.kill()
                os.kill(os.getpid(), number)
            return real(self, *given)

        Training.step = step  # type: ignore[method-assign]
        __import__("swlottery.commands.train").commands.train.Follower = Seen

    return patch


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("tensorboard", ""),
        pytest.param("trackio", "sqlite", marks=pytest.mark.slow),
        pytest.param("trackio", "jsonl", marks=pytest.mark.slow, id="trackio-on-a-network-drive"),
    ],
)
def test_a_run_that_is_requeued_and_killed_is_one_run(
    name: str, mode: str, tiny_gpt2: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed: .ci/run installs it")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", mode)
    arguments = [*flags(tiny_gpt2, text, tmp_path, "--follow", "0,1,2"), "--tracker", name]
    starts = [
        (ended(4, signal.SIGTERM), 75),
        (ended(6, signal.SIGKILL, tmp_path, name), -signal.SIGKILL),
        (ended(2, signal.SIGKILL), -signal.SIGKILL),  # behind an evaluation; what follows it may still send
        (lambda: None, 0),
    ]
    for patch, code in starts:
        assert forked(arguments, tmp_path / "log", patch) == code, (tmp_path / "log").read_text()
        run = only_run(tmp_path)
        with held(run / "tracker", patience=60):  # what followed the run has ended
            latest = max(step for _, step, _ in READ[name](tmp_path))
        if code:
            saved = sums.read_sealed(checkpoint.manifests(run / "checkpoints")[0])
            assert latest <= 6 * (saved["round"] - 1) + saved["step"]
    # On a busy machine a start that is stopped may leave rows to the next one, and says so.
    notes = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("note: the tracker")]
    assert all("did not take the rest" in line for line in notes), (run / "tracker" / "output.txt").read_text()
    sent = READ[name](tmp_path)
    rows = GlobalSteps(run).new(lengths(run), {})
    assert sorted(sent) == [
        (key, step, pytest.approx(number))
        for key, step, number in sorted((key, step, row[key]) for step, row in rows.items() for key in row)
    ]
    evaluated = [(6 * (one["round"] - 1) + one["step"], one["val_loss"]) for one in events(run, "evaluation")]
    later = [one for one in evaluated if one not in (evaluated[3], evaluated[6])]  # the first of a later training
    assert sorted((step, number) for key, step, number in sent if key == "val_loss") == [
        (step, pytest.approx(loss)) for step, loss in later
    ]
    assert [step for step, _ in later] == [0, 3, 6, 9, 12, 15, 18]
    alone = tmp_path / "alone"
    assert forked(flags(tiny_gpt2, text, alone, "--follow", "0,1,2"), tmp_path / "log") == 0
    assert only_run(alone).name == run.name and traces(only_run(alone)) == traces(run)


def test_a_kill_between_two_numbers_of_a_step(tmp_path: Path, tiny_gpt2: Path, text: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = [*flags(tiny_gpt2, text, tmp_path, rounds=1), "--tracker", "tensorboard"]
    assert forked(arguments, tmp_path / "log") == 0
    whole = sorted(in_tensorboard(tmp_path))
    (file,) = tmp_path.rglob("*tfevents*")
    os.truncate(file, file.stat().st_size - 150)
    assert 0 < len(set(whole) - set(in_tensorboard(tmp_path))) < 8  # fewer than a step has
    assert forked(arguments, tmp_path / "log") == 0  # it is done, and sends the rest
    assert sorted(in_tensorboard(tmp_path)) == whole


def test_of_several_ranks_one_sends(tmp_path: Path, tiny_gpt2: Path, text: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = [*flags(tiny_gpt2, text, tmp_path, rounds=1), "--tracker", "tensorboard"]
    assert test_ranks.run(2, arguments, tmp_path / "log") == [0, 0], (tmp_path / "log0").read_text()
    assert "note" not in (tmp_path / "log0").read_text()
    assert [step for key, step, _ in in_tensorboard(tmp_path) if key == "val_loss"] == [0, 3, 6, 9, 12]


@pytest.mark.parametrize(
    ("does", "said"), [("raise OSError('no network here')", "no network"), ("while True: pass", "4 seconds")]
)
def test_a_tracker_that_fails_or_hangs_is_a_note(
    does: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "swanlab.py").write_text(f"def init(**_):\n    {does}\n")
    monkeypatch.syspath_prepend(tmp_path / "bad")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bad"), prepend=os.pathsep)
    if "4" in said:
        monkeypatch.setattr("swlottery.commands.train.PATIENCE", 4)
    ended = odd.train(odd.model(tmp_path / "model"), "--tracker", "swanlab")
    assert ended.code == 0 and not ended.err
    (note,) = (line for line in ended.out.splitlines() if line.startswith("note: the tracker"))
    assert said in note and "tracker/output.txt" in note
    assert ended.out.splitlines()[-1].startswith("done")


def test_a_tracker_that_hangs_does_not_outlive_a_run_that_was_killed(tmp_path: Path) -> None:
    """In its constructor too: it would hold the folder, and the next start could send nothing."""
    run, began = tmp_path / "run", tmp_path / "began"
    run.mkdir()
    (run / "settings.json").write_text(json.dumps(vars(TrainSettings())))
    (tmp_path / "swanlab.py").write_text(f"def init(**_):\n    open({str(began)!r}, 'w')\n    while True: pass\n")
    code = "from swlottery.commands import tracker; tracker.PATIENCE = 1; tracker.main()"
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", code, str(run), "swanlab"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        try:
            while not began.exists():
                assert process.poll() is None
                time.sleep(0.1)
            process.stdin.close()
            assert process.wait(30) == -signal.SIGALRM
        finally:
            process.kill()


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, name = odd.model(tmp_path / "model"), MISSING[0]
    (tmp_path / name).mkdir()  # as wandb makes one where it runs
    odd.refused(odd.train(model, "--tracker", name), f"pip install {name}")
    assert not (tmp_path / "runs").exists()
    assert odd.train(model).code == 0
    begun = odd.train(model, "--tracker", name)
    assert begun.code == 0 and f"note: the tracker {name}" in begun.out


def test_the_rows_of_a_run(tmp_path: Path, tiny_gpt2: Path, text: Path) -> None:
    assert forked(flags(tiny_gpt2, text, tmp_path, "--follow", "0,1,2", rewind_step=2), tmp_path / "log") == 0
    run = only_run(tmp_path)
    steps = GlobalSteps(run)
    assert steps.new(lengths(run), {"metrics.jsonl": "of another file"}) == {}
    rows = steps.new(lengths(run), {})
    assert list(rows) == [0, 3, 6, 7, 10, 11, 14] and steps.new(lengths(run), {}) == {}
    for r, (row, step) in enumerate(zip(table(run, "rounds.csv"), (6, 10, 14), strict=True)):
        assert rows[step]["val_loss"] == float(row["val_loss"]), r
        assert rows[step]["sparsity"] == float(row["sparsity"]), r
    assert [rows[step]["threshold"] for step in (6, 10)] == [one["threshold"] for one in events(run, "prune")]
    watched = {(row["round"], row["step"]): row for row in table(run, "watch.csv") if row["kind"] == "foreign"}
    for step, place in ((0, ("1", "0")), (6, ("1", "6")), (7, ("2", "3")), (14, ("3", "6"))):
        assert rows[step]["foreign/0.1.2/size"] == abs(float(watched[place]["value"]))
        assert rows[step]["foreign/0.1.2/over_threshold"] == float(watched[place]["over_threshold"])
    assert not any("control" in key for row in rows.values() for key in row)
    arm = tmp_path / "arm"
    same = flags(tiny_gpt2, text, arm, "--from-round-1", str(run), rewind_step=2, criterion="random")
    assert forked(same, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    branch = GlobalSteps(only_run(arm)).new(lengths(only_run(arm)), {})
    assert list(branch) == [6, 7, 10, 11, 14] and branch[6]["val_loss"] == rows[6]["val_loss"]
    assert any(key.startswith("leader/") and key.endswith("/size") for key in branch[6])
    assert not any("over_threshold" in key for row in branch.values() for key in row)


def test_the_rows_of_a_run_that_is_pruned_at_the_start(tmp_path: Path, tiny_gpt2: Path, text: Path) -> None:
    """Its first prune comes before all evaluations: the first row has the sparsity that it leaves."""
    arguments = flags(tiny_gpt2, text, tmp_path, "--prune-at-start", "--follow", "0,1,2")
    assert forked(arguments, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    run = only_run(tmp_path)
    rows, (at_start, later) = GlobalSteps(run).new(lengths(run), {}), events(run, "prune")
    assert list(rows) == [0, 3, 6, 9, 12] and rows[6]["threshold"] == later["threshold"]
    sparsities = [float(row["sparsity"]) for row in table(run, "rounds.csv")]
    assert [row["sparsity"] for row in rows.values()] == [sparsities[0]] * 3 + [sparsities[1]] * 2
    assert sparsities[0] == pytest.approx(1 - at_start["remaining_fraction"]) and sparsities[0] > 0


def test_every_tracker_is_one_of_accelerates() -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    (choices,) = (
        one.metadata["flag"]["choices"] for one in TrainSettings.__dataclass_fields__.values() if one.name == "tracker"
    )
    assert set(choices) - {"none"} == set(LOGGER_TYPE_TO_CLASS) - {"aim", "clearml"}  # these name their runs themselves
