"""``swlottery status``: the state of every run of a folder, from its status.json."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from swlottery.report import words
from swlottery.report.words import KINDS, NOTHING, duration, number
from swlottery.runtime.folder import is_gone

Row = dict[str, Any]
FILES = ("settings.json", "status.json", "metrics.jsonl")
"""A folder that has one of these is a run."""
NUMBERS = ("round", "rounds", "step", "steps", "train_loss", "val_loss", "alive", "followed", "seconds_left")


def runs(folder: Path) -> list[Row]:
    """One row a run in ``folder``, by name; of ``folder`` itself where that is a run.

    A row has ``run``, ``state`` (running, finished, stopped, failed; *dead*: says that it runs, but its process on
    this host has gone; *unreadable* and *no status*: of status.json), ``kind`` of what is tracked, ``message``,
    ``age`` (seconds since the last update), and what status.json says under `NUMBERS`; None where it says nothing.
    """
    if any((folder / name).is_file() for name in FILES):
        return [_row(folder)]
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    return [_row(path) for path in inside if any((path / name).is_file() for name in FILES)]


def _row(run: Path) -> Row:
    row: Row = {"run": run.name or str(run), "kind": None, "message": "", "age": None}
    row |= dict.fromkeys(NUMBERS)
    try:
        status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return row | {"state": "no status"}
    except (OSError, ValueError):
        return row | {"state": "unreadable"}
    if not isinstance(status, dict) or not isinstance(status.get("state"), str):
        return row | {"state": "unreadable"}
    row |= {name: status[name] for name in NUMBERS if _is_number(status.get(name))}
    state = "dead" if status["state"] == "running" and is_gone(status) else status["state"]
    message, kind = status.get("message"), status.get("kind")
    row["kind"] = kind if isinstance(kind, str) else None
    return row | {"state": _plain(state), "message": message if isinstance(message, str) else "", "age": _age(status)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _age(status: Row) -> float | None:
    try:
        written = datetime.strptime(str(status.get("updated")), "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        return None
    return max(time.time() - written.timestamp(), 0.0)


def table(rows: Sequence[Row]) -> str:
    """The table of `runs`, for a terminal; below it, why runs stopped or failed."""
    if not rows:
        return "no run here"
    cells = []
    for row in rows:
        losses = [_loss(row["train_loss"]), _loss(row["val_loss"])]
        left = duration(row["seconds_left"]) if row["state"] == "running" else NOTHING
        age = NOTHING if row["age"] is None else f"{duration(row['age'])} ago"
        cells.append(
            [_plain(row["run"]), row["state"], round_of(row), of_total(row["step"], row["steps"]), *losses, left, age]
        )
        cells[-1].append(_alive(row))
    heads = ["run", "state", "round", "step", "train", "val", "time left", "updated", "alive"]
    lines = words.table(heads, cells, left=2, width=10_000)
    said = [f"{_plain(row['run'])}: {_plain(row['message'])}" for row in rows if row["message"]]
    return "\n".join([*lines, *([""] if said else []), *said])


def _plain(text: str) -> str:
    """Text without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def round_of(row: Row) -> str:
    """The round of a row, ``2 of 5``, or ``final (5)``."""
    final = row["round"] is not None and row["rounds"] is not None and row["round"] > row["rounds"]
    return f"final ({row['rounds']})" if final else of_total(row["round"], row["rounds"])


def of_total(part: Any, total: Any) -> str:
    """``120 of 300``."""
    return NOTHING if part is None else f"{part} of {'?' if total is None else total}"


def _loss(value: float | None) -> str:
    return number(value) if value is None or math.isfinite(value) else str(value)


def _alive(row: Row) -> str:
    """``2/3 super weights``; a leader is named as one. Foreign weights are not counted."""
    if not row["followed"]:
        return NOTHING
    alive = "?" if row["alive"] is None else row["alive"]
    return f"{alive}/{row['followed']} {KINDS.get(row['kind'] or '', 'weight')}{'s' * (row['followed'] > 1)}"
