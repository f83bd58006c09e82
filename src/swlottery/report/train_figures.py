"""The figures of ``swlottery train``, drawn from the files of a run folder and nothing else.

``round_<r>.png``: the weights of each followed weight's matrix, before and after the training of round r.
``magnitude.png``: |w| of each followed weight against the threshold and its controls, over all rounds.
``perplexity.png``: what remains, and what it costs (as figure 1 of Frankle & Carbin 2019, arXiv:1803.03635).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from swlottery.report.page import BLUE, GREY, VERMILLION, log_ticks, look, page, save
from swlottery.report.round_figure import round_boxes
from swlottery.report.run_files import Run, Track, read_run
from swlottery.report.words import KINDS, perplexity, place

MOST_DRAWN = 12
"""The most followed weights that have a panel; watch.csv has them all."""
DEEPEST = 30
"""How far below the smallest threshold the axis of |w| goes; a weight that changes its sign passes through zero."""


def draw_round(run: Path, plots: Path, round: int) -> Path:
    """Write ``round_<round>.png`` into ``plots`` (made where missing); returns its path."""
    with look():
        return save(round_boxes(read_run(run), run.name, round), plots / f"round_{round}.png")


def draw_run(run: Path, plots: Path) -> list[Path]:
    """Write ``magnitude.png`` and ``perplexity.png`` of a run, finished or not; returns their paths."""
    read = read_run(run)
    with look():
        return [
            save(magnitude(read, run.name), plots / "magnitude.png"),
            save(perplexities(read, run.name), plots / "perplexity.png"),
        ]


def magnitude(run: Run, name: str) -> Figure:
    """|w| of each followed weight at every evaluation, the threshold, and the band of its primary controls."""
    tracks = run.followed[:MOST_DRAWN]
    columns = 1 if len(tracks) < 3 else 2
    rows = math.ceil(max(len(tracks), 1) / columns)
    remarks = [
        _remark(run, name),
        "On top: the round, and the share of the weights that it trains under. A line between two rounds: prune, rewind.",
    ]
    if len(run.followed) > MOST_DRAWN:
        remarks.append(
            f"The first {MOST_DRAWN} followed weights; {len(run.followed) - MOST_DRAWN} more are in watch.csv."
        )
    what = "The size of each followed weight through training and pruning"
    figure = page(_title(run, name), what, 0.75 + rows * (2.6 if rows == 1 else 1.75), remarks)
    if not run.thresholds:
        _nothing(figure, "No evaluation has been written yet.")
        return figure
    x = Clock(run)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten())
    for axes in grid[max(len(tracks), 1) :]:
        axes.axis("off")
    for axes, track in zip(grid, tracks, strict=False):
        controls = run.controls.get(track.place[:3], [])
        _band(axes, x, controls)
        _threshold(axes, x, run.levels([track, *controls]))
        for at, size in x.by_round(dict(zip(track.at, track.size, strict=True))):
            axes.plot(at, size, color=VERMILLION, lw=1.6, marker=".", ms=3, label="the followed weight")
        end = _pruned_at(track)
        if end is not None and track.size[end]:
            at = [x.at(*track.at[end])]
            axes.plot(at, [track.size[end]], "X", color="black", ms=8, mec="white", label="pruned here", zorder=4)
        axes.set_title(_fate(track, controls, ": " if columns == 1 else "\n"), loc="left", fontsize=8)
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
    handles = {}
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
    for at, inside in x.by_round(sizes):
        low, q1, q3, high = np.transpose([np.quantile(one, (0, 0.25, 0.75, 1)) for one in inside])
        axes.fill_between(at, low, high, color=BLUE, alpha=0.18, lw=0, label="controls that remain: all")
        axes.fill_between(at, q1, q3, color=BLUE, alpha=0.38, lw=0, label="the middle half of them")


def _threshold(axes: Axes, x: Clock, levels: dict[tuple[int, int], float | None]) -> None:
    for at, level in x.by_round(dict(sorted(levels.items()))):
        axes.plot(at, level, color="black", lw=1.1, ls=(0, (4, 2)), label="threshold, if pruned then")


def _rounds(axes: Axes, x: Clock, run: Run, named: bool, most: int) -> None:
    """Lines between the rounds, and their names on top."""
    for begin in list(x.begin.values())[1:]:
        axes.axvline(begin, color=GREY, lw=0.8, zorder=0)
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


def _fate(track: Track, controls: Sequence[Track], between: str) -> str:
    end = _pruned_at(track)
    at = track.at[-1 if end is None else end]
    fate = (
        f"kept to the end of round {at[0]}"
        if end is None
        else f"pruned in round {at[0]}"
        if track.size[end]
        else "out from the start"
    )
    alive = [dict(zip(control.at, control.alive, strict=True)).get(at, False) for control in controls]
    beside = f"; {sum(alive)} of {len(alive)} controls remain" if alive else ""
    return f"{KINDS[track.kind]} {place(track.place)}{between}{fate}{beside}"


def perplexities(run: Run, name: str) -> Figure:
    """Validation perplexity of the network trained under each mask, against the weights that the mask leaves."""
    what = "What remains, and the perplexity of the network trained under it"
    figure = page(_title(run, name), what, 3.4, [_remark(run, name), "Dashed: the perplexity under mask 0."])
    rows = [row for row in run.rounds if row["val_perplexity"]]
    if not rows:
        _nothing(figure, "No round has been trained to its end yet.")
        return figure
    axes = figure.subplots()
    x = [100 * float(row["remaining_fraction"]) for row in rows]
    y = [float(row["val_perplexity"]) for row in rows]
    axes.axhline(y[0], color=GREY, lw=0.9, ls="--")
    axes.plot(x, y, color=BLUE, marker="o", ms=5, lw=1.4)
    for row, left, cost in zip(rows, x, y, strict=True):
        axes.annotate(
            f"{perplexity(cost)}\nmask {row['round']}", (left, cost), (0, 8), textcoords="offset points", ha="center",
            fontsize=8 if len(x) <= 8 else 6.5, bbox={"fc": "white", "ec": "none", "pad": 0.6}, zorder=3,
        )  # fmt: skip
    axes.margins(y=0.25)
    axes.set_xscale("log")
    low, high = min(x), max(x)
    room = max((high / low) ** 0.06, 1.03)
    axes.set_xlim(high * room, low / room)
    if len(x) <= 8:
        axes.set_xticks(x, [f"{left:.4g}" for left in x])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        log_ticks(axes.xaxis, axes.get_xlim(), lambda left: f"{left:g}")
    if max(y) > 20 * min(y):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, axes.get_ylim(), lambda cost: f"{cost:,g}")
    axes.grid(axis="y")
    axes.set_xlabel("weights remaining (% of those in scope, log scale; dense at the left, sparser to the right)")
    axes.set_ylabel("perplexity on validation text" + ", log scale" * (axes.get_yscale() == "log"))
    return figure


def _nothing(figure: Figure, why: str) -> None:
    figure.text(0.5, 0.4, why, ha="center", fontsize=9, color=GREY)


def _title(run: Run, name: str) -> str:
    return str(run.start.get("model") or name)


def _remark(run: Run, name: str) -> str:
    """The run's folder, and what is not to be seen in the figure."""
    words = [
        f"{flag.replace('_', ' ')} {run.settings[flag]}"
        for flag in ("scope", "criterion", "rewind")
        if flag in run.settings
    ]
    return "; ".join([f"run {name}", *words])
