"""What a run took where its settings say ``auto``: decided by its first start, and kept by every later one.

A run may go on on another machine, and a branch may start there. Its precision and its text must not change with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings, flag_of
from swlottery.errors import BadInput
from swlottery.runtime import files, sums


@dataclass(frozen=True)
class Resolved:
    """dtype: of matrix products, ``float32`` or ``bfloat16``. data_tokens: how many tokens of the text; 0: all."""

    dtype: str
    data_tokens: int


def stored(run: Path) -> Resolved | None:
    """What the first start of the run in this folder took; None before it.

    environment.json has it, and so has the history's first event, should that file be lost or damaged. A run of an
    earlier version has it in its settings.
    """
    for found in _records(run):
        with suppress(KeyError, TypeError, ValueError):
            if found["dtype"] != "auto":
                return Resolved(str(found["dtype"]), int(found["data_tokens"]))
    return None


def begun(run: Path) -> dict[str, Any]:
    """The machine, the threads and the versions of its first start; empty before it."""
    return next((found for found in _records(run) if "versions" in found), {})


def _records(run: Path) -> Iterator[dict[str, Any]]:
    for name in ("environment.json", "metrics.jsonl", "settings.json"):
        with suppress(OSError, ValueError), open(run / name, encoding="utf-8") as file:
            yield sums.unsealed(files.parse_json(file.readline() if name == "metrics.jsonl" else file.read()))


def differs(settings: TrainSettings, resolved: Resolved) -> tuple[str, Any] | None:
    """The first setting, with its value in ``resolved``, that asks for something else by name; None where none does."""
    if settings.dtype not in ("auto", resolved.dtype):
        return "dtype", resolved.dtype
    if settings.data_tokens != "auto" and int(settings.data_tokens) != resolved.data_tokens:
        return "data_tokens", resolved.data_tokens
    return None


def kept(run: Path, settings: TrainSettings) -> Resolved | None:
    """`stored`, for a start with these settings. Raises `BadInput` where they ask for something else by name."""
    before = stored(run)
    if before is not None and (found := differs(settings, before)):
        name, value = found
        raise BadInput(
            f"{run} was begun with {name} {value}, not {getattr(settings, name)}: leave {flag_of(name)} away, or give "
            "--runs another folder"
        )
    return before
