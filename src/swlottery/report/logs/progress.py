"""A run's output on its way: into its tables, its log (which an earlier start may have written to) and status.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings
from swlottery.report.logs.train import TrainLog
from swlottery.runtime import files, sums
from swlottery.runtime import folder as folders
from swlottery.runtime.tables import Tables

Event = dict[str, Any]

NUMBERS = ("train_loss", "val_loss", "val_perplexity", "seconds_left", "tokens_per_second")
"""What status.json takes from the last evaluation."""


def printed_before(run_folder: Path, log_name: str) -> int:
    """How many of the run's events earlier starts have printed to this log; -1 for a log of its own."""
    if not log_name:
        return -1
    path, history = run_folder / "told.json", run_folder / "metrics.jsonl"
    stored: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):
        stored = {"events": 0, **sums.read_sealed(path)}
    if stored.get("log") != log_name:
        return -1
    lines = history.read_bytes().count(b"\n") if history.exists() else 0
    printed = max(lines, int(stored["events"]))
    files.write_json(path, sums.sealed({"log": log_name, "events": printed}))
    return printed


class Output:
    """Where the recorder's output goes: the tables first, then the log and status.json, then the figures.

    place: (round, step) that the run goes on from; None for a new run. log: None on a rank that is not the lead, which
    writes nothing. printed: how many events earlier starts of this job have printed to the log. draw: from an event to
    the figures that it calls for. notes: lines for the log that are there now.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        dtype: str,
        place: tuple[int, int] | None,
        tables: Tables,
        log: TrainLog | None,
        printed: int = -1,
        draw: Callable[[Event], list[Path]] = lambda event: [],
        notes: Callable[[], list[str]] = list,
    ) -> None:
        self.folder, self.settings, self.dtype, self.tables = folder, settings, dtype, tables
        self.log, self.printed, self.draw, self.notes = log, printed, draw, notes
        self.number = 0  # of the event that comes next
        self.figures: list[Path] = []
        self.last: Event = {}  # the last evaluation
        self.resumes, self.place = place is not None, place or (1, 0)
        before = folders.read_status(folder)  # what it says counts until the checkpoint is taken up
        unknown = {"followed": 0, "kind": None, "alive": 0}
        self.tracked: dict[str, Any] = {name: before.get(name, value) for name, value in unknown.items()}

    def open(self, notes: Sequence[str], history: Sequence[Event], name: str) -> None:
        """The first lines of the log.

        Args:
            notes: what the reader should know, such as a damaged checkpoint.
            history: the events of the run that goes on.
            name: of the log, if several starts may write to it.
        """
        log = self._log
        if not self.resumes:
            log.lines(notes)
            if self.printed >= 0:
                log.again(None, 0)
        else:
            self.number = len(history)
            for nth, event in enumerate(history):
                self._print(event, quiet=nth > 0 or self.printed > 0)
            (log.again if self.printed > 0 else log.resumed)(*self.place, "; ".join(notes))
        if self.printed < 0 and name:
            files.write_json(self.folder / "told.json", sums.sealed({"log": name, "events": 0}))

    def event(self, event: Event) -> None:
        """One event of the run."""
        self.tables.event(event)
        if self.log is None:
            return
        self._print(event, quiet=self.number < self.printed)
        self.number += 1
        if event["event"] == "evaluation":
            self.last = event
            self.status("running")
            self.log.lines(self.notes())
        if event["event"] in ("prune", "trace", "finished"):
            self.figures += self.draw(event)

    def _print(self, event: Event, quiet: bool) -> None:
        """Into the log; quiet: only so that the log knows of it."""
        log = self._log
        log.quiet = quiet
        if event["event"] == "start":
            log.header(dataclasses.asdict(self.settings), event, dataclasses.asdict(TrainSettings()))
        else:
            log.event(event)
        log.quiet = False

    def round(self, row: Mapping[str, Any]) -> None:
        """A row of rounds.csv."""
        self.tables.round(row)

    def watch(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of watch.csv."""
        self.tables.watch(rows)

    def at(self, round: int, step: int) -> None:
        """The run has come to this step."""
        self.place = round, step

    def stepped(self, round: int, step: int, steps: int) -> None:
        """A training step is done."""
        self.at(round, step)
        if self.log is not None:
            self.log.step(round, step, steps)

    def alive(self, tracked: int, kind: str | None, alive: int) -> None:
        """How many super weights are tracked, and how many of them the present masks leave."""
        self.tracked = {"followed": tracked, "kind": kind, "alive": alive}

    def status(self, state: str, **more: Any) -> None:
        """Write status.json."""
        numbers = {name: self.last.get(name) for name in NUMBERS}
        where = {
            "round": self.place[0],
            "rounds": self.settings.trainings - 1,
            "step": self.place[1],
            "steps": self.settings.steps,
            "dtype": self.dtype,
        }
        folders.write_status(self.folder, state, {**where, **self.tracked, **numbers, **more})

    def footer(self, seconds: float, state: str = "finished", message: str = "") -> None:
        """The last lines."""
        self._log.footer(self.folder, self.figures, seconds, state, message)

    @property
    def _log(self) -> TrainLog:
        assert self.log is not None
        return self.log
