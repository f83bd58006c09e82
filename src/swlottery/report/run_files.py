"""Reading the files of a run folder, also of a run that is not finished, or was cut off in the middle of a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swlottery.report.words import Key, key

Event = dict[str, Any]


def read_events(run: Path) -> Iterator[Event]:
    """The events of metrics.jsonl."""
    return map(json.loads, _lines(run / "metrics.jsonl"))


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table."""
    return csv.DictReader(_lines(path))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file, which may be missing. A last line that is only half written is left out."""
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            yield from (line for line in file if line.endswith("\n"))


@dataclass
class Track:
    """|w| of one weight at every evaluation. at: (round, step)."""

    kind: str
    place: Key
    at: list[tuple[int, int]] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    alive: list[bool] = field(default_factory=list)
    level: list[float] = field(default_factory=list)
    """The threshold that |w| was compared with, from ``over_threshold``; 0 where that says nothing."""

    @property
    def pruned_at(self) -> int | None:
        """The position of the first evaluation whose mask no longer has the weight."""
        return next((i for i, alive in enumerate(self.alive) if not alive), None)


@dataclass
class Run:
    """What the figures of a run are drawn from."""

    name: str
    settings: dict[str, Any]
    start: Event
    thresholds: dict[tuple[int, int], float | None]
    """(round, step) of every evaluation, in order → what pruning there would give."""
    remaining: dict[int, float]
    """Round → the fraction of the weights that it trains under."""
    rounds: list[dict[str, str]]
    tracked: list[Track]
    controls: dict[Key, list[Track]]
    """The primary controls of each tracked weight, by its (layer, out, in)."""
    boxes: list[Event]

    @property
    def prunes(self) -> int:
        """R, the number of prunes."""
        return int(self.start.get("prunes") or 0)

    @property
    def title(self) -> str:
        """The name above a figure: the model, or the folder while nothing more is known."""
        return str(self.start.get("model") or self.name)

    @property
    def remark(self) -> str:
        """Which run it is, and what cannot be seen in a figure."""
        known = [f"{name} {self.settings[name]}" for name in ("scope", "criterion", "rewind") if name in self.settings]
        return "; ".join([f"run {self.name}", *known])

    def levels(self, tracks: Sequence[Track]) -> dict[tuple[int, int], float | None]:
        """The threshold at every evaluation, for weights of one matrix; none where |w| decides nothing."""
        criterion = self.settings.get("criterion")
        if criterion == "random":
            return {}
        if criterion != "layer-magnitude":
            return self.thresholds
        return {at: level for one in tracks for at, level in zip(one.at, one.level, strict=True) if level}


def read_settings(run: Path) -> dict[str, Any]:
    try:
        settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def read_run(run: Path, watch: bool = True) -> Run:
    """What the figures need of the four files; without ``watch``, the tracked weights are left out."""
    start: Event = {}
    thresholds: dict[tuple[int, int], float | None] = {}
    remaining: dict[int, float] = {}
    boxes: list[Event] = []
    for event in read_events(run):
        if event["event"] == "start":
            start = event
            remaining[1] = event["counts"][0] / event["total"]
        elif event["event"] == "evaluation":
            thresholds[event["round"], event["step"]] = event["threshold"]
        elif event["event"] == "prune":
            remaining[event["round"] + 1] = event["remaining_fraction"]
        elif event["event"] == "box":
            boxes.append(event)
    tracked: dict[Key, Track] = {}
    controls: dict[tuple[Key, Key], Track] = {}
    for row in read_rows(run / "watch.csv") if watch else ():
        place, kind = key(row), row["kind"]
        if kind.startswith("control_"):
            if kind != "control_rank":
                continue
            of = tuple(int(part) for part in row["of"].split(":"))
            track = controls.setdefault((of, place), Track(kind, place))
        else:
            track = tracked.setdefault(place, Track(kind, place))
        size, over = abs(float(row["value"])), float(row["over_threshold"] or 0)
        track.at.append((int(row["round"]), int(row["step"])))
        track.size.append(size)
        track.alive.append(row["alive"] in ("1", "True", "true"))
        track.level.append(size / over if over else 0.0)
    grouped: dict[Key, list[Track]] = {}
    for (of, _), track in controls.items():
        grouped.setdefault(of, []).append(track)
    rounds = list(read_rows(run / "rounds.csv"))
    return Run(
        run.name, read_settings(run), start, thresholds, remaining, rounds, list(tracked.values()), grouped, boxes
    )
