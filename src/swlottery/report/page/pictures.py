"""The figures of single questions: survival, magnitude, boxes, percentiles, layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pandas import DataFrame, Series

from swlottery.report.page.answer import Picture, Row
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.charts import LEADER, MATRIX, OTHERS, PLAIN, TRACKED, labels, panels, remaining_axis, wrapped
from swlottery.report.page.svg import GRID, INK, WIDTH, look
from swlottery.report.words import count
from swlottery.study.statistics import survival_curve

Sizes = tuple[str, bool | None, list[tuple[float, float, list[float]]]]
"""Of one run: what it tracks, whether the prune after its last round kept it (None: that was not made), and by round:
remaining weights in percent, |w|/threshold of the tracked weight, and of its controls."""


def survival(study: Study, arms: Iterable[Arm], name: str = "survival") -> Picture | None:
    """The kept fraction against remaining weights: tracked weights (Kaplan & Meier), their controls, their matrix."""
    drawn = {arm: kept for arm in arms if len(kept := study.kept(*arm.runs))}
    if not drawn:
        return None
    alive = {arm: kept.groupby("run")["alive"].last() for arm, kept in drawn.items()}
    least = min(100 * float(kept["remaining_fraction"].min()) for kept in drawn.values())
    figure = panels(
        {f"{arm.title}: {count(len(alive[arm]), 'run')}": kept for arm, kept in drawn.items()},
        partial(_survival_of_arm, least=least),
        "remaining weights, %",
        "share kept",
    )
    parts = [f"{arm.title}: {ends.sum()} of {len(ends)}" for arm, ends in alive.items()]
    caption = (
        "Kept weights against remaining weights. The step line is the Kaplan–Meier curve of the tracked weights, "
        "one a run; runs that are not finished are censored at their last prune."
    )
    return Picture(name, figure, caption, f"Tracked weights kept at the end. {'; '.join(parts)}.")


def _survival_of_arm(axes: Axes, kept: DataFrame, least: float) -> None:
    last = kept.groupby("run")["remaining_fraction"].last()
    gone = kept[~kept["alive"]].groupby("run")["remaining_fraction"].first()
    ends = gone.reindex(last.index).fillna(last)
    at, still = survival_curve(1 - ends, last.index.isin(gone.index))
    x, y = [100, *(100 * (1 - a) for a in at), 100 * ends.min()], [1, *still, still[-1] if still else 1]
    axes.step(x, y, where="post", color=TRACKED, lw=2.2, label="tracked weights")
    left = 100 * kept.groupby("round")["remaining_fraction"].mean()
    controls, matrix = _share(kept, "control_rank", "control_rank_n"), _share(kept, "matrix_kept", "matrix_size")
    axes.plot(left, controls.reindex(left.index), ".--", color=OTHERS, lw=1.6, ms=6, label="their controls")
    axes.plot(left, matrix.reindex(left.index), ".:", color=MATRIX, lw=1.6, ms=6, label="their matrix")
    remaining_axis(axes, least)
    axes.set_ylim(-0.03, 1.05)


def _share(rows: DataFrame, part: str, of: str) -> Series[float]:
    """By round, over all rows that have both numbers."""
    sums = rows[rows[of] > 0].dropna(subset=[part, of]).groupby("round")[[part, of]].sum()
    return sums[part] / sums[of]


def magnitude(study: Study) -> Picture | None:
    """|w| over the threshold at the end of every round: tracked weights, and the band of their controls."""
    tracks = {arm.title: [own for run in arm.runs if (own := _sizes(study, run))] for arm in study.arms}
    drawn = {title: own for title, own in tracks.items() if own}
    if not drawn:
        return None
    least = min(x for own in drawn.values() for *_, rounds in own for x, *_ in rounds)
    x, y = "remaining weights while it was trained, %", "|w| / threshold of the next prune"
    figure = panels(drawn, partial(_magnitude_of_arm, least=least), x, y)
    parts = [
        f"{title}: median {np.median([rounds[0][1] for *_, rounds in own]):.3g} and "
        f"{np.median([rounds[-1][1] for *_, rounds in own]):.3g}, {[kept for _, kept, _ in own].count(False)} pruned"
        for title, own in drawn.items()
    ]
    caption = (
        "The size of the tracked weights at the end of every round, over the threshold of the prune that follows. A "
        "cross: that prune takes it. Hollow: after the last prune, over the threshold that one more would have."
    )
    what = "|w| over the threshold at the end of the first and the last round shown."
    return Picture("magnitude", figure, caption, f"{what} {'; '.join(parts)}.")


def _sizes(study: Study, run: str) -> Sizes | None:
    left, kept = study.remaining(run), study.kept(run)
    alive = dict(zip(kept["round"], kept["alive"].astype(bool), strict=True))
    found = {}
    for round_ in range(1, len(left) + 1):
        own, controls = study.at(run, round_, "over_threshold")
        if own and round_ - 1 in left:
            found[round_] = 100 * left[round_ - 1], own, [value for value in controls.values() if value > 0]
    return (study.kind(run), alive.get(max(found)), [*found.values()]) if found else None


def _magnitude_of_arm(axes: Axes, tracks: Sequence[Sizes], least: float) -> None:
    band: dict[float, list[float]] = {}
    for kind, kept, rounds in tracks:
        x, own, controls = zip(*rounds, strict=True)
        made = len(x) - (kept is None)
        colour, marker = (TRACKED, "o") if kind == "super weight" else (LEADER, "^")
        axes.plot(x[:made], own[:made], marker + "-", color=colour, lw=1, ms=3, label=f"{kind}s, one line a run")
        if kept is None:
            hollow: dict[str, Any] = {"mfc": "none", "ms": 5, "label": "one more prune, not made"}
            axes.plot(x[-2:], own[-2:], marker + ":", color=colour, lw=1, markevery=[-1], **hollow)
        elif not kept:
            axes.plot(x[-1:], own[-1:], "x", color=INK, ms=6, label="pruned")
        for at, values in zip(x, controls, strict=True):
            band.setdefault(round(at, 1), []).extend(values)
    there = sorted((at for at in band if band[at]), reverse=True)
    ends = np.array([np.quantile(band[at], (0.05, 0.95)) for at in there]).reshape(-1, 2)
    label = "controls that remain: 90 %"
    axes.fill_between(there, ends[:, 0], ends[:, 1], color=OTHERS, alpha=0.25, lw=0, label=label)
    axes.axhline(1, color=INK, lw=1, ls="--", label="threshold")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_minor_locator(NullLocator())
    remaining_axis(axes, least)


def boxes(study: Study) -> Picture | None:
    """By round: the weights of the tracked weight's matrix, with the weight and the threshold.

    Of each arm the first network.
    """
    drawn: dict[str, DataFrame] = {}
    for arm in study.arms:
        rows = study.rows("boxes", *arm.runs)
        rows = rows[rows["weight"] == rows["run"].map(study.own)]
        first = next((run for run in arm.runs if run in set(rows["run"])), None)
        if first:
            own = rows[rows["run"] == first]
            drawn[f"{arm.title}\n{first}, {study.own[first]}"] = own
    if not drawn:
        return None
    x, y = "round: before training (left), after it (right)", "value of a weight"
    figure = panels(drawn, _boxes_of_run, x, y, 2.5, shared=False)
    parts = [f"{title} ends at {rows['value'].iloc[-1]:.3g}".replace("\n", ", ") for title, rows in drawn.items()]
    caption = (
        "The remaining weights of the tracked weight's matrix: median, quartiles, whiskers of at most 1.5 times the "
        "box, smallest and largest. The first network of each arm; the panels' axes differ."
    )
    alternative = f"Boxplots of a matrix by round, with the tracked weight. {'; '.join(parts)}."
    return Picture("boxes", figure, caption, alternative)


def _boxes_of_run(axes: Axes, rows: DataFrame) -> None:
    """The box of a matrix at each time, with the threshold and the tracked weight."""
    axes.set_xticks(sorted(set(rows["round"])))
    line = {"color": OTHERS, "lw": 1}
    parts: dict[str, Any] = dict.fromkeys(("boxprops", "whiskerprops", "capprops", "medianprops"), line)
    dots = {"marker": ".", "ms": 3, "mec": OTHERS}
    for row in rows.drop_duplicates(["round", "when"]).itertuples():
        x = int(row.round) + (-0.18 if row.when == "before" else 0.18)
        if row.count and not np.isnan(row.q1):
            ends = {"whislo": row.low, "q1": row.q1, "med": row.median, "q3": row.q3, "whishi": row.high}
            stats = [ends | {"fliers": [row.minimum, row.maximum]}]
            axes.bxp(stats, positions=[x], widths=0.28, flierprops=dots, manage_ticks=False, **parts)
        if row.threshold and not np.isnan(row.threshold):
            for level in (-row.threshold, row.threshold):
                axes.plot([x - 0.18, x + 0.18], [level, level], color=INK, lw=1, ls=":", label="± threshold")
        name, fill_ = ("tracked weight", TRACKED) if row.alive else ("tracked weight, masked", "none")
        axes.plot([x], [row.value], "D", color=TRACKED, ms=5, mfc=fill_, label=name)


def percentiles(rows: Sequence[Row], points: Sequence[Row]) -> Picture | None:
    """Mean percentiles of the tracked weights and of their controls; points: those of each network, a dot each."""
    if not rows:
        return None
    table, dots = DataFrame(rows), DataFrame(points)
    names, kinds = list(table["arm"].unique()), table.groupby("of", sort=False)
    own, others = "followed, mean percentile", "controls, mean percentile"
    with look():
        figure = Figure(figsize=(WIDTH, 1.8 + 0.3 * len(names)))
        grid = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (kind, now) in zip(grid, kinds, strict=True):
            each = dots[dots["of"] == kind]
            y, at = now["arm"].map(names.index), each["arm"].map(names.index)
            axes.hlines(y, now[own], now[others], color=GRID, lw=3, zorder=1)
            axes.plot(now[own], y, "o", color=TRACKED, ms=6, label="tracked weights")
            axes.plot(each["followed, percentile"], at - 0.2, ".", color=TRACKED, ms=4, label="in one network")
            axes.plot(now[others], y, "s", color=OTHERS, ms=6, label="their controls")
            axes.plot(each[others], at + 0.2, ".", color=OTHERS, ms=4, label="in one network (mean)")
            axes.set_title(kind)
            axes.set_xlim(0, 103)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks(range(len(names)), [wrapped(one) for one in names])
        labels(figure, list(grid), "mean percentile in its matrix, round 2", "")
    parts = [f"{row['arm']}, {row['of']}: tracked {row[own]:.0f}, controls {row[others]:.0f}" for row in rows]
    caption = "Means over networks. A dot is one network: its tracked weight above the line, its controls below it."
    return Picture("percentiles", figure, caption, f"Mean percentiles in round 2. {'; '.join(parts)}.")


def layers(shares: Sequence[Row]) -> Picture:
    """What is left of c_proj against remaining weights: of each layer, and of all of them. Means over networks."""
    drawn = {str(arm): own for arm, own in DataFrame(shares).groupby("arm", sort=False)}
    least = min(float(row["of all, %"]) for row in shares)
    y = "c_proj weights remaining, %"
    figure = panels(drawn, partial(_layers_of_arm, least=least), "remaining weights, %", y)
    ends = {arm: own.groupby("layer")["of c_proj, %"].last() for arm, own in drawn.items()}
    parts = [f"{arm}: {at['all layers']:.3g}, by layer {at.min():.3g} to {at.max():.3g}" for arm, at in ends.items()]
    caption = "Means over networks. Thick: all c_proj weights; thin: each layer's, the outermost by name."
    return Picture("c_proj", figure, caption, f"{y}, after the last prune. {'; '.join(parts)}.")


def _layers_of_arm(axes: Axes, shares: DataFrame, least: float) -> None:
    x, y = "of all, %", "of c_proj, %"
    ends = shares.groupby("layer")[y].last()
    for layer, own in shares.groupby("layer", sort=False):
        colour, width, what = (TRACKED, 2.2, layer) if layer == "all layers" else (MATRIX, 0.8, "one layer")
        axes.plot(own[x], own[y], ".-", color=colour, lw=width, ms=3, label=f"c_proj of {what}")
        if np.ptp(ends) > 5 and layer in (ends.idxmin(), ends.idxmax()):  # else the two names would meet
            axes.annotate(str(layer), own[[x, y]].iloc[-1], (4, -3), textcoords="offset points", fontsize=8)
    axes.plot(own[x], own[x], ":", color=INK, lw=1, label="all weights")
    remaining_axis(axes, least)
