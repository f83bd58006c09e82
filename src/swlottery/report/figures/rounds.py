"""The figure of one round: the weights of each followed weight's matrix, before and after its training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from swlottery.report.figures.style import BLUE, GREY, LINE, OCHRE, PINK, VERMILLION, nothing, page
from swlottery.report.run_files import Event, Run
from swlottery.report.words import Key, key, named, percent

ROWS = {"before": 1.0, "after": 0.0}
"""Where the box before training lies, and that after it."""
MARKS = [("D", VERMILLION), ("s", OCHRE), ("^", PINK), ("v", BLUE), ("o", VERMILLION), ("P", OCHRE)]
MOST_DRAWN = 12
"""The most matrices that have a panel; metrics.jsonl has them all."""


def round_boxes(run: Run, round: int) -> Figure:
    """Boxplots of the remaining weights of each followed weight's matrix, with the weight and ±threshold."""
    matrices: dict[str, dict[str, Event]] = {}
    for box in run.boxes:
        if box["round"] == round:
            expert = "" if box["expert"] is None else f", expert {box['expert']}"
            boxes = matrices.setdefault(box["path"] + expert, {})
            before = boxes.get(box["when"], {"weights": []})  # weights found later come with a box of their own
            boxes[box["when"]] = box | {"weights": before["weights"] + box["weights"]}
    which = f"Round {round} of {run.prunes}" if round <= run.prunes else "Final ticket"
    what = f"{which}, trained under {percent(run.remaining.get(round))} remaining: the matrices of the followed weights"
    remarks = [
        run.remark,
        "Box: the middle half of the weights that remain, and their median. Whiskers: at most 1.5 times its length. Dots: "
        "the smallest and the largest. Grey between dashed lines: below the threshold, what pruning would take just then.",
    ]
    if not matrices:
        remarks = remarks[:1]
    if len(matrices) > MOST_DRAWN:
        remarks.append(f"The first {MOST_DRAWN} matrices; {len(matrices) - MOST_DRAWN} more are in metrics.jsonl.")
    drawn = dict(list(matrices.items())[:MOST_DRAWN])
    heights = [max(1.25, 0.6 + 2.7 * LINE * len(_weights(boxes))) for boxes in drawn.values()]
    figure = page(run.title, what, sum(heights) or 1.0, remarks)
    if not drawn:
        nothing(figure, "No weight is followed in this round: there is no matrix to show.")
        return figure
    grid = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights).flatten()
    for axes, (title, boxes) in zip(grid, drawn.items(), strict=True):
        levels = _levels(run, round, boxes)
        _matrix(axes, title, boxes, levels)
    grid[-1].set_xlabel("value of a weight")
    return figure


def _levels(run: Run, round: int, boxes: dict[str, Event]) -> dict[str, float]:
    """Before and after → the threshold at the first and the last evaluation of the round."""
    here = set(_weights(boxes))
    known = run.levels([track for track in run.followed if track.place in here])
    steps = [step for at, step in run.thresholds if at == round]
    found = {"before": known.get((round, min(steps))), "after": known.get((round, max(steps)))} if steps else {}
    return {when: level for when, level in found.items() if level}


def _matrix(axes: Axes, title: str, boxes: dict[str, Event], levels: dict[str, float]) -> None:
    """One panel: a box before, a box after, and the followed weights of this matrix on both."""
    for when, box in boxes.items():
        if box["count"]:
            _box(axes, ROWS[when], box)
        level = levels.get(when)
        if level:
            y = [ROWS[when] - 0.42, ROWS[when] + 0.42]
            axes.fill_betweenx(y, -level, level, color="#EEEEEE", lw=0, zorder=0)
            for side in (-level, level):
                axes.plot([side, side], y, color=GREY, lw=1, ls="--", zorder=3.5)
    for (marker, colour), seen in zip(itertools.cycle(MARKS), _weights(boxes).values(), strict=False):
        for when, weight in seen.items():
            face = colour if weight["alive"] else "white"
            axes.plot(weight["value"], ROWS[when], marker, color=colour, mfc=face, ms=7, zorder=4, clip_on=False)
        dead = not any(weight["alive"] for weight in seen.values())
        axes.plot([], [], marker, color=colour, mfc="white" if dead else colour, ms=6, label=_label(seen))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, alignment="left", fontsize=7)
    counts = list(dict.fromkeys(f"{box['count']:,}" for box in boxes.values()))
    axes.set_ylim(-0.55, 1.55)
    axes.set_yticks([ROWS[when] for when in boxes], [f"{when} training" for when in boxes])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    far = _scale(axes, [box for box in boxes.values() if box["count"]], max(levels.values(), default=0.0))
    log = " (beyond the whiskers: log scale)" * far
    axes.set_title(f"{title}: {' to '.join(counts)} weights remain{log}", loc="left", fontsize=8)


def _box(axes: Axes, y: float, box: Event) -> None:
    axes.barh(y, box["q3"] - box["q1"], 0.42, box["q1"], color="#BBD7EA", edgecolor=BLUE, lw=1, zorder=2)
    axes.plot([box["median"]] * 2, [y - 0.21, y + 0.21], color=BLUE, lw=1.8, zorder=3)
    for inner, outer in ((box["q1"], box["low"]), (box["q3"], box["high"])):
        axes.plot([inner, outer], [y, y], color=BLUE, lw=1, zorder=2)
        axes.plot([outer, outer], [y - 0.1, y + 0.1], color=BLUE, lw=1, zorder=2)
    axes.plot([box["minimum"], box["maximum"]], [y, y], ".", color=BLUE, ms=4, zorder=2)


def _weights(boxes: dict[str, Event]) -> dict[Key, dict[str, Event]]:
    """Coordinate → before or after → the followed weight then."""
    weights: dict[Key, dict[str, Event]] = {}
    for when in ROWS:
        for weight in boxes[when]["weights"] if when in boxes else []:
            weights.setdefault(key(weight), {})[when] = weight
    return weights


def _label(seen: dict[str, Event]) -> str:
    one = next(iter(seen.values()))
    if not one["alive"]:
        return f"{named(one)}\npruned before this round"
    return f"{named(one)}\n" + ", ".join(_signed(f"{when} {weight['value']:.4g}") for when, weight in seen.items())


def _scale(axes: Axes, boxes: Sequence[Event], level: float) -> bool:
    """Linear to the ends of the whiskers, logarithmic beyond where the largest weight lies far out; whether it is."""
    inner = max([level, *(abs(box[end]) for box in boxes for end in ("low", "high"))])
    outer = max([0.0, *(abs(box[end]) for box in boxes for end in ("minimum", "maximum"))])
    if not inner or outer <= 4 * inner:
        return False
    axes.set_xscale("symlog", linthresh=inner, linscale=1.5)
    axes.set_xlim(-1.3 * outer, 1.3 * outer)
    digit = 10.0 ** math.floor(math.log10(inner))
    edge = digit * max(part for part in (0.5, 1, 2, 5) if part * digit <= 0.6 * inner)
    powers = [10.0**n for n in range(math.floor(math.log10(inner)) + 1, math.ceil(math.log10(1.3 * outer)))]
    ticks = [edge, *(power for power in powers if power >= 1.3 * inner)]
    axes.xaxis.set_major_locator(FixedLocator([*(-tick for tick in reversed(ticks)), 0, *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(f"{value:g}")))
    return True


def _signed(number: str) -> str:
    return number.replace("-", "−")
