"""The figures of ``swlottery find``, drawn from a record and nothing else.

``activations.png``: the largest input and output of each layer's down-projection, before and after the super weights
are taken out (figure 3 of Yu et al. 2024, arXiv:2411.07191). ``contributions.png``: what makes each spike.
``ablations.png``: what zeroing each weight or set costs, as a forest plot beside ordinary weights. ``dose.png``: what
it costs to make a weight smaller, where that was looked at.
"""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swlottery.find.record import Record
from swlottery.models.coordinates import Coordinate
from swlottery.report.figures.dose import dosed, doses
from swlottery.report.figures.forest import ablations
from swlottery.report.figures.style import BLUE, GREY, LINE, VERMILLION, VIOLET, log_ticks, look, page, panels, save

MOST_NAMED = 12
"""The most super weights that ``activations`` and ``contributions`` name; ``ablations`` has them all."""


def draw(record: Record, folder: Path) -> list[Path]:
    """Write the figures into ``folder`` (made where missing), each whole or not at all; returns their paths."""
    drawings = {"activations.png": activations, "contributions.png": contributions, "ablations.png": ablations}
    drawings |= {"dose.png": doses} if dosed(record) else {}
    with look():
        return [save(drawing(record), folder / name) for name, drawing in drawings.items()]


def activations(record: Record) -> Figure:
    """The largest |input| and |output| of each layer, before and after removal, with a flag at each super weight."""
    weights, layers = record["super_weights"], record["layers"]
    flags: dict[int, list[str]] = {}
    for weight in sorted(weights[:MOST_NAMED], key=lambda weight: -int(weight["layer"])):
        flags.setdefault(weight["layer"], []).append(f" {Coordinate.of(weight)}")
    height = LINE * sum(map(len, flags.values()))
    remark = _left_out(record) if weights else "No super weight was found: nothing was removed."
    what = "The largest input and output of each layer's down-projection"
    figure = page(what, record["model"], 4.8 + height, [record["note"], remark])
    top, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=[max(height, 0.01), 2, 2])
    _fly(top, flags)
    for axes, side in ((upper, "input"), (lower, "output")):
        for layer in flags:
            axes.axvline(layer, color=GREY, lw=0.8, zorder=0)
        for when, marker, colour, face in (("before", "o", VERMILLION, VERMILLION), ("after", "s", BLUE, "none")):
            if when == "before" or weights:
                x = [layer["layer"] for layer in layers[when]]
                y = [abs(layer[side]["value"]) for layer in layers[when]]
                axes.plot(x, y, color=colour, marker=marker, mfc=face, lw=1.2, label=f"{when} removal")
        axes.set_yscale("log", nonpositive="mask")
        log_ticks(axes.yaxis, lambda y, _: f"{y:,.0f}" if y >= 10 else f"{y:g}")
        axes.set_ylabel(f"largest |{side}|\n(activation, as computed)")
    if record["cancellers"]:
        x = [spike["layer"] for spike in record["cancellers"]]
        y = [abs(spike["spike"]) for spike in record["cancellers"]]
        label = "a spike that cancels an earlier one"
        lower.plot(x, y, "D", color=VIOLET, mfc="none", ms=9, mew=1.8, clip_on=False, label=label)
    lower.set_xlabel("layer (counted from 0)")
    lower.set_xlim(-0.6, len(layers["before"]) - 0.4)
    lower.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1))
    handles = [*lower.get_legend_handles_labels()[0], *top.lines[:1]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.2)
    return figure


def _fly(axes: Axes, flags: dict[int, list[str]]) -> None:
    """The names of the super weights above their layers, the last layer lowest, so that no pole crosses a name."""
    axes.axis("off")
    axes.set_ylim(0, max(sum(map(len, flags.values())), 1))
    height = 0
    for layer, names in flags.items():
        height += len(names)
        (pole,) = axes.plot([layer, layer], [-1, height], color=GREY, lw=0.8, clip_on=False)  # down to the panel below
        pole.set(in_layout=False, label="a super weight: (layer, out, in)")
        axes.text(layer, height, "\n".join(names), va="top", fontsize=8)


def contributions(record: Record) -> Figure:
    """For each removal, how much of the spike its largest weights give; without any removal, what the leader gives."""
    weights, leader = record["super_weights"], record["leader"]
    shown = {f"removal {weight['removal']}": weight for weight in weights[:MOST_NAMED]}
    remark = _left_out(record)
    if not weights:
        shown = {"leader": leader | {"contributions": [leader], "bias_share": 0.0}}
        remark = (
            f"The leader {Coordinate.of(leader)} is no super weight: {'; '.join(leader['lacks']) or 'see the log'}."
        )
    bars = [_bars(weight) for weight in shown.values()]
    most, columns = max(map(len, bars)), min(len(shown), 2)
    height = 0.5 + math.ceil(len(shown) / columns) * (0.65 + LINE * most)
    figure = page(
        "What gives each spike: the shares of weight × input", record["model"], height, [record["note"], remark]
    )
    grid = panels(figure, len(shown), columns, sharex=True)
    for axes, (name, weight), named in zip(grid, shown.items(), bars, strict=True):
        _draw_bars(axes, named, _in(weight) if weights else "")
        axes.set_ylim(most - 0.5, -0.6)
        axes.set_title(f"{name}: {_spike(weight)}")
    for axes in grid[-columns:]:
        axes.set_xlabel("share of the spike (%)")
    low, high = grid[0].get_xlim()
    end = max(high, 100)
    grid[0].set_xticks([share for share in grid[0].get_xticks() if low <= share <= end])
    grid[0].set_xlim(low, end + 0.45 * (end - low))  # room for the numbers
    return figure


def _bars(weight: Record) -> dict[str, float]:
    """What gives a spike, by name: the weight that was taken out, all that gives at least 0.5 % of it, and the rest."""
    given = [(_in(one), one["share"]) for one in weight["contributions"]] + [("the bias", weight["bias_share"])]
    bars = {name: share for name, share in given if name == _in(weight) or abs(share) >= 0.005}
    return bars | {"the rest": 1 - sum(bars.values())}


def _draw_bars(axes: Axes, named: dict[str, float], removed: str) -> None:
    for y, (name, share) in enumerate(named.items()):
        colour = VERMILLION if name == removed else GREY if name == "the rest" else BLUE
        axes.barh(y, 100 * share, color=colour, height=0.7)
        text = f" {round(100 * share)} %" + ", taken out" * (name == removed)
        axes.text(max(100 * share, 0), y, text, va="center", fontsize=8)
    axes.set_yticks(range(len(named)), list(named))
    axes.axvline(0, color="black", lw=0.8)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def _left_out(record: Record) -> str:
    more = len(record["super_weights"]) - MOST_NAMED
    return f"The first {MOST_NAMED} super weights; {more} more are in the record." if more > 0 else ""


def _in(weight: Record) -> str:
    return f"in {weight['in']}" + ("" if weight["expert"] is None else f", expert {weight['expert']}")


def _spike(spike: Record) -> str:
    size = f"{spike['spike']:,.0f}" if abs(spike["spike"]) >= 100 else f"{spike['spike']:.3g}"
    return f"layer {spike['layer']}, out {spike['out']}\nspike {size} (ratio {spike['ratio']:.3g})"
