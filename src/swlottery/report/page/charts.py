"""The figures of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from swlottery.report.page.answer import Picture, Row
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.svg import COLOURS, GRID, INK, MARKERS, WIDTH, look, panels

LONGEST = 36
"""Characters of a line of a name beside a figure."""
CIRCLES = "One circle a network, the bar their mean, dashed: chance."
APART = "One circle a network, the bar their mean, dashed: no difference."


def remaining_axis(axes: Axes, least: float) -> None:
    """Remaining weights in percent, dense at the left, on a log scale."""
    axes.set_xscale("log")
    axes.set_xlim(105, least / 1.05)
    axes.xaxis.set_major_locator(
        FixedLocator([tick for tick in (100, 80, 64, 51.2, 41, 32.8, 20, 10, 5, 2, 1) if tick >= least / 1.05])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def survival(study: Study) -> Picture | None:
    """The kept fraction against remaining weights: followed weights, controls, the whole matrix. Kaplan & Meier for the followed."""
    from swlottery.study.statistics import survival_curve

    drawn = [
        (arm, tables) for arm in study.arms if (tables := [study.kept(run) for run in arm.runs if len(study.kept(run))])
    ]
    if not drawn:
        return None
    with look():
        figure, grid = panels(len(drawn))
        least = min(100 * float(table["remaining_fraction"].min()) for _, tables in drawn for table in tables)
        for axes, (arm, tables) in zip(grid, drawn, strict=True):
            gone = [table[~table["alive"].astype(bool)] for table in tables]
            ends = [
                float((fallen if len(fallen) else table)["remaining_fraction"].iloc[0 if len(fallen) else -1])
                for fallen, table in zip(gone, tables, strict=True)
            ]
            at, still = survival_curve([1 - end for end in ends], [bool(len(fallen)) for fallen in gone])
            last = 100 * min(ends)
            axes.step(
                [100, *(100 * (1 - a) for a in at), last],
                [1, *still, still[-1] if still else 1],
                where="post",
                color=COLOURS[1],
                lw=2.2,
                label="followed weights",
            )
            whole: dict[int, list[Any]] = {}
            for table in tables:
                for row in table.itertuples():
                    whole.setdefault(int(row.round), []).append(row)
            rows = [here for _, here in sorted(whole.items())]
            x = [100 * float(np.mean([row.remaining_fraction for row in here])) for here in rows]
            _line(
                axes,
                x,
                [_share(here, "control_rank", "control_rank_n") for here in rows],
                COLOURS[0],
                "--",
                "their controls",
            )
            _line(
                axes,
                x,
                [_share(here, "matrix_kept", "matrix_size") for here in rows],
                COLOURS[7],
                ":",
                "their whole matrix",
            )
            remaining_axis(axes, least)
            axes.set_ylim(-0.03, 1.05)
            axes.set_title(f"{study.title(arm)}: {len(tables)} run{'s' * (len(tables) != 1)}")
        _labels(figure, grid, "remaining weights, %", "kept")
    return Picture("survival", figure, "Kept weights against remaining weights. The step line is the Kaplan–Meier curve of the followed weights, one a run; runs that still go are censored where they stand.",
                   "Fractions kept, against remaining weights. " + "; ".join(f"{study.title(arm)}: followed weights {sum(bool(t['alive'].iloc[-1]) for t in tables)} of {len(tables)} at the end" for arm, tables in drawn) + ".")  # fmt: skip


def _share(rows: Sequence[Any], part: str, whole: str) -> float:
    parts = [(getattr(row, part), getattr(row, whole)) for row in rows]
    there = [(float(a), float(b)) for a, b in parts if a is not None and b is not None and a == a and b == b and b]
    return sum(a for a, _ in there) / sum(b for _, b in there) if there else math.nan


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, dashes: str, label: str) -> None:
    axes.plot(x, y, color=colour, ls=dashes, lw=1.6, marker=".", ms=6, label=label)


def _labels(figure: Figure, grid: Sequence[Axes], x: str, y: str) -> None:
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    handles: dict[str, Any] = {}
    for axes in grid:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=4, fontsize=8.5)


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
    """One circle for each row and a bar for their mean, in a line for each ``by``; reference: a dashed line; band: the columns of what
    is to be expected of each row."""
    names = list(dict.fromkeys(str(row[by]) for row in rows))
    if not names:
        return None
    told = []
    with look():
        figure = Figure(figsize=(WIDTH, 1.1 + 0.36 * len(names)))
        axes = figure.subplots()
        for y, line in enumerate(names):
            values = sorted(float(row[value]) for row in rows if str(row[by]) == line)
            for low, high in [(row[band[0]], row[band[1]]) for row in rows if str(row[by]) == line] if band else ():
                axes.plot([low, high], [y, y], color=GRID, lw=9, solid_capstyle="butt", zorder=1)
            spread = [y + 0.24 * ((n % 5) / 2 - 1) if len(values) > 1 else y for n in range(len(values))]
            axes.plot(values, spread, "o", ms=5, color=COLOURS[0], mfc="none")
            if len(values) > 1:
                axes.plot([np.mean(values)] * 2, [y - 0.34, y + 0.34], color=COLOURS[1], lw=2.4)
            told.append(f"{line}: {len(values)} from {values[0]:.3g} to {values[-1]:.3g}, mean {np.mean(values):.3g}")
        if reference is not None:
            axes.axvline(reference, color=INK, lw=1, ls="--")
        axes.set_yticks(range(len(names)), [fill(one, LONGEST) for one in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label)
    return Picture(name, figure, caption, f"{label}. {'; '.join(told)}.")


def magnitude(study: Study) -> Picture | None:
    """|w| over the threshold at the end of every round: followed weights, and the band of their controls."""
    drawn = []
    for arm in study.arms:
        tracks = []
        for run in arm.runs:
            left = study.remaining(run)
            rounds = range(1, len(left) + 1)
            own = [(100 * left[r - 1], *study.at(run, r, "over_threshold")) for r in rounds if r - 1 in left]
            there = [(x, mine, controls) for x, mine, controls in own if mine]
            if there:
                tracks.append(there)
        if tracks:
            drawn.append((arm, tracks))
    if not drawn:
        return None
    with look():
        figure, grid = panels(len(drawn))
        least = min(x for _, tracks in drawn for track in tracks for x, *_ in track)
        for axes, (arm, tracks) in zip(grid, drawn, strict=True):
            band: dict[float, list[float]] = {}
            for track in tracks:
                axes.plot(
                    [x for x, *_ in track],
                    [mine for _, mine, _ in track],
                    color=COLOURS[1],
                    lw=1,
                    marker=".",
                    ms=4,
                    label="followed weights, one line a run",
                )
                for x, _, controls in track:
                    band.setdefault(round(x, 1), []).extend(value for value in controls.values() if value > 0)
            at = sorted((x for x in band if band[x]), reverse=True)
            ends = np.array([np.quantile(band[x], (0.05, 0.95)) for x in at]).reshape(-1, 2)
            axes.fill_between(
                at, ends[:, 0], ends[:, 1], color=COLOURS[0], alpha=0.25, lw=0, label="controls that remain: 90 %"
            )
            axes.axhline(1, color=INK, lw=1, ls="--", label="threshold")
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            remaining_axis(axes, least)
            axes.set_title(study.title(arm))
        _labels(figure, grid, "remaining weights while it was trained, %", "|w| over the threshold of that prune")
    return Picture("magnitude", figure, "The size of the followed weights at the end of every round, over the threshold that decides there (the last: that one more prune would have).",
                   "|w| over the threshold at the end of the first and the last round shown. " + "; ".join(f"{study.title(arm)}: median {np.median([t[0][1] for t in tracks]):.3g} and {np.median([t[-1][1] for t in tracks]):.3g}" for arm, tracks in drawn) + ".")  # fmt: skip


def lines(
    name: str, rows: Sequence[Row], points: Sequence[Row], y: str, label: str, caption: str, x: str = "remaining, %", log: bool = False
) -> Picture | None:  # fmt: skip
    """A column of a table against remaining weights, a line an arm; points: that column of each network, a dot each."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    if not names:
        return None
    told = []
    with look():
        figure = Figure(figsize=(WIDTH, 3.8))
        axes = figure.subplots()
        for n, arm in enumerate(names):
            own = [row for row in rows if row["arm"] == arm]
            at, values, colour = [row[x] for row in own], [row[y] for row in own], COLOURS[n % len(COLOURS)]
            axes.plot(at, values, color=colour, marker=MARKERS[n % len(MARKERS)], ms=5, lw=1.6, label=arm)
            each = [(row[x], row[y]) for row in points if row["arm"] == arm]
            axes.plot(*zip(*each, strict=True), ".", color=colour, ms=3, alpha=0.6)
            told.append(f"{arm}: {values[0]:.4g} at {at[0]:.1f} % to {values[-1]:.4g} at {at[-1]:.1f} %")
        if log:
            axes.set_yscale("log")
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.ticklabel_format(axis="y", useOffset=False)
        remaining_axis(axes, min(row[x] for row in rows))
        axes.set_xlabel("remaining weights, % (dense at the left)")
        axes.set_ylabel(label)
        figure.legend(loc="outside upper center", ncols=3, fontsize=8.5)
    return Picture(name, figure, caption, f"{label} against remaining weights. {'; '.join(told)}.")


