"""The log of ``swlottery trace``, and the tables that it shares with that of ``swlottery train --trace log``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swlottery.config import TraceSettings
from swlottery.find.effects import CRITICAL, INERT
from swlottery.models.coordinates import Coordinate
from swlottery.report.logs.log import Log
from swlottery.report.words import NOTHING, count, one_line, table, tokens
from swlottery.version import __version__

Row = Mapping[str, Any]

MOST_SHOWN = 8
"""The most weights that have a table of their own; trace.csv has them all."""


def by_weight(rows: Sequence[Row]) -> dict[Coordinate, list[Row]]:
    """The rows of trace.csv, weight by weight."""
    found: dict[Coordinate, list[Row]] = {}
    for row in rows:
        found.setdefault(Coordinate.of(row), []).append(row)
    return found


def tables(rows: Sequence[Row]) -> list[str]:
    """When each weight first stands above the bar and first matters; then each of them through all checkpoints."""
    weights = by_weight(rows)
    if not any(row["found"] for row in rows):
        last = f"the last one's leader, {', '.join(map(str, weights))}, is followed"
        lines = [f"No super weight in any checkpoint: {last}."]
    else:
        lines = []
    heads = ["weight", "first above the bar", "first matters", "first large", "ratio at last", "share", "ΔNLL"]
    cells = []
    for weight, own in weights.items():
        firsts = [_first(own, lambda row: row["found"])]
        unknown = all(row["low"] is None for row in own)
        for bar in (INERT, CRITICAL):
            firsts.append(NOTHING if unknown else _first(own, lambda row, bar=bar: (row["low"] or 0) > bar))  # type: ignore[misc]
        end = own[-1]
        cells.append([str(weight), *firsts, f"{end['ratio']:.3g}", f"{end['share']:.0%}", _effect(end)])
    lines += table(heads, cells)
    lines += [
        "  above the bar: the search finds it. matters: without it alone, the interval of ΔNLL (nats a token, 95 %) is",
        f"  above {INERT}; large: above {CRITICAL}. No controls were looked at: find says whether a weight is critical",
    ]
    for weight, own in list(weights.items())[:MOST_SHOWN]:
        lines += ["", f"{weight}", *through(own)]
    if len(weights) > MOST_SHOWN:
        lines.append(f"\n{len(weights) - MOST_SHOWN} more weights are in trace.csv")
    return lines


def through(rows: Sequence[Row]) -> list[str]:
    """One weight through all checkpoints."""
    heads = ["checkpoint", "tokens", "value", "rank of |w|", "ratio", "share", "found", "ΔNLL", "95 % interval"]
    cells = []
    for row in rows:
        interval = NOTHING if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        seen = [f"{row['value']:+.4g}", f"{row['rank']:,}", f"{row['ratio']:.1f}", f"{row['share']:.0%}"]
        found = "found" if row["found"] else ""
        cells.append([one_line(row["checkpoint"]), tokens(row["tokens"]), *seen, found, _effect(row), interval])
    return table(heads, cells)


def _first(rows: Sequence[Row], holds: Callable[[Row], bool]) -> str:
    for row in rows:
        if holds(row):
            return one_line(row["checkpoint"]) + (f" ({tokens(row['tokens'])})" if row["tokens"] is not None else "")
    return "never"


def _effect(row: Row) -> str:
    return NOTHING if row["nll_difference"] is None else f"{row['nll_difference']:+.4f}"


class TraceLog(Log):
    """Prints the sections of the log as the work goes on."""

    def header(self, settings: TraceSettings, labels: Sequence[str], text: str, out: Path) -> None:
        """What is followed, and what it costs."""
        self.line(f"swlottery {__version__} trace: when do the super weights form?\n")
        names = ", ".join(map(one_line, settings.model[:3])) + (" …" if len(settings.model) > 3 else "")
        facts = {
            "model": names,
            "checkpoints": f"{len(labels)}, from {one_line(labels[0])} to {one_line(labels[-1])}",
            "bar": f"κ = {settings.kappa:g} times both medians, as in find",
            "text": f"{one_line(text)}, {settings.eval_tokens:,} tokens",
            "cost": "each checkpoint is loaded twice. The search takes a few passes over the probe; then each weight "
            f"found in any takes one pass over the text in all, at most {len(labels) * settings.eval_tokens:,} tokens "
            "a weight",
            "results": f"{one_line(out)}: the same command goes on from what is there",
        }
        self.facts(facts, 13)
        self.section("What is found in each")

    def searched(self, label: str, seen: int | None, content: Mapping[str, Any]) -> None:
        """What is found in one checkpoint, or what its leader lacks."""
        weights = [
            f"{Coordinate.of(one)} ratio {one['ratio']:.3g}, share {one['share']:.0%}" for one in content["weights"]
        ]
        what = f"{len(weights)} found: " if content["kind"] == "super_weight" else "none; leader "
        where = one_line(label) + (f" ({tokens(seen)} tokens)" if seen is not None else "")
        self.paragraph(f"{where}: {what}{'; '.join(weights)}", 4)

    def following(self, those: Sequence[Coordinate], found: bool) -> None:
        """Which weights are looked up in all checkpoints."""
        what = count(len(those), "weight") if found else "the last checkpoint's leader"
        self.line(f"\nlooking up {what} in all of them")

    def stopped(self, out: Path) -> None:
        self.line(f"asked to stop: what is done is kept in {one_line(out)}; the same command goes on from there")

    def footer(self, rows: Sequence[Row], path: Path, figure: Path) -> None:
        """The tables, and where everything is."""
        self.section("When did they form?")
        self.lines(tables(rows))
        self.section("Where everything is")
        self.line(f"table    {one_line(path)}\nfigure   {one_line(figure)}")
