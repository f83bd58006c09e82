"""Reading the files of a run folder, also of a run that is not finished, or was cut off in the middle of a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pandas import DataFrame

from swlottery.lottery.criteria import CRITERIA
from swlottery.report.words import Key, key
from swlottery.runtime import files

Event = dict[str, Any]
TYPES = {"round": int, "step": int, "level": float}


def read_events(run: Path) -> Iterator[Event]:
    """The events of metrics.jsonl."""
    return map(files.parse_json, _lines(run / "metrics.jsonl"))


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table. Raises `ValueError` for one that has not as many cells as the first line has names."""
    for row in csv.DictReader(_lines(path)):
        if None in row or None in row.values():
            raise ValueError(f"{path.name}: a row has not as many cells as the first line has names")
        yield row


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, which may be missing. A last line that is only half written is left out."""
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            yield from (line for line in file if line.endswith("\n"))


@dataclass
class Run:
    """What the figures of a run are drawn from.

    evaluations: ``round``, ``step``, ``level`` (the threshold of a prune just then) and ``x`` (the place on an axis of
    all steps, one round behind the other). remaining: round → the fraction of the weights that it trains under.
    """

    folder: Path
    settings: dict[str, Any]
    start: Event
    evaluations: DataFrame
    remaining: dict[int, float]
    rounds: list[dict[str, str]]
    boxes: list[Event]

    @cached_property
    def watch(self) -> DataFrame:
        """A row a weight and evaluation, with the columns of `_read_watch` and ``x``. Read when it is first needed."""
        return _read_watch(self.folder / "watch.csv").merge(self.evaluations.drop(columns="level"), how="left")

    @property
    def prunes(self) -> int:
        """R, the number of prunes."""
        return int(self.start.get("prunes") or 0)

    @property
    def title(self) -> str:
        """The name above a figure: the model, or the folder while nothing more is known."""
        return str(self.start.get("model") or self.folder.name)

    @property
    def remark(self) -> str:
        """Which run it is, and what cannot be seen in a figure."""
        known = [f"{name} {self.settings[name]}" for name in ("scope", "criterion", "rewind") if name in self.settings]
        return "; ".join([f"run {self.folder.name}", *known])

    def tracked(self) -> list[tuple[Key, DataFrame]]:
        """The tracked weights, each with its coordinate and its rows."""
        return list(self.watch[~self.watch["kind"].str.startswith("control_")].groupby("place", sort=False))

    def controls(self, place: Key) -> DataFrame:
        """The rows of the primary controls of a tracked weight."""
        of = ":".join(map(str, place[:3]))
        return self.watch[(self.watch["kind"] == "control_rank") & (self.watch["of"] == of)]

    def levels(self, places: Iterable[Key]) -> DataFrame:
        """Round, step, x and threshold for weights of one matrix; no row where |w| decides nothing."""
        known, criterion = self.evaluations, CRITERIA[self.settings.get("criterion", "global-magnitude")]
        if not criterion.by_magnitude:
            return known[:0]
        if criterion.per_tensor:  # each matrix has its own, of which watch.csv alone knows
            known = self.watch[self.watch["place"].isin(list(places))].drop_duplicates(["round", "step"])
        return known.dropna(subset="level").sort_values("x")


def read_settings(run: Path) -> dict[str, Any]:
    try:
        settings = files.read_json(run / "settings.json")
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _read_watch(path: Path) -> DataFrame:
    """``kind``, ``place``, ``of`` (the weight of a control), ``round``, ``step``, ``size`` (|w|), ``alive``, ``level``.

    The level is the threshold that |w| was compared with, from ``over_threshold``; NaN where that says nothing.
    """
    rows = []
    for row in read_rows(path):
        size, over = abs(float(row["value"])), float(row["over_threshold"] or 0)
        alive, level = row["alive"] in ("1", "True", "true"), size / over if over else None
        rows.append((row["kind"], key(row), row["of"], int(row["round"]), int(row["step"]), size, alive, level))
    columns = ["kind", "place", "of", "round", "step", "size", "alive", "level"]
    return DataFrame(rows, columns=columns).astype(TYPES | {"kind": str, "size": float, "alive": bool})


def read_run(run: Path) -> Run:
    """What the figures need of the four files."""
    start: Event = {}
    remaining: dict[int, float] = {}
    levels: list[Event] = []
    boxes: list[Event] = []
    for event in read_events(run):
        if event["event"] == "start":
            start = event
            remaining[1] = event["counts"][0] / event["total"]
        elif event["event"] == "evaluation":
            levels.append({"round": event["round"], "step": event["step"], "level": event["threshold"] or None})
        elif event["event"] == "prune":
            remaining[event["round"] + 1] = event["remaining_fraction"]
        elif event["event"] == "box":
            boxes.append(event)
    evaluations = DataFrame(levels, columns=["round", "step", "level"]).astype(TYPES)
    steps = evaluations.groupby("round")["step"]
    length = steps.max() - steps.min()
    begin = evaluations["round"].map(length.cumsum() - length)
    evaluations["x"] = begin + evaluations["step"] - steps.transform("min")
    rounds = list(read_rows(run / "rounds.csv"))
    return Run(run, read_settings(run), start, evaluations, remaining, rounds, boxes)
