"""``swlottery status``: the state of every run of a folder, from its status.json, and of every point of a study."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from swlottery.report import words
from swlottery.report.words import KINDS, NOTHING, duration, number, which_code
from swlottery.runtime import provenance
from swlottery.runtime.folder import is_gone, read_status
from swlottery.study.states import PointState

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
    if _is_run(folder):
        return [_row(folder)]
    return [_row(path) for path in sorted(folder.glob("[!.]*")) if _is_run(path)]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def _row(run: Path) -> Row:
    row: Row = {"run": run.name or str(run), "kind": None, "message": "", "age": None} | dict.fromkeys(NUMBERS)
    row["codes"] = provenance.codes(run)
    status = read_status(run)
    state = status.get("state")
    if not isinstance(state, str):
        return row | {"state": "unreadable" if (run / "status.json").exists() else "no status"}
    row |= {name: status[name] for name in NUMBERS if type(status.get(name)) in (int, float)}
    row |= {name: status[name] for name in ("kind", "message") if isinstance(status.get(name), str)}
    state = "dead" if state == "running" and is_gone(status) else state
    return row | {"state": _plain(state), "age": _age(status)}


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
    cells = [
        [
            _plain(row["run"]),
            row["state"],
            *_progress(row),
            _loss(row["train_loss"]),
            _loss(row["val_loss"]),
            duration(row["seconds_left"] if row["state"] == "running" else None),
            NOTHING if row["age"] is None else f"{duration(row['age'])} ago",
            _alive(row),
        ]
        for row in rows
    ]
    heads = ["run", "state", "round", "step", "train", "val", "time left", "updated", "alive"]
    reasons = [f"{_plain(row['run'])}: {_plain(row['message'])}" for row in rows if row["message"]]
    return "\n".join([_with_reasons(heads, cells, reasons), *_codes(row["codes"] for row in rows)])


def study_table(states: Sequence[PointState]) -> str:
    """The table of a study's points; below it why points are not done, and how many have which state."""
    cells = []
    for one in states:
        row = dict.fromkeys(NUMBERS) | dict(one.status)
        cells.append([one.label, one.state, *_progress(row), number(row["val_loss"]), one.task or NOTHING])
    heads = ["point", "state", "round", "step", "val", "task"]
    text = _with_reasons(heads, cells, [f"{one.label}: {one.reason}" for one in states if one.reason])
    return "\n".join([text, "", counts(states), *_codes(one.codes for one in states)])


def _codes(runs: Iterable[Sequence[provenance.Code]]) -> list[str]:
    """A line a code, and how many runs it had a part in."""
    by_code = Counter(text for codes in runs for text in dict.fromkeys(map(which_code, codes)))
    return [f"code of {words.count(n, 'run')}: {_plain(text)}" for text, n in by_code.items()]


def counts(states: Sequence[PointState]) -> str:
    """How many points have which state: ``3 points: 2 done, 1 failed``."""
    by_state = Counter(one.state for one in states)
    return f"{words.count(len(states), 'point')}: " + ", ".join(f"{n} {state}" for state, n in by_state.items())


def _with_reasons(heads: Sequence[str], cells: Sequence[Sequence[str]], reasons: Sequence[str]) -> str:
    lines = words.table(heads, cells, left=2, width=10_000)
    return "\n".join([*lines, *([""] if reasons else []), *reasons])


def _plain(text: str) -> str:
    """Text without what could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _progress(row: Row) -> tuple[str, str]:
    """The round and the step: ``2 of 5`` or ``final (5)``, and ``120 of 300``."""
    final = None not in (row["round"], row["rounds"]) and row["round"] > row["rounds"]
    round = f"final ({row['rounds']})".removesuffix(" (0)") if final else _of_total(row["round"], row["rounds"])
    return round, _of_total(row["step"], row["steps"])


def _of_total(part: Any, total: Any) -> str:
    return NOTHING if part is None else f"{part} of {'?' if total is None else total}"


def _loss(value: float | None) -> str:
    return number(value) if value is None or math.isfinite(value) else str(value)


def _alive(row: Row) -> str:
    """``2/3 super weights``; a leader is named as one. Foreign weights are not counted."""
    if not row["followed"]:
        return NOTHING
    alive = "?" if row["alive"] is None else row["alive"]
    return f"{alive}/{row['followed']} {KINDS.get(row['kind'] or '', 'weight')}{'s' * (row['followed'] > 1)}"