def boxes(study: Study) -> Picture | None:
    """By round: the weights of the followed weight's matrix, with the weight and the threshold; of the first network of each arm."""
    drawn: list[tuple[Arm, str, Any]] = []
    for arm in study.arms:
        for run in arm.runs:
            rows = study.rows("boxes", [run])
            rows = rows[rows["weight"] == study.own(run)]
            if len(rows):
                drawn.append((arm, run, rows))
                break
    if not drawn:
        return None
    with look():
        figure, grid = panels(len(drawn), 2.5, shared=False)
        for axes, (arm, run, rows) in zip(grid, drawn, strict=True):
            for row in rows.drop_duplicates(["round", "when"]).itertuples():
                x = int(row.round) + (-0.18 if row.when == "before" else 0.18)
                if row.count and row.q1 == row.q1:
                    stats = {
                        "whislo": row.low,
                        "q1": row.q1,
                        "med": row.median,
                        "q3": row.q3,
                        "whishi": row.high,
                        "fliers": [row.minimum, row.maximum],
                    }
                    own = {"color": COLOURS[0], "lw": 1}
                    axes.bxp(
                        [stats],
                        positions=[x],
                        widths=0.28,
                        boxprops=own,
                        whiskerprops=own,
                        capprops=own,
                        medianprops=own,
                        flierprops={"marker": ".", "ms": 3, "mec": COLOURS[0]},
                        manage_ticks=False,
                    )
                if row.threshold and row.threshold == row.threshold:
                    for side in (-1, 1):
                        axes.plot(
                            [x - 0.18, x + 0.18],
                            [side * row.threshold] * 2,
                            color=INK,
                            lw=1,
                            ls=":",
                            label="± threshold",
                        )
                axes.plot(
                    [x],
                    [row.value],
                    "D",
                    color=COLOURS[1],
                    ms=5,
                    mfc=COLOURS[1] if row.alive else "none",
                    label="followed weight" if row.alive else "followed weight, masked",
                )
            axes.set_xticks(sorted({int(r) for r in rows["round"]}))
            axes.set_title(f"{study.title(arm)}\n{run}, {rows['weight'].iloc[0]}", fontsize=8.5)
        _labels(figure, grid, "round: before training (left), after it (right)", "value of a weight")
    return Picture("boxes", figure, "The remaining weights of the followed weight's matrix: median, quartiles, whiskers of at most 1.5 times the box, smallest and largest. The first network of each arm.",
                   "Boxplots of a matrix by round, with the followed weight. " + "; ".join(f"{study.title(arm)}, {run}: {rows['weight'].iloc[0]} ends at {float(rows['value'].iloc[-1]):.3g}" for arm, run, rows in drawn) + ".")  # fmt: skip


