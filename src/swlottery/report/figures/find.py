"""The figures of ``swlottery find``, drawn from a record and nothing else.

``activations.png``: the largest input and output of each layer's down-projection, before and after the super weights
are taken out (figure 3 of Yu et al. 2024, arXiv:2411.07191). ``contributions.png``: what makes each spike.
``ablations.png``: what zeroing each weight or set costs, as a forest plot beside ordinary weights.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swlottery.find.record import Record
from swlottery.find.verify import CRITICAL
from swlottery.report.figures.style import BLUE, GREY, LINE, OCHRE, PINK, VERMILLION, log_ticks, look, page, save
from swlottery.report.logs.find import place

VERDICTS = {
    "critical": ("o", VERMILLION), "jointly critical": ("s", OCHRE), "weak": ("^", BLUE), "inert": ("v", GREY),
    "undetermined": ("d", GREY),
}  # fmt: skip
MOST_NAMED = 12
"""The most super weights that ``activations`` and ``contributions`` name; ``ablations`` has them all."""
LARGEST_RATIO = 1e6
"""Where the axis of perplexity ratios ends; what lies beyond is an arrow, and its number stands beside it."""


def draw(record: Record, folder: Path) -> list[Path]:
    """Write the three figures into ``folder`` (made where missing), each whole or not at all; returns their paths."""
    drawings = {"activations.png": activations, "contributions.png": contributions, "ablations.png": ablations}
    with look():
        return [save(drawing(record), folder / name) for name, drawing in drawings.items()]


def activations(record: Record) -> Figure:
    """The largest |input| and |output| of each layer, before and after removal, with a flag at each super weight."""
    weights, layers = record["super_weights"], record["layers"]
    flags = _flags(weights[:MOST_NAMED])
    lanes = sum(map(len, flags.values()))
    remark = _left_out(record) if weights else "No super weight was found: nothing was removed."
    what = "The largest input and output of each layer's down-projection"
    figure = _figure(record, what, 4.8 + LINE * lanes, remark)
    sky, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=[max(LINE * lanes, 0.01), 2, 2])
    sky.axis("off")
    sky.set_ylim(0, max(lanes, 1))
    top = 0
    for layer, names in flags.items():  # each flag flies above those to its right, so that no pole stands in one
        top += len(names)
        (pole,) = sky.plot([layer, layer], [-1, top], color=GREY, lw=0.8, clip_on=False)  # down to the panel below
        pole.set(in_layout=False, label="a super weight: (layer, out, in)")
        sky.text(layer, top, "\n".join(names), va="top", fontsize=7.5)
    for axes, side in ((upper, "input"), (lower, "output")):
        for layer in flags:
            axes.axvline(layer, color=GREY, lw=0.8, zorder=0)
        for when, marker, colour, face in (("before", "o", VERMILLION, VERMILLION), ("after", "s", BLUE, "none")):
            if when == "before" or weights:
                x = [layer["layer"] for layer in layers[when]]
                y = [abs(layer[side]["value"]) for layer in layers[when]]
                axes.plot(x, y, color=colour, marker=marker, mfc=face, ms=4.5, lw=1, label=f"{when} removal")
        axes.set_yscale("log", nonpositive="mask")
        log_ticks(axes.yaxis, axes.get_ylim(), lambda y: f"{y:,.0f}" if y >= 10 else f"{y:g}")
        axes.set_ylabel(f"largest |{side}|\n(activation, as computed)")
        axes.grid(axis="y")
    if record["cancellers"]:
        x = [spike["layer"] for spike in record["cancellers"]]
        y = [abs(spike["spike"]) for spike in record["cancellers"]]
        label = "a spike that cancels an earlier one"
        lower.plot(x, y, "D", color=PINK, mfc="none", ms=9, mew=1.8, clip_on=False, label=label)
    lower.set_xlabel("layer (0-based)")
    lower.set_xlim(-0.6, len(layers["before"]) - 0.4)
    lower.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    handles = [*lower.get_legend_handles_labels()[0], *sky.lines[:1]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _flags(weights: Sequence[Record]) -> dict[int, list[str]]:
    """Layer → the coordinates of the super weights in it, from the last layer to the first."""
    flags: dict[int, list[str]] = {}
    for weight in sorted(weights, key=lambda weight: -int(weight["layer"])):
        flags.setdefault(weight["layer"], []).append(f" {place(weight)}")
    return flags


def contributions(record: Record) -> Figure:
    """For each removal, how much of the spike its largest weights give; without any removal, what the leader gives."""
    weights, leader = record["super_weights"], record["leader"]
    panels = [(f"removal {weight['removal']}: {_spike(weight)}", weight) for weight in weights[:MOST_NAMED]]
    remark = _left_out(record)
    if not weights:
        panels = [(f"leader: {_spike(leader)}", leader | {"contributions": [leader], "bias_share": 0.0})]
        remark = f"The leader {place(leader)} is no super weight: {'; '.join(leader['lacks']) or 'see the log'}."
    bars = [_bars(weight) for _, weight in panels]
    most, columns = max(map(len, bars)), min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    height = 0.5 + rows * (0.45 + LINE * most)
    figure = _figure(record, "What gives each spike: the shares of weight × input", height, remark)
    grid = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flatten())
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, (title, weight), named in zip(grid, panels, bars, strict=False):
        for y, (label, share) in enumerate(named.items()):
            taken = label == _in(weight) and bool(weights)
            axes.barh(y, 100 * share, color=VERMILLION if taken else GREY if label == "the rest" else BLUE, height=0.7)
            text = f" {round(100 * share)} %" + "  taken out" * taken
            axes.text(max(100 * share, 0), y, text, va="center", fontsize=7)
        axes.set_yticks(range(len(named)), list(named))
        axes.set_ylim(most - 0.5, -0.6)
        axes.axvline(0, color="black", lw=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(textwrap.fill(title, 58), loc="left")
    for axes in grid[: len(panels)][-columns:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("share of the spike (%)")
    low, high = grid[0].get_xlim()
    grid[0].set_xlim(low, max(high, 100) + 0.25 * (max(high, 100) - low))  # room for the numbers
    return figure


def _bars(weight: Record) -> dict[str, float]:
    """What gives a spike, by name: the weight that was taken out, all that gives at least 0.5 % of it, and the rest."""
    given = [(_in(one), one["share"]) for one in weight["contributions"]] + [("the bias", weight["bias_share"])]
    bars = {name: share for name, share in given if name == _in(weight) or abs(share) >= 0.005}
    return bars | {"the rest": 1 - sum(bars.values())}


@dataclass(frozen=True)
class Row:
    """A line of the forest plot; a heading where it has no ablations. restored: the same with the spike put back."""

    label: str
    ablations: Sequence[Record] = ()
    marker: str = "o"
    colour: str = GREY
    filled: bool = True
    restored: Record | None = None


def forest(record: Record) -> list[Row]:
    """The rows of the forest plot, from the top."""
    weights, others = record["super_weights"], record["controls"]
    alone = []
    for weight in weights:
        label = f"{weight['removal']}: {place(weight)}, {weight['verdict']}"
        alone.append(Row(label, [weight], *VERDICTS[weight["verdict"]], restored=weight["restored"]))
    together = {}  # by set: the verification may come back to one
    for row in (row for row in record["joint"] if row["kind"] == "joint"):
        members = [str(weights[member]["removal"]) for member in row["members"]]
        more = f" and {len(members) - 8} more" * (len(members) > 8)
        label = f"{', '.join(members[:8])}{more} together" + ", critical" * row["critical"]
        colour = VERMILLION if row["critical"] else GREY
        together[frozenset(row["members"])] = Row(label, [row], "s", colour, filled=row["critical"])
    cancelling = [Row(str(place(row)), [row], "D", PINK, filled=False) for row in record["cancellers"]]
    controls = [row for row in others if row["kind"] == "control"]
    ordinary = [Row(f"{len(controls)} weights nearest in |w|, each alone", controls, ".")] if controls else []
    for kind, words in (("random set", "weights at random"), ("largest others", "largest other weights")):
        ordinary += [Row(f"{len(row['coordinates'])} {words}", [row], "x") for row in others if row["kind"] == kind]
    sections = {
        "A super weight alone": alone, "Super weights together": list(together.values()),
        "A canceller's largest weight": cancelling, "Ordinary weights": ordinary,
    }  # fmt: skip
    return [row for heading, rows in sections.items() if rows for row in (Row(heading), *rows)]


def ablations(record: Record) -> Figure:
    """Perplexity ratios with 95 % intervals of every weight and set that was zeroed, and of ordinary weights."""
    rows = forest(record)
    text = f"{record['eval_tokens']:,} tokens in {record['documents']} documents"
    remark = f"Intact: perplexity {record['baseline_perplexity']:.2f} on {text}. Bars: 95 % intervals over documents."
    remark += "" if record["super_weights"] else " No super weight: none was zeroed."
    figure = _figure(record, "What it costs to set weights to zero", 0.8 + 0.21 * max(len(rows), 4), remark)
    axes = figure.subplots()
    axes.set_ylim(len(rows) - 0.4, -1.1)
    axes.axvline(1, color="black", lw=0.8)
    bar = math.exp(CRITICAL)
    axes.axvline(bar, color=GREY, lw=0.8, ls="--")
    text, white = f"critical: interval above × {bar:.3f} ({CRITICAL} nat)", {"fc": "white", "ec": "none", "pad": 1}
    axes.annotate(text, (bar, -0.6), (4, 0), textcoords="offset points", color=GREY, fontsize=7, bbox=white)
    for y, row in enumerate(rows):
        for one in row.ablations:
            _point(axes, y, one, row.marker, row.colour, row.filled)
        ratios = sorted(one["perplexity_ratio"] for one in row.ablations)
        if len(ratios) > 1:
            axes.plot([ratios[0], ratios[-1]], [y, y], color=row.colour, lw=9, alpha=0.3, solid_capstyle="butt")
        _beside(axes, y, 8, " to ".join(dict.fromkeys(map(_times, ratios[:1] + ratios[-1:]))), "black")
        if row.restored:
            _point(axes, y + 0.3, row.restored, "D", BLUE, False)
            _beside(axes, y, 70, _times(row.restored["perplexity_ratio"]), BLUE)
    if any(row.restored for row in rows):
        _beside(axes, 0, 70, "◇ spike put back", BLUE)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), min(max(high, 1.25), LARGEST_RATIO))
    powers = {10_000: "×10⁴", 100_000: "×10⁵", 1_000_000: "×10⁶"}
    log_ticks(axes.xaxis, axes.get_xlim(), lambda x: powers.get(round(x), f"×{x:,g}"))
    axes.set_xlabel("perplexity ÷ perplexity of the intact model")
    axes.grid(axis="x")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if row.ablations else "bold")
    return figure


def _point(axes: Axes, y: float, ablation: Record, marker: str, colour: str, filled: bool) -> None:
    """One perplexity ratio and its interval; an arrow where it lies beyond the axis."""
    ends = [math.exp(min(end, math.log(LARGEST_RATIO))) for end in ablation["nll_difference_interval"]]
    ratio = min(ablation["perplexity_ratio"], LARGEST_RATIO)
    marker, face = (">" if ratio == LARGEST_RATIO else marker), (colour if filled else "white")
    axes.plot(ends, [y, y], color=colour, lw=1.2, clip_on=False)
    axes.plot(ratio, y, marker, color=colour, mfc=face, ms=5, zorder=3, clip_on=False)


def _beside(axes: Axes, y: float, points: float, text: str, colour: str) -> None:
    """Text at the right of the axes."""
    axes.annotate(text, (1, y), (points, 0), axes.get_yaxis_transform(), "offset points", va="center", color=colour)


def _figure(record: Record, what: str, height: float, remark: str) -> Figure:
    """A page: the model, what is shown, what the model is, a remark."""
    return page(record["model"], what, height, [record["note"], remark])


def _left_out(record: Record) -> str:
    more = len(record["super_weights"]) - MOST_NAMED
    return f"The first {MOST_NAMED} super weights; {more} more are in the record." if more > 0 else ""


def _in(weight: Record) -> str:
    return f"in {weight['in']}" + ("" if weight["expert"] is None else f", expert {weight['expert']}")


def _spike(spike: Record) -> str:
    size = f"{spike['spike']:,.0f}" if abs(spike["spike"]) >= 100 else f"{spike['spike']:.3g}"
    return f"layer {spike['layer']}, out {spike['out']}, spike {size} (ratio {spike['ratio']:.3g})"


def _times(ratio: float) -> str:
    digits = 3 if ratio < 10 else 1 if ratio < 1000 else 0
    return f"× {ratio:,.{digits}f}" if ratio < 1e7 else f"× {ratio:.1e}"
