"""Runs of the real command on a tiny model, and what of them must be the same bit for bit."""

from __future__ import annotations

import csv
import functools
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands import train

if TYPE_CHECKING:
    from swlottery.lottery.loop import Lottery

TIMES = {"seconds", "seconds_left", "tokens_per_second", "wall_seconds", "step_seconds"}


SHORT = {
    "context": 32,
    "micro_batch": 2,
    "grad_accum": 2,
    "steps": 6,
    "rounds": 2,
    "lr": 1e-2,
    "eval_steps": 3,
    "eval_sequences": 4,
    "checkpoint_steps": 2,
    "threads": 1,
    "device": "cpu",
    "dtype": "float32",
}


def flags(model: Path, text: Path, folder: Path, *more: str, **changes: object) -> list[str]:
    """Flags of `swlottery train` for seconds: two rounds and the final ticket of six steps each."""
    paths = {"model": model, "data": text, "runs": folder / "runs", "plots": folder / "plots"}
    settings: dict[str, object] = {**SHORT, "prune_rate": 0.2, **paths, **changes}
    named = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    return ["train", *named, *more]


def built(model: Path, text: Path, folder: Path, known: Sequence[Any] = (), **changes: object) -> Lottery:
    """The lottery that such flags make, before its first step, for tests that look inside while it goes. ``known``: the
    weights that it tracks from the start."""
    from swlottery.config import TrainSettings
    from swlottery.data.tokens import prepare
    from swlottery.lottery import start
    from swlottery.runtime import environment

    paths = {"model": str(model), "data": str(text)}
    settings: dict[str, Any] = {**SHORT, "super_weights": "none", **paths, **changes}
    chosen = TrainSettings(**settings)
    chosen.check()
    environment.pin(1)
    network = start.network(chosen)
    return of_network(network, prepare(chosen.data, network.tokenizer), chosen, folder, known)


def of_network(network: Any, data: Any, settings: Any, folder: Path, known: Sequence[Any] = ()) -> Lottery:
    """The same of what such flags name, loaded."""
    from swlottery.commands.keeper import FolderKeeper
    from swlottery.lottery.loop import Lottery
    from swlottery.report.logs.progress import Output
    from swlottery.runtime import environment
    from swlottery.watch.recorder import WatchRecorder

    folder.mkdir(parents=True, exist_ok=True)
    keeper = FolderKeeper(folder, settings, network)
    output = Output(folder, settings, settings.dtype, keeper.place, keeper.tables, log=None)
    theta_0 = functools.partial(keeper.theta, 0)
    recorder = WatchRecorder(network, data, settings, environment.describe(1), known, output, theta_0)
    return Lottery(network, data, settings, keeper, recorder)


def complaint(stderr: str) -> str:
    """The one line that a refused command leaves, without the bars of libraries that were loaded before it."""
    lines = [line for part in stderr.splitlines() for line in part.split("\r") if line and "it/s]" not in line]
    assert len(lines) == 1 and lines[0].startswith("swlottery: "), stderr
    return lines[0]


def only_run(folder: Path) -> Path:
    """The folder of the only run below ``folder``."""
    (run,) = (folder / "runs").iterdir()
    return run


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind in a run's history."""
    return [e for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if e["event"] == kind]


def table(run: Path, name: str) -> list[dict[str, str]]:
    """The rows of a table."""
    with open(run / name, newline="") as file:
        return list(csv.DictReader(file))


def traces(run: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was interrupted."""
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{key: value for key, value in event.items() if key not in TIMES} for event in history],
        "rounds": [{k: v for k, v in row.items() if k not in TIMES} for row in table(run, "rounds.csv")],
        "watch": (run / "watch.csv").read_bytes(),
        "masks": {path.name: path.read_bytes() for path in sorted((run / "masks").iterdir())},
        "final": (run / "final" / "model.safetensors").read_bytes(),
        "card": (run / "final" / "README.md").read_text(),
        "round_1": (run / "round_1" / "model.safetensors").read_bytes(),
    }


DRAW = train._draw


def draw() -> None:
    """A patch for a child that draws figures as users' runs do; other runs of these tests draw none (conftest.py)."""
    train._draw = DRAW


def forked(arguments: list[str], log: Path, patch: Callable[[], None] = lambda: None) -> int:
    """Run the command in a child process, patched. Its output goes to ``log``. Returns its code: −n for signal n."""
    _, status = os.waitpid(fork(arguments, log, patch), 0)
    return os.waitstatus_to_exitcode(status)


def free_port() -> int:
    """Where ranks can meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork(arguments: list[str], log: Path, patch: Callable[[], None] = lambda: None) -> int:
    """Start the command in a child process, patched; its output goes to ``log``. Returns the process's number.

    The child is forked, so that a test that kills thirty of them does not import torch thirty times.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            import sys

            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            from swlottery.cli import main

            patch()
            code = main(arguments)
            sys.stdout.flush()
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
        os._exit(code)
    return child