def percentiles(rows: Sequence[Row], points: Sequence[Row]) -> Picture | None:
    """Mean percentiles of the followed weights and of their controls; points: those of each network, a dot each."""
    names, kinds = (list(dict.fromkeys(row[column] for row in rows)) for column in ("arm", "of"))
    if not names:
        return None
    with look():
        figure = Figure(figsize=(WIDTH, 1.8 + 0.3 * len(names)))
        grid = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
        for axes, kind in zip(grid, kinds, strict=True):
            for row in rows:
                if row["of"] == kind:
                    y, own, controls = (
                        names.index(row["arm"]),
                        row["followed, mean percentile"],
                        row["controls, mean percentile"],
                    )
                    axes.plot([own, controls], [y, y], color=GRID, lw=3, zorder=1)
                    axes.plot([controls], [y], "s", color=COLOURS[0], ms=6, label="their controls")
                    axes.plot([own], [y], "o", color=COLOURS[1], ms=6, label="followed weights")
            for side, colour, column in (
                (-0.2, COLOURS[1], "followed, percentile"),
                (0.2, COLOURS[0], "controls, mean percentile"),
            ):
                own = [row for row in points if row["of"] == kind]
                at = [names.index(row["arm"]) + side for row in own]
                axes.plot([row[column] for row in own], at, ".", color=colour, ms=3, alpha=0.7)
            axes.set_title(kind)
            axes.set_xlim(0, 103)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks(range(len(names)), [fill(one, LONGEST) for one in names])
        _labels(figure, list(grid), "mean percentile in its matrix, round 2", "")
    return Picture(
        "percentiles",
        figure,
        "Means over networks; a dot is one network.",
        "Mean percentiles in round 2. "
        + "; ".join(
            f"{row['arm']}, {row['of']}: followed {row['followed, mean percentile']:.0f}, controls {row['controls, mean percentile']:.0f}"
            for row in rows
        )
        + ".",
    )
