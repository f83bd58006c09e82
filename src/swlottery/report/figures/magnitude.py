"""|w| of each tracked weight over all steps of all rounds, against the threshold and the band of its controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swlottery.report.figures.style import BLUE, GREY, VERMILLION, log_ticks, nothing, page, panels
from swlottery.report.run_files import Run, Track
from swlottery.report.words import KINDS, place

MOST_DRAWN = 12
"""The most tracked weights that have a panel; watch.csv has them all."""
DEEPEST = 30
"""How far below the smallest threshold the axis of |w| goes; a weight that changes its sign passes through zero."""


def magnitude(run: Run) -> Figure:
    """|w| of each tracked weight at every evaluation, the threshold, and the band of its primary controls."""
    tracks = run.tracked[:MOST_DRAWN]
    number = max(len(tracks), 1)
    columns = 1 if number < 3 else 2
    rows = math.ceil(number / columns)
    what = "The size of each tracked weight through training and pruning"
    figure = page(what, run.title, 0.8 + rows * (2.6 if rows == 1 else 1.8), _remarks(run, tracks))
    if not run.thresholds:
        return nothing(figure, "No evaluation has been written yet.")
    x = Clock(run)
    grid = panels(figure, number, columns, sharex=True, sharey=True)
    for axes, track in zip(grid, tracks, strict=False):
        controls = run.controls.get(track.place[:3], [])
        _controls(axes, x, controls)
        _threshold(axes, x, run.levels([track, *controls]))
        _weight(axes, x, track)
        title = f"{KINDS[track.kind]} {place(track.place)}" + (": " if columns == 1 else "\n")
        axes.set_title(title + _outcome(run, track, controls))
    if not tracks:
        _threshold(grid[0], x, run.levels([]))
        grid[0].set_title("no weight is tracked: the threshold alone")
    for i, axes in enumerate(grid):
        _rounds(axes, x, run, named=i < columns, most=12 if columns == 1 else 6)
        axes.set_ylabel("|w|, log scale" if i % columns == 0 else "")
        axes.set_xlabel("optimizer steps, all rounds" if i >= number - columns else "")
    _log_sizes(grid[0], run)
    handles: dict[str, Any] = {}
    for axes in grid:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=5, columnspacing=1.2, handlelength=1.8
    )
    return figure


def _remarks(run: Run, tracks: Sequence[Track]) -> list[str]:
    more = len(run.tracked) - len(tracks)
    unseen = any(at not in track.at for track in tracks for at in run.thresholds if at[0] == 1) and 2 in run.remaining
    return [
        run.remark,
        "On top: the round, and the share of the weights that it trains under. Between rounds: prune, rewind.",
        "Threshold: that of a prune at that step.",
        *([f"The first {MOST_DRAWN} tracked weights; {more} more are in watch.csv."] if more else []),
        *(["Weights found or chosen as controls at the end of round 1 were not tracked before."] if unseen else []),
    ]


class Clock:
    """Where (round, step) is on an axis of all steps: one round behind the other."""

    def __init__(self, run: Run) -> None:
        steps: dict[int, list[int]] = {}
        for round, step in run.thresholds:
            steps.setdefault(round, []).append(step)
        self.first = {round: min(inside) for round, inside in steps.items()}
        self.begin: dict[int, int] = {}
        self.end = 0
        for round in sorted(steps):
            self.begin[round] = self.end
            self.end += max(steps[round]) - self.first[round]

    def at(self, round: int, step: int) -> int:
        return self.begin[round] + step - self.first[round]

    def by_round(self, values: dict[tuple[int, int], Any]) -> Iterator[tuple[list[int], list[Any]]]:
        """The values of one round after the other, without zeros (masked) and what is missing."""
        for round in self.begin:
            inside = [(self.at(*at), value) for at, value in values.items() if at[0] == round and value]
            if inside:
                yield [at for at, _ in inside], [value for _, value in inside]


def _weight(axes: Axes, x: Clock, track: Track) -> None:
    for steps, sizes in x.by_round(dict(zip(track.at, track.size, strict=True))):
        axes.plot(steps, sizes, color=VERMILLION, lw=1.8, marker=".", label="the tracked weight")
    end = track.pruned_at
    if end is not None and track.size[end]:
        mark: dict[str, Any] = {"color": "black", "ms": 8, "mec": "white", "zorder": 4, "label": "pruned here"}
        axes.plot([x.at(*track.at[end])], [track.size[end]], "X", **mark)


def _controls(axes: Axes, x: Clock, controls: Sequence[Track]) -> None:
    """The range and the quartiles of the controls that remain: masked ones are zero, and are left out."""
    sizes: dict[tuple[int, int], list[float]] = {}
    for control in controls:
        for at, size in zip(control.at, control.size, strict=True):
            if size:
                sizes.setdefault(at, []).append(size)
    for steps, inside in x.by_round(sizes):
        low, q1, q3, high = np.transpose([np.quantile(one, (0, 0.25, 0.75, 1)) for one in inside])
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, lw=0, label="controls that remain")
        axes.fill_between(steps, q1, q3, color=BLUE, alpha=0.38, lw=0, label="their middle half")


def _threshold(axes: Axes, x: Clock, levels: dict[tuple[int, int], float | None]) -> None:
    for steps, level in x.by_round(dict(sorted(levels.items()))):
        axes.plot(steps, level, color="black", lw=1.2, ls=(0, (4, 2)), label="threshold")


def _rounds(axes: Axes, x: Clock, run: Run, named: bool, most: int) -> None:
    """Lines between the rounds, and their names on top."""
    begins = list(x.begin.values())
    for begin in begins[1:]:
        axes.axvline(begin, color="#999999", lw=0.8, zorder=0)
    axes.set_xlim(0, max(x.end, 1))
    if named:
        middles = [(begin + end) / 2 for begin, end in zip(begins, [*begins[1:], x.end], strict=True)]
        shown = list(zip(x.begin, middles, strict=True))[:: math.ceil(len(begins) / most)]
        top = axes.secondary_xaxis("top")
        names = [f"{'final' if r == run.prunes + 1 else r}\n{100 * run.remaining[r]:.3g} %" for r, _ in shown]
        top.set_xticks([middle for _, middle in shown], names)
        top.tick_params(length=0, labelcolor=GREY, labelsize=8)
        top.spines["top"].set_visible(False)


def _log_sizes(axes: Axes, run: Run) -> None:
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    levels = [level for level in run.thresholds.values() if level]
    axes.set_ylim(max(low, min(levels) / DEEPEST) if levels else low, high)
    log_ticks(axes.yaxis, axes.get_ylim(), lambda size: f"{size:g}")


def _outcome(run: Run, track: Track, controls: Sequence[Track]) -> str:
    """Whether the weight was kept, and how many of its controls were."""
    end, prunes = track.pruned_at, max(run.remaining) - 1
    at = track.at[-1 if end is None else end]
    if end is not None:
        outcome = f"pruned in round {at[0]}" if track.size[end] else "masked from the start"
        if at[0] == 1:
            return outcome  # its controls were chosen among what prune 1 kept
    elif prunes:
        outcome = f"kept by all {prunes} prunes" if prunes == run.prunes else f"kept by {prunes} of {run.prunes} so far"
    else:
        outcome = "not pruned yet"
    alive = [dict(zip(control.at, control.alive, strict=True)).get(at, False) for control in controls]
    return outcome + (f"; {sum(alive)} of {len(alive)} controls remain" if alive else "")
