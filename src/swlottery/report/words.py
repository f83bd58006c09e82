"""How weights, numbers and tables are written in logs, in figures and by ``status``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 120
KINDS = {"super_weight": "super weight", "leader": "leader", "foreign": "foreign weight"}
"""The kinds of tracked weights. A leader is never called a super weight."""
CONTROLS = {
    "control_rank": ("rank", "nearest in rank"),
    "control_sigma": ("sigma", "at equal |w|/σ elsewhere"),
    "control_initial": ("initial", "nearest in |θ_0|"),
    "control_both": ("both", "near in both"),
}
"""The kinds of controls: as a column is headed, and in words. The first is the primary one."""
NOTHING = "—"

Key = tuple[int, ...]
"""(layer, out, in), and the expert behind them where there is one."""


def key(weight: Mapping[str, Any]) -> Key:
    """(layer, out, in) of an entry of an event or a row, and the expert behind them where there is one."""
    expert = weight.get("expert")
    place = (weight["layer"], weight["out"], weight["in"])
    return tuple(int(number) for number in (place if expert in (None, "") else (*place, expert)))


def place(at: Sequence[int]) -> str:
    """A coordinate as everywhere in the logs: ``(2, 447, 666)``, and the expert's number where there is one."""
    return f"({', '.join(map(str, at[:3]))}{', expert ' + str(at[3]) if len(at) > 3 else ''})"


def coordinate(written: str) -> Key:
    """What `place` has written."""
    return tuple(map(int, re.findall(r"\d+", written)))


def named(weight: Mapping[str, Any]) -> str:
    """A tracked weight by its kind and coordinate: ``super weight (2, 447, 666)``."""
    return f"{KINDS[weight['kind']]} {place(key(weight))}"


def one_line(text: object) -> str:
    """A name or a path, whatever is in it, on one line: a line end is written as ``\\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def which_code(of: Mapping[str, Any] | None) -> str:
    """Which code ran: ``frozen copy of commit 1600cb53249a, changed``; empty where nothing is known."""
    if not of:
        return ""
    commit = f"commit {str(of['commit'])[:12]}" if of.get("commit") else "code without a known commit"
    why = f" ({of['why']})" if of.get("why") else ""
    changes = ", ".join(["", *(name for name in ("changed", "edited") if of.get(name))])
    return one_line(f"{'frozen copy of ' if of.get('frozen') else ''}{commit}{why}{changes}")


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.2f} %"


def share(part: int, total: int) -> str:
    return percent(part / total if total else None)


def number(value: float | None, digits: int = 4) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def count(number: int, what: str) -> str:
    """``1 point``, ``2,000 points``."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def tokens(number: int | None) -> str:
    """A number of tokens in three digits: 2.1B."""
    if number is None:
        return NOTHING
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def perplexity(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.2f}" if value < 1e7 or math.isnan(value) else f"{value:.2e}"


def threshold(value: float | None) -> str:
    """A threshold in |w|, as the first runs' logs wrote it; there is none where nothing was pruned."""
    return NOTHING if value is None else f"{value:.6e}"


def duration(seconds: float | None) -> str:
    """Seconds in the two units that matter."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    rounded = round(seconds)
    for large, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rounded >= size:
            return f"{rounded // size} {large} {rounded % size // part:02} {small}"
    return f"{rounded} s"


def looked_at(ablations: Sequence[Mapping[str, Any]]) -> str:
    """On how many documents, and at which level the intervals are: ``8, 99.8 %``; schema 1 does not say it."""
    counts = sorted(one["documents"] for one in ablations if "documents" in one)
    levels = sorted(100 * one["level"] for one in ablations if "level" in one)
    ends = [" to ".join(dict.fromkeys((f"{some[0]:g}", f"{some[-1]:g}"))) for some in (counts, levels) if some]
    return ", ".join(ends) + " %" * bool(ends)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, width: int = WIDTH) -> list[str]:
    """Lines of a table: the first ``left`` columns to the left, the others to the right.

    Columns beyond ``width`` follow below, beside the first column once more.
    """
    body = [list(heads), *(list(row) for row in rows)]
    sizes = [max(map(len, column)) for column in zip(*body, strict=True)]
    blocks: list[list[int]] = [[0]]
    for column in range(1, len(sizes)):
        if sum(sizes[i] + 2 for i in blocks[-1]) + sizes[column] > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(column)
    return [
        "  ".join(row[i].ljust(sizes[i]) if i < left else row[i].rjust(sizes[i]) for i in block).rstrip()
        for block in blocks
        for row in body
    ]
