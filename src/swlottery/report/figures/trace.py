"""``trace.png``, drawn from trace.csv: each followed weight through the checkpoints of one training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from swlottery.config import KAPPA
from swlottery.find import trace as tracing
from swlottery.models.coordinates import Coordinate
from swlottery.report.figures.style import COLOURS, GREY, log_ticks, look, page, save
from swlottery.report.words import tokens

MARKS = "os^vDPX*"
MOST_DRAWN = len(COLOURS)
"""The most weights that are drawn; trace.csv has them all."""


def draw(table: Path, folder: Path, title: str, kappa: float = KAPPA) -> Path:
    """Write ``trace.png`` into ``folder``; returns its path. kappa: the bar."""
    with look():
        return save(traced(tracing.read(table), title, kappa), folder / "trace.png")


def traced(rows: list[dict[str, Any]], title: str, kappa: float) -> Figure:
    """Ratio, share, |w|, rank and effect of each weight over the tokens that were seen, or over steps."""
    weights: dict[Coordinate, list[dict[str, Any]]] = {}
    for row in rows:
        weights.setdefault(Coordinate.of(row), []).append(row)
    over = "step" if any(row["tokens"] is None for row in rows) else "tokens"
    more = len(weights) - MOST_DRAWN
    remarks = [
        "Filled: the search finds it there. Dashed: the bar. ΔNLL: what it costs to set the weight alone to zero, with "
        "its 95 % interval, where it was measured.",
        f"The first {MOST_DRAWN} weights; {more} more are in trace.csv." if more > 0 else "",
    ]
    figure = page("When each weight forms", title, 8.2, [text for text in remarks if text])
    names = {
        "ratio": "ratio",
        "share": "share (%)",
        "value": "|w|",
        "rank": "rank of |w|",
        "nll_difference": "ΔNLL (nats)",
    }
    grid = figure.subplots(len(names), 1, sharex=True)
    for axes, (column, name) in zip(grid, names.items(), strict=True):
        for (_, own), colour, mark in zip(weights.items(), COLOURS, MARKS, strict=False):
            _line(axes, own, column, over, colour, mark)
        axes.set_ylabel(name)
    grid[0].axhline(kappa, color=GREY, lw=1, ls="--")
    for axes in (grid[0], grid[3]):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, "{x:,g}")
    grid[3].invert_yaxis()
    grid[4].axhline(0, color=GREY, lw=0.8)
    places = sorted({row[over] for row in rows})
    if places[-1] > 20 * max(places[1 if len(places) > 1 and places[0] == 0 else 0], 1):
        grid[0].set_xscale("symlog", linthresh=next(place for place in places if place > 0))
        grid[0].xaxis.set_minor_locator(NullLocator())
    grid[0].xaxis.set_major_formatter(lambda place, _: tokens(round(place)) if place >= 0 else "")
    left = min(places[0], next((place for place in places if place > 0), 0) / 1.3)
    grid[0].set_xlim(left, places[-1] * 1.1)
    grid[-1].set_xlabel(
        "tokens seen in training" if over == "tokens" else "step, or the order of checkpoints without one"
    )
    handles, labels = grid[0].get_legend_handles_labels()
    named = [str(weight) for weight in weights]
    figure.legend(handles, named[: len(labels)], loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _line(axes: Axes, rows: list[dict[str, Any]], column: str, over: str, colour: str, mark: str) -> None:
    known = [row for row in rows if row[column] is not None]
    factor = 100 if column == "share" else 1
    x = [row[over] for row in known]
    y = [factor * (abs(row[column]) if column == "value" else row[column]) for row in known]
    axes.plot(x, y, lw=1.2, marker=mark, mfc="white", label=str(Coordinate.of(rows[0])), color=colour)
    found = [nth for nth, row in enumerate(known) if row["found"]]
    axes.plot([x[nth] for nth in found], [y[nth] for nth in found], mark, color=colour)
    if column == "nll_difference":
        axes.vlines(x, [row["low"] for row in known], [row["high"] for row in known], color=colour, lw=1)
