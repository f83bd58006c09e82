"""A run's events on their way into its log, which may be one that an earlier start of the run has written to."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.report.logs.train import TrainLog
from swlottery.runtime import files
from swlottery.runtime import folder as folders

if TYPE_CHECKING:
    from swlottery.lottery.state import Event, Run


def told_before(run_folder: Path, log_name: str) -> int:
    """How many of the run's events stand in this log, from earlier starts that wrote to it; -1 for a log of its own."""
    if not log_name:
        return -1
    path, history = run_folder / "told.json", run_folder / "metrics.jsonl"
    stored: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        stored = {"events": 0, **json.loads(path.read_text(encoding="utf-8"))}
    if stored.get("log") != log_name:
        return -1
    lines = history.read_bytes().count(b"\n") if history.exists() else 0
    told = max(lines, int(stored["events"]))
    files.write_json(path, {"log": log_name, "events": told})
    return told


class Telling:
    """The run's events on their way into the log. told: how many of them an earlier start of this job told there."""

    def __init__(self, log: TrainLog, run: Run, told: int) -> None:
        self.log, self.run, self.told = log, run, told
        self.number = 0

    def open(self, notes: list[str]) -> None:
        """The first lines. `BadInput` where the run was begun with another network or other data."""
        log, run = self.log, self.run
        if not run.resumed:
            for note in notes:
                log.line(note)
            if self.told >= 0:
                log.again(None, 0)
            return
        history = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_bytes().splitlines()]
        begun = history[0]
        if begun["data"]["sha256"] != run.data.manifest.get("sha256"):
            raise BadInput(
                f"the text {run.data.name} is not the one that {run.folder} was begun with: it has other tokens"
            )
        if begun["lineage"] != run.network.lineage:
            raise BadInput(
                f"the network is not the one that {run.folder} was begun with: it has other weights at step 0"
            )
        self.number = len(history)
        log.quiet = self.told > 0
        log.header(dataclasses.asdict(run.settings), begun, dataclasses.asdict(TrainSettings()))
        log.replay(history[1:])
        log.quiet = False
        if self.told > 0:
            log.again(run.state.round, run.state.step, "; ".join(notes))
        else:
            log.resumed(run.state.round, run.state.step, "; ".join(notes))

    def tell(self, event: Event) -> None:
        """One event of the lottery."""
        log, run = self.log, self.run
        if event["event"] == "step":
            log.step(event["round"], event["step"], event["steps"])
            return
        log.quiet = self.number < self.told
        if event["event"] == "start":
            log.header(dataclasses.asdict(run.settings), event, dataclasses.asdict(TrainSettings()))
        else:
            log.event(event)
        self.number += 1
        log.quiet = False
        if event["event"] == "evaluation":
            folders.write_status(run.folder, "running", standing(run, event))

    def footer(self, figures: list[Path], seconds: float, state: str = "finished", message: str = "") -> None:
        """The last lines."""
        self.log.footer(self.run.folder, figures, seconds, state, message)


def standing(run: Run, evaluation: Event | None = None) -> dict[str, Any]:
    """Where the run stands, for status.json."""
    from swlottery.lottery.prune import count_alive

    own = [one for one in run.main if one.kind != "foreign"]
    numbers = ("train_loss", "val_loss", "val_perplexity", "seconds_left", "tokens_per_second")
    return {
        "round": run.state.round, "rounds": run.prunes if run.has_begun else run.settings.rounds,
        "step": run.state.step, "steps": run.settings.steps, "dtype": run.training.dtype,
        "followed": len(own), "kind": own[0].kind if own else None,
        "alive": count_alive(run.matrices(run.masks), [one.coordinate for one in own]),
        **{name: (evaluation or run.last).get(name) for name in numbers},
    }  # fmt: skip
