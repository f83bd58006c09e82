"""The charts that questions share: panels, one row of dots an arm, lines over remaining weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from pandas import DataFrame

from swlottery.report.figures import style
from swlottery.report.page.answer import Picture, Row
from swlottery.report.page.svg import COLOURS, GRID, INK, MARKERS, WIDTH, look

T = TypeVar("T")
OTHERS, TRACKED, LEADER, MATRIX = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[7]
LONGEST = 36
"""Characters of a line of a name beside a figure."""
CIRCLES = "One circle a network, the bar their mean, dashed: chance."
APART = "One circle a network, the bar their mean, dashed: no difference. Behind the arms stands what remains."
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
RANK = "rank among its controls (0: least of all, 1: most of all)"


def wrapped(text: str, width: int = LONGEST) -> str:
    """Text in lines of so many characters, with no break inside ``20 % × 5``, ``T 1200`` and ``(0, 41, 60)``."""
    lines = re.sub(r" (?=[%×])|(?<=×) |(?<=\bT) (?=\d)|(?<=\d,) (?=\d)", "\N{NO-BREAK SPACE}", text).split("\n")
    return "\n".join(fill(line, width) for line in lines).replace("\N{NO-BREAK SPACE}", " ")


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
    with look():
        figure = Figure(figsize=(WIDTH, height * -(-len(drawn) // columns) + 0.5))
        grid = style.panels(figure, len(drawn), columns, sharex=shared, sharey=shared)
        for axes, (title, what) in zip(grid, drawn.items(), strict=True):
            axes.set_title(wrapped(title, 48))
            draw(axes, what)
        labels(figure, grid, x, y)
    return figure


def labels(figure: Figure, grid: Sequence[Axes], x: str, y: str) -> None:
    """The labels of all panels' axes, and one legend."""
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    style.legend(figure, grid, "outside upper center", ncols=4, fontsize=8.5)


def lanes(values: Sequence[float], near: float) -> list[int]:
    """By sorted value the place across a line, 0, 1, −1, 2, …: that nearest to 0 where none of the others is near."""
    last: list[float] = []
    found = []
    for value in values:
        lane = next((n for n, other in enumerate(last) if value - other > near), len(last))
        last[lane : lane + 1] = [value]
        found.append((lane + 1) // 2 * (-1) ** lane)
    return found


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
    """One circle for each row and a bar for their mean, in a line for each ``by``; circles that would meet are stacked.

    reference: a dashed line. band: the columns of what is to be expected of each row.
    """
    if not rows:
        return None
    table = DataFrame(rows)
    lines = table.groupby(by, sort=False)
    parts = []
    names = [wrapped(str(line)) for line in lines.groups]
    shown = [*table[[value, *(band or ())]].to_numpy(dtype=float).flat, *([] if reference is None else [reference])]
    at = {line: lanes(sorted(own[value]), 0.0135 * (max(shown) - min(shown))) for line, own in lines}
    most = max(len(set(found)) for found in at.values())
    height = max(0.36, 0.16 * max(name.count("\n") + 1 for name in names), min(0.072 * (most + 1), 0.9))
    with look():
        figure = Figure(figsize=(WIDTH, 1.1 + height * len(lines)))
        axes = figure.subplots()
        for y, (line, own) in enumerate(lines):
            for ends in own[list(band)].to_numpy() if band else ():
                axes.plot(ends, [y, y], color=GRID, lw=9, solid_capstyle="butt", zorder=1)
            values = sorted(own[value])
            mean = float(np.mean(values))
            if len(values) > 1:
                axes.plot([mean, mean], [y - 0.34, y + 0.34], color=TRACKED, lw=2.4)
            step = min(0.072 / height, 0.9 / most)
            axes.plot(values, [y + step * lane for lane in at[line]], "o", ms=4.5, color=OTHERS, mfc="none")
            parts.append(f"{line}: {len(values)} from {values[0]:.3g} to {values[-1]:.3g}, mean {mean:.3g}")
        if reference is not None:
            axes.axvline(reference, color=INK, lw=1, ls="--")
        axes.set_yticks(range(len(lines)), names)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlabel(wrapped(label, 90))
    return Picture(name, figure, caption, f"{' '.join(label.split())}. {'; '.join(parts)}.")


def lines(
    name: str,
    rows: Sequence[Row] | DataFrame,
    points: Sequence[Row] | DataFrame,
    y: str,
    label: str,
    caption: str,
    log: bool = False,
    band: tuple[float, float] | None = None,
    number: str = "",
) -> Picture | None:
    """A column of a table against remaining weights, a line an arm; points: that column of each network, a dot each.

    band: of values, in grey. number: the column of how many networks each point is the mean of, where that changes.
    """
    table, dots = DataFrame(rows), DataFrame(points)
    if table.empty:
        return None
    parts, x = [], "remaining, %"
    with look():
        figure = Figure(figsize=(WIDTH, 3.8))
        axes = figure.subplots()
        if band:
            axes.axhspan(*band, color=GRID, lw=0, alpha=0.6, zorder=0)
        for n, (arm, own) in enumerate(table.groupby("arm", sort=False)):
            colour, each = COLOURS[n % len(COLOURS)], dots[dots["arm"] == arm]
            marker = MARKERS[n % len(MARKERS)]
            title = f"{arm}, n = {own[number].iloc[0]}" if number else str(arm)
            axes.plot(own[x], own[y], color=colour, marker=marker, ms=5, lw=1.6, label=title)
            axes.plot(each[x], each[y], ".", color=colour, ms=3, alpha=0.6)
            for row in own[own[number].diff().fillna(0) != 0].to_dict("records") if number else ():
                place = row[x], row[y]
                axes.annotate(row[number], place, (5, 4), textcoords="offset points", color=colour, fontsize=8)
            (first, first_y), (last, last_y) = own[[x, y]].to_numpy()[[0, -1]]
            parts.append(f"{arm}: {first_y:.4g} at {first:.1f} % to {last_y:.4g} at {last:.1f} %")
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PLAIN)
            axes.yaxis.set_minor_formatter(PLAIN)
            low, high = axes.get_ylim()
            if high > 3 * low:  # else all ticks have room for their numbers
                style.log_ticks(axes.yaxis, "{x:g}")
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        remaining_axis(axes, table[x].min())
        axes.set_xlabel("remaining weights, % (dense at the left)")
        axes.set_ylabel(label)
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5)
    return Picture(name, figure, caption, f"{label} against remaining weights. {'; '.join(parts)}.")
