"""What a report is made of: answers, each with its tables and figures. Pages are written from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas
from matplotlib.figure import Figure

from swlottery.study.statistics import holm

NOTHING = "—"

Row = dict[Any, Any]
"""One line of a table: what stands in each column."""


@dataclass(frozen=True)
class Table:
    """One table.

    name: of its CSV file. rows: by column; a cell is text, a number, or None where there is nothing to say.
    """

    name: str
    caption: str
    rows: Sequence[Row]

    def __post_init__(self) -> None:
        if any(list(row) != self.heads for row in self.rows):
            raise ValueError(f"the rows of {self.name} do not have the same columns")

    @property
    def heads(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    @property
    def columns(self) -> list[tuple[str, list[Any]]]:
        return [(head, [row[head] for row in self.rows]) for head in self.heads]

    def csv(self) -> str:
        """The table as CSV, with numbers in full."""

        return str(pandas.DataFrame(self.rows, dtype=object).to_csv(index=False, lineterminator="\n"))


@dataclass(frozen=True)
class Picture:
    """One figure. alternative: what it shows, for whoever cannot see it."""

    name: str
    figure: Figure
    caption: str
    alternative: str


@dataclass
class Answer:
    """What the runs say to one question.

    name: of its section, an id in the page. verdict: at most twelve words. number: what it rests on, with its interval.
    networks: how many, as `counted` says it; None where that has no meaning. sentence: one, with the numbers. tables
    and pictures: those that have nothing to show are left out. method: how, shortly.
    """

    name: str
    question: str
    verdict: str
    number: str = ""
    networks: int | str | None = None
    sentence: str = ""
    tables: list[Table] = field(default_factory=list)
    pictures: list[Any] = field(default_factory=list)
    method: str = ""

    def __post_init__(self) -> None:
        self.tables = [table for table in self.tables if table.rows]
        self.pictures = [picture for picture in self.pictures if picture is not None]


def cell(value: Any) -> str:
    """A cell as it is written."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def corrected(rows: Sequence[Row]) -> None:
    """Set ``p (Holm)`` from ``p``, for rows that are one family."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p (Holm)"] = p


def p_value(p: float) -> str:
    """``p = 0.031``; never ``p = 0``."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """``[0.1, 0.3]``; ``[−∞, ∞]`` where there are too few networks for one."""
    return f"[{low:.{digits}g}, {high:.{digits}g}]".replace("-inf", "−∞").replace("inf", "∞")


def ends(written: str) -> tuple[float, float]:
    """The numbers of an `interval`."""
    low, high = written.strip("[]").replace("∞", "inf").replace("−", "-").split(", ")
    return float(low), float(high)


def within(written: str) -> str:
    """An `interval` behind a number in a sentence: nothing where there is none."""
    return "" if "∞" in written else f" {written}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1] if parts else "none"


def counted(networks: Iterable[int]) -> int | str | None:
    """How many networks the arms have: one number, or ``3 to 8`` where they differ."""
    there = sorted(set(networks))
    return f"{there[0]} to {there[-1]}" if len(there) > 1 else next(iter(there), None)


def by_arm(numbers: Mapping[str, str]) -> str:
    """One number of each arm, for the summary: ``20 % × 5: 0.71; 10 % × 10: 0.55``. A single one needs no name."""
    if len(numbers) == 1:
        return next(iter(numbers.values()))
    return "; ".join(f"{arm}: {number}" for arm, number in numbers.items())
