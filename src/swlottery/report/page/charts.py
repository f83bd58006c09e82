"""The charts that questions share: panels, one row of dots an arm, lines over remaining weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from pandas import DataFrame

from swlottery.report.figures.style import legend
from swlottery.report.page.answer import Picture, Row
from swlottery.report.page.svg import COLOURS, GRID, INK, MARKERS, WIDTH, look

T = TypeVar("T")
OTHERS, TRACKED, MATRIX = COLOURS[0], COLOURS[1], COLOURS[7]
LONGEST = 36
"""Characters of a line of a name beside a figure."""
CIRCLES = "One circle a network, the bar their mean, dashed: chance."
APART = "One circle a network, the bar their mean, dashed: no difference."
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def remaining_axis(axes: Axes, least: float) -> None:
    """Remaining weights in percent, dense at the left, on a log scale."""
    axes.set_xscale("log")
    axes.set_xlim(105, least / 1.05)
    ticks = (100, 80, 64, 51.2, 41, 32.8, 20, 10, 5, 2, 1)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick >= least / 1.05]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(PLAIN)


def panels(
    drawn: Mapping[str, T],
    draw: Callable[[Axes, T], None],
    x: str,
    y: str,
    height: float = 2.3,
    shared: bool = True,
) -> Figure:
    """One panel for each title, two in a row: what ``draw`` makes of what stands under it. shared: the axes' limits."""
    columns = min(2, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    with look():
        figure = Figure(figsize=(WIDTH, height * rows + 0.5))
        grid = list(figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flat)
        for axes in grid[len(drawn) :]:
            axes.axis("off")
        for axes, (title, what) in zip(grid, drawn.items(), strict=False):
            axes.set_title(fill(title, 48))
            draw(axes, what)
        labels(figure, grid[: len(drawn)], x, y)
    return figure


def labels(figure: Figure, grid: Sequence[Axes], x: str, y: str) -> None:
    """The labels of all panels' axes, and one legend."""
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    legend(figure, grid, "outside upper center", ncols=4, fontsize=8.5)


def strip(
    name: str,
    rows: Sequence[Row],
    value: str,
    label: str,
    caption: str,
    by: str = "arm",
    reference: float | None = None,
    band: tuple[str, str] | None = None,
) -> Picture | None:
    """One circle for each row and a bar for their mean, in a line for each ``by``.

    reference: a dashed line. band: the columns of what is to be expected of each row.
    """
    if not rows:
        return None
    lines = DataFrame(rows).groupby(by, sort=False)
    parts = []
    names = [fill(str(line), LONGEST) for line in lines.groups]
    height = max(0.36, 0.16 * max(name.count("\n") + 1 for name in names))
    with look():
        figure = Figure(figsize=(WIDTH, 1.1 + height * len(lines)))
        axes = figure.subplots()
        for y, (line, own) in enumerate(lines):
            for ends in own[list(band)].to_numpy() if band else ():
                axes.plot(ends, [y, y], color=GRID, lw=9, solid_capstyle="butt", zorder=1)
            values = sorted(own[value])
            spread = [y + 0.24 * ((n % 5) / 2 - 1) if len(values) > 1 else y for n in range(len(values))]
            axes.plot(values, spread, "o", ms=5, color=OTHERS, mfc="none")
            mean = float(np.mean(values))
            if len(values) > 1:
                axes.plot([mean, mean], [y - 0.34, y + 0.34], color=TRACKED, lw=2.4)
            parts.append(f"{line}: {len(values)} from {values[0]:.3g} to {values[-1]:.3g}, mean {mean:.3g}")
        if reference is not None:
            axes.axvline(reference, color=INK, lw=1, ls="--")
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlabel(label)
    return Picture(name, figure, caption, f"{label}. {'; '.join(parts)}.")


def lines(
    name: str,
    rows: Sequence[Row] | DataFrame,
    points: Sequence[Row] | DataFrame,
    y: str,
    label: str,
    caption: str,
    x: str = "remaining, %",
    log: bool = False,
) -> Picture | None:
    """A column of a table against remaining weights, a line an arm; points: that column of each network, a dot each."""
    table, dots = DataFrame(rows), DataFrame(points)
    if table.empty:
        return None
    parts = []
    with look():
        figure = Figure(figsize=(WIDTH, 3.8))
        axes = figure.subplots()
        for n, (arm, own) in enumerate(table.groupby("arm", sort=False)):
            colour, each = COLOURS[n % len(COLOURS)], dots[dots["arm"] == arm]
            marker = MARKERS[n % len(MARKERS)]
            axes.plot(own[x], own[y], color=colour, marker=marker, ms=5, lw=1.6, label=str(arm))
            axes.plot(each[x], each[y], ".", color=colour, ms=3, alpha=0.6)
            (first, first_y), (last, last_y) = own[[x, y]].to_numpy()[[0, -1]]
            parts.append(f"{arm}: {first_y:.4g} at {first:.1f} % to {last_y:.4g} at {last:.1f} %")
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PLAIN)
            axes.yaxis.set_minor_formatter(PLAIN)
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        remaining_axis(axes, table[x].min())
        axes.set_xlabel("remaining weights, % (dense at the left)")
        axes.set_ylabel(label)
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5)
    return Picture(name, figure, caption, f"{label} against remaining weights. {'; '.join(parts)}.")
