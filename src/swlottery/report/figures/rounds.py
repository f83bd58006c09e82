"""The figure of one round: the weights of each tracked weight's matrix, before and after its training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swlottery.report.figures.style import BLUE, GREEN, GREY, LINE, OCHRE, VERMILLION, VIOLET, nothing, page
from swlottery.report.run_files import Event, Run
from swlottery.report.words import Key, key, named, percent

ROWS = {"before": 1.0, "after": 0.0}
"""Where the box before training is, and that after it."""
MARKS = list(zip("Ds^voP", (VERMILLION, OCHRE, VIOLET, GREEN, VERMILLION, OCHRE), strict=True))
MOST_DRAWN = 12
"""The most matrices that have a panel; metrics.jsonl has them all."""


def round_boxes(run: Run, round: int) -> Figure:
    """Boxplots of the remaining weights of each tracked weight's matrix, with the weight and ±threshold."""
    matrices: dict[str, dict[str, Event]] = {}
    for box in run.boxes:
        if box["round"] == round:
            expert = "" if box["expert"] is None else f", expert {box['expert']}"
            boxes = matrices.setdefault(box["path"] + expert, {})
            before = boxes.get(box["when"], {"weights": []})  # weights found later come with a box of their own
            boxes[box["when"]] = box | {"weights": before["weights"] + box["weights"]}
    which = f"Round {round} of {run.prunes}" if round <= run.prunes else "Final ticket"
    what = f"{which}, trained under {percent(run.remaining.get(round))} remaining: the tracked weights' matrices"
    if not matrices:
        return nothing(page(what, run.title, 1.0, [run.remark]), "No weight is tracked in this round.")
    remarks = [
        run.remark,
        "Box: the middle half of the remaining weights, and their median. Whiskers: at most 1.5 times the box. "
        "Dots: the smallest and the largest. Grey, between dashed lines: below the threshold of a prune just then.",
    ]
    more = len(matrices) - MOST_DRAWN
    if more > 0:
        remarks.append(f"The first {MOST_DRAWN} matrices; {more} more are in metrics.jsonl.")
    drawn = dict(list(matrices.items())[:MOST_DRAWN])
    heights = [max(1.3, 0.6 + 2.7 * LINE * len(_weights(boxes))) for boxes in drawn.values()]
    figure = page(what, run.title, sum(heights), remarks)
    grid = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, (title, boxes) in zip(grid, drawn.items(), strict=True):
        _matrix(axes, title, boxes, _levels(run, round, boxes))
    grid[-1].set_xlabel("value of a weight")
    return figure


def _levels(run: Run, round: int, boxes: dict[str, Event]) -> dict[str, float]:
    """Before and after → the threshold at the first and the last evaluation of the round."""
    steps = run.evaluations["step"][run.evaluations["round"] == round]
    levels = run.levels(_weights(boxes))
    known = levels[levels["round"] == round].set_index("step")["level"]
    return {when: known[at] for when, at in (("before", steps.min()), ("after", steps.max())) if at in known}


def _matrix(axes: Axes, title: str, boxes: dict[str, Event], levels: dict[str, float]) -> None:
    """One panel: a box before, a box after, and the tracked weights of this matrix on both."""
    for when, box in boxes.items():
        if box["count"]:
            _box(axes, ROWS[when], box)
        if level := levels.get(when):
            y = [ROWS[when] - 0.42, ROWS[when] + 0.42]
            axes.fill_betweenx(y, -level, level, color="#eeeeee", lw=0, zorder=0)
            for side in (-level, level):
                axes.plot([side, side], y, color=GREY, lw=1, ls="--", zorder=3.5)
    for (marker, colour), seen in zip(itertools.cycle(MARKS), _weights(boxes).values(), strict=False):
        for when, weight in seen.items():
            face = colour if weight["alive"] else "white"
            axes.plot(weight["value"], ROWS[when], marker, color=colour, mfc=face, ms=7, zorder=4, clip_on=False)
        alive = any(weight["alive"] for weight in seen.values())
        axes.plot([], [], marker, color=colour, mfc=colour if alive else "white", ms=6, label=_label(seen))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), alignment="left")
    axes.set_ylim(-0.55, 1.55)
    axes.set_yticks([ROWS[when] for when in boxes], [f"{when} training" for when in boxes])
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    counts = dict.fromkeys(f"{box['count']:,}" for box in boxes.values())
    far = _log_beyond(axes, [box for box in boxes.values() if box["count"]], max(levels.values(), default=0.0))
    log = "\nbeyond the whiskers on a log scale" if far else ""
    axes.set_title(f"{title}: {' to '.join(counts)} weights remain{log}")


def _box(axes: Axes, y: float, box: Event) -> None:
    axes.barh(y, box["q3"] - box["q1"], 0.42, box["q1"], color="#bbd7ea", edgecolor=BLUE, lw=1, zorder=2)
    axes.plot([box["median"]] * 2, [y - 0.21, y + 0.21], color=BLUE, lw=1.8, zorder=3)
    for quartile, end in ((box["q1"], box["low"]), (box["q3"], box["high"])):
        axes.plot([quartile, end], [y, y], color=BLUE, lw=1, zorder=2)
        axes.plot([end, end], [y - 0.1, y + 0.1], color=BLUE, lw=1, zorder=2)
    axes.plot([box["minimum"], box["maximum"]], [y, y], ".", color=BLUE, zorder=2)


def _weights(boxes: dict[str, Event]) -> dict[Key, dict[str, Event]]:
    """Coordinate → before or after → the tracked weight then."""
    weights: dict[Key, dict[str, Event]] = {}
    for when in ROWS:
        for weight in boxes[when]["weights"] if when in boxes else []:
            weights.setdefault(key(weight), {})[when] = weight
    return weights


def _label(seen: dict[str, Event]) -> str:
    one = next(iter(seen.values()))
    if not one["alive"]:
        return f"{named(one)}\npruned before this round"
    values = ", ".join(f"{when} {weight['value']:.4g}" for when, weight in seen.items())
    return f"{named(one)}\n{values}".replace("-", "−")


def _log_beyond(axes: Axes, boxes: Sequence[Event], level: float) -> bool:
    """Linear to the ends of the whiskers, logarithmic beyond where the largest weight is far out; whether it is."""
    inner = max([level, *(abs(box[end]) for box in boxes for end in ("low", "high"))])
    outer = max([0.0, *(abs(box[end]) for box in boxes for end in ("minimum", "maximum"))])
    if not inner or outer <= 4 * inner:
        return False
    axes.set_xscale("symlog", linthresh=inner, linscale=1.5)
    axes.set_xlim(-1.3 * outer, 1.3 * outer)
    powers = [10.0**n for n in range(math.ceil(math.log10(inner)), math.ceil(math.log10(1.3 * outer)))]
    ticks = [float(f"{inner / 2:.0e}"), *(power for power in powers if power >= 1.3 * inner)]
    axes.set_xticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    return True
