"""|w| of each followed weight over all steps of all rounds, against the threshold and the band of its controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swlottery.report.figures.style import BLUE, GREY, VERMILLION, log_ticks, nothing, page
from swlottery.report.run_files import Run, Track
from swlottery.report.words import KINDS, place

MOST_DRAWN = 12
"""The most followed weights that have a panel; watch.csv has them all."""
DEEPEST = 30
"""How far below the smallest threshold the axis of |w| goes; a weight that changes its sign passes through zero."""


def magnitude(run: Run) -> Figure:
    """|w| of each followed weight at every evaluation, the threshold, and the band of its primary controls."""
    tracks = run.followed[:MOST_DRAWN]
    columns = 1 if len(tracks) < 3 else 2
    rows = math.ceil(max(len(tracks), 1) / columns)
    remarks = [
        run.remark,
        "On top: the round, and the share of the weights that it trains under. A line between two rounds: prune, rewind.",
    ]
    if len(run.followed) > MOST_DRAWN:
        remarks.append(
            f"The first {MOST_DRAWN} followed weights; {len(run.followed) - MOST_DRAWN} more are in watch.csv."
        )
    late = any(at not in track.at for track in tracks for at in run.thresholds if at[0] == 1)
    if late and 2 in run.remaining:
        remarks.append("What was found, or chosen as a control, at the end of round 1 was not watched in its course.")
    what = "The size of each followed weight through training and pruning"
    figure = page(run.title, what, 0.75 + rows * (2.6 if rows == 1 else 1.75), remarks)
    if not run.thresholds:
        nothing(figure, "No evaluation has been written yet.")
        return figure
    x = Clock(run)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten())
    for axes in grid[max(len(tracks), 1) :]:
        axes.axis("off")
    for axes, track in zip(grid, tracks, strict=False):
        controls = run.controls.get(track.place[:3], [])
        _band(axes, x, controls)
        _threshold(axes, x, run.levels([track, *controls]))
        for steps, sizes in x.by_round(dict(zip(track.at, track.size, strict=True))):
            axes.plot(steps, sizes, color=VERMILLION, lw=1.6, marker=".", ms=3, label="the followed weight")
        end = _pruned_at(track)
        if end is not None and track.size[end]:
            axes.plot(
                [x.at(*track.at[end])],
                [track.size[end]],
                "X",
                color="black",
                ms=8,
                mec="white",
                label="pruned here",
                zorder=4,
            )
        name_of = f"{KINDS[track.kind]} {place(track.place)}"
        axes.set_title(name_of + (": " if columns == 1 else "\n") + _fate(run, track, controls), loc="left", fontsize=8)
    if not tracks:
        _threshold(grid[0], x, run.levels([]))
        grid[0].set_title("no weight is followed: the threshold alone", loc="left", fontsize=8)
    for axes in grid[: max(len(tracks), 1)]:
        _rounds(axes, x, run, named=axes in grid[:columns], most=12 if columns == 1 else 6)
        axes.grid(axis="y")
    _log_sizes(grid[0], run)
    for axes in grid[::columns][:rows]:
        axes.set_ylabel("|w|, log scale")
    for axes in grid[max(len(tracks), 1) - columns if len(tracks) > columns else 0 : max(len(tracks), 1)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("optimizer steps, all rounds")
    handles: dict[str, Any] = {}
    for axes in grid:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles=list(handles.values()), loc="outside lower center", ncols=5, frameon=False, fontsize=7.5,
        columnspacing=1.4, handlelength=1.8, handletextpad=0.6,
    )  # fmt: skip
    return figure


class Clock:
    """Where (round, step) lies on an axis of all steps: the rounds stand one behind the other."""

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


def _band(axes: Axes, x: Clock, controls: Sequence[Track]) -> None:
    """The range and the quartiles of the controls that remain: masked ones are zero, and are left out."""
    sizes: dict[tuple[int, int], list[float]] = {}
    for control in controls:
        for at, size in zip(control.at, control.size, strict=True):
            if size:
                sizes.setdefault(at, []).append(size)
    for steps, inside in x.by_round(sizes):
        low, q1, q3, high = np.transpose([np.quantile(one, (0, 0.25, 0.75, 1)) for one in inside])
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, lw=0, label="controls that remain: all")
        axes.fill_between(steps, q1, q3, color=BLUE, alpha=0.38, lw=0, label="the middle half of them")


def _threshold(axes: Axes, x: Clock, levels: dict[tuple[int, int], float | None]) -> None:
    for steps, level in x.by_round(dict(sorted(levels.items()))):
        axes.plot(steps, level, color="black", lw=1.1, ls=(0, (4, 2)), label="threshold, if pruned then")


def _rounds(axes: Axes, x: Clock, run: Run, named: bool, most: int) -> None:
    """Lines between the rounds, and their names on top."""
    for begin in list(x.begin.values())[1:]:
        axes.axvline(begin, color="#999999", lw=0.8, zorder=0)
    axes.set_xlim(0, max(x.end, 1))
    if named:
        ends = [*list(x.begin.values())[1:], x.end]
        shown = [(r, (b + e) / 2) for (r, b), e in zip(x.begin.items(), ends, strict=True)]
        shown = shown[:: math.ceil(len(shown) / most)]
        top = axes.secondary_xaxis("top")
        names = [f"{'final' if r == run.prunes + 1 else r}\n{100 * run.remaining[r]:.3g} %" for r, _ in shown]
        top.set_xticks([middle for _, middle in shown], names)
        top.tick_params(length=0, labelcolor=GREY, labelsize=7)
        top.spines["top"].set_visible(False)


def _log_sizes(axes: Axes, run: Run) -> None:
    axes.set_yscale("log", nonpositive="mask")
    low, high = axes.get_ylim()
    levels = [level for level in run.thresholds.values() if level]
    axes.set_ylim(max(low, min(levels) / DEEPEST) if levels else low, high)
    log_ticks(axes.yaxis, axes.get_ylim(), lambda size: f"{size:g}")


def _pruned_at(track: Track) -> int | None:
    """The position of the first evaluation whose mask no longer has the weight."""
    return next((i for i, alive in enumerate(track.alive) if not alive), None)


def _fate(run: Run, track: Track, controls: Sequence[Track]) -> str:
    end, prunes = _pruned_at(track), max(run.remaining) - 1
    at = track.at[-1 if end is None else end]
    if end is not None:
        fate = f"pruned in round {at[0]}" if track.size[end] else "masked from the start"
    elif prunes:
        fate = (
            f"kept by all {prunes} prunes"
            if prunes == run.prunes
            else f"kept by {prunes} of {run.prunes} prunes so far"
        )
    else:
        fate = "not pruned yet"
    if end is not None and at[0] == 1:
        return fate  # its controls were chosen among what prune 1 kept
    alive = [dict(zip(control.at, control.alive, strict=True)).get(at, False) for control in controls]
    return fate + (f"; {sum(alive)} of {len(alive)} controls remain" if alive else "")
