"""|w| of each tracked weight over all steps of all rounds, against the threshold and the band of its controls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from swlottery.report.figures.style import BLUE, GREY, VERMILLION, legend, log_ticks, nothing, page, panels
from swlottery.report.run_files import Run
from swlottery.report.words import KINDS, place

MOST_DRAWN = 12
"""The most tracked weights that have a panel; watch.csv has them all."""
DEEPEST = 30
"""How far below the smallest threshold the axis of |w| goes; a weight that changes its sign passes through zero."""


def magnitude(run: Run) -> Figure:
    """|w| of each tracked weight at every evaluation, the threshold, and the band of its primary controls."""
    tracked = run.tracked()
    shown = tracked[:MOST_DRAWN]
    number = max(len(shown), 1)
    columns = 1 if number < 3 else 2
    rows = math.ceil(number / columns)
    what = "The size of each tracked weight through training and pruning"
    remarks = _remarks(run, [weight for _, weight in shown], len(tracked) - len(shown))
    figure = page(what, run.title, 0.8 + rows * (2.6 if rows == 1 else 1.8), remarks)
    if run.evaluations.empty:
        return nothing(figure, "No evaluation has been written yet.")
    grid = panels(figure, number, columns, sharex=True, sharey=True)
    for axes, (at, weight) in zip(grid, shown, strict=False):
        controls = run.controls(at)
        _controls(axes, controls)
        _threshold(axes, run.levels([at, *controls["place"]]))
        _weight(axes, weight)
        title = f"{KINDS[weight['kind'].iloc[0]]} {place(at)}" + (": " if columns == 1 else "\n")
        axes.set_title(title + _outcome(run, weight, controls))
    if not tracked:
        _threshold(grid[0], run.levels([]))
        grid[0].set_title("no weight is tracked: the threshold alone")
    for i, axes in enumerate(grid):
        _rounds(axes, run, named=i < columns, most=12 if columns == 1 else 6)
        axes.set_ylabel("|w|, log scale" if i % columns == 0 else "")
        axes.set_xlabel("optimizer steps, all rounds" if i >= number - columns else "")
    _log_sizes(grid[0], run)
    legend(figure, grid, "outside lower center", ncols=5, columnspacing=1.2, handlelength=1.8)
    return figure


def _remarks(run: Run, shown: Sequence[DataFrame], more: int) -> list[str]:
    """more: how many tracked weights have no panel."""
    first = (run.evaluations["round"] == 1).sum()
    unseen = 2 in run.remaining and any((weight["round"] == 1).sum() < first for weight in shown)
    return [
        run.remark,
        "On top: the round, and the share of the weights that it trains under. Between rounds: prune, rewind.",
        "Threshold: that of a prune at that step.",
        *([f"The first {MOST_DRAWN} tracked weights; {more} more are in watch.csv."] if more else []),
        *(["Weights found or chosen as controls at the end of round 1 were not tracked before."] if unseen else []),
    ]


def _weight(axes: Axes, weight: DataFrame) -> None:
    for _, rows in weight[weight["size"] > 0].groupby("round"):  # a masked weight is zero
        axes.plot(rows["x"], rows["size"], color=VERMILLION, lw=1.8, marker=".", label="the tracked weight")
    end = weight[~weight["alive"]][:1]
    if end["size"].any():
        axes.plot(end["x"], end["size"], "X", color="black", ms=8, mec="white", zorder=4, label="pruned here")


def _controls(axes: Axes, controls: DataFrame) -> None:
    """The range and the quartiles of the controls that remain: masked ones are zero, and are left out."""
    for _, rows in controls[controls["size"] > 0].groupby("round"):
        sizes = rows.groupby("x")["size"].quantile([0, 0.25, 0.75, 1]).unstack()
        for low, high, alpha, label in ((0, 1, 0.18, "controls that remain"), (0.25, 0.75, 0.38, "their middle half")):
            axes.fill_between(sizes.index, sizes[low], sizes[high], color=BLUE, alpha=alpha, lw=0, label=label)


def _threshold(axes: Axes, levels: DataFrame) -> None:
    for _, rows in levels.groupby("round"):
        axes.plot(rows["x"], rows["level"], color="black", lw=1.2, ls=(0, (4, 2)), label="threshold")


def _rounds(axes: Axes, run: Run, named: bool, most: int) -> None:
    """Lines between the rounds, and their names on top."""
    ends = run.evaluations.groupby("round")["x"].agg(["min", "max"])
    for begin in ends["min"][1:]:
        axes.axvline(begin, color="#999999", lw=0.8, zorder=0)
    axes.set_xlim(0, max(ends["max"].max(), 1))
    if named:
        middles = ends.mean(axis=1)[:: math.ceil(len(ends) / most)]
        top = axes.secondary_xaxis("top")
        names = [f"{'final' if r == run.prunes + 1 else r}\n{100 * run.remaining[r]:.3g} %" for r in middles.index]
        top.set_xticks(middles, names)
        top.tick_params(length=0, labelcolor=GREY, labelsize=8)
        top.spines["top"].set_visible(False)


def _log_sizes(axes: Axes, run: Run) -> None:
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    axes.set_ylim(np.fmax(low, run.evaluations["level"].min() / DEEPEST), high)
    log_ticks(axes.yaxis, "{x:g}")


def _outcome(run: Run, weight: DataFrame, controls: DataFrame) -> str:
    """Whether the weight was kept, and how many of its controls were."""
    gone, prunes = weight[~weight["alive"]], max(run.remaining) - 1
    last = weight.iloc[-1] if gone.empty else gone.iloc[0]
    if not gone.empty:
        outcome = f"pruned in round {last['round']}" if last["size"] else "masked from the start"
        if last["round"] == 1:
            return outcome  # its controls were chosen among what prune 1 kept
    elif prunes:
        outcome = f"kept by all {prunes} prunes" if prunes == run.prunes else f"kept by {prunes} of {run.prunes} so far"
    else:
        outcome = "not pruned yet"
    if controls.empty:
        return outcome
    alive = controls[(controls["round"] == last["round"]) & (controls["step"] == last["step"])]["alive"].sum()
    return f"{outcome}; {alive} of {controls['place'].nunique()} controls remain"
