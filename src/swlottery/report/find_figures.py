"""The figures of ``swlottery find``, drawn from a record and nothing else.

``activations.png``: the largest input and output of each layer's down-projection, before and after the super weights are
taken out (figure 3 of Yu et al. 2024, arXiv:2411.07191). ``contributions.png``: what makes each spike.
``ablations.png``: what zeroing each weight or set costs, as a forest plot beside ordinary weights.
"""

from __future__ import annotations

import math
import os
import tempfile
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from swlottery.find.record import Record
from swlottery.find.verify import CRITICAL
from swlottery.report.find_log import place

# Okabe & Ito's colours, which differ for every kind of colour vision; shapes differ as well.
VERMILLION, BLUE, PURPLE, ORANGE, GREY = "#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#666666"
VERDICTS = {
    "critical": ("o", VERMILLION),
    "jointly critical": ("s", ORANGE),
    "weak": ("^", BLUE),
    "inert": ("v", GREY),
    "undetermined": ("d", GREY),
}
WIDTH, LINE, DPI = 8.0, 0.15, 150  # of a figure and of a line of text, in inches; pixels an inch
MOST_NAMED = 12
"""The most super weights that ``activations`` and ``contributions`` name; ``ablations`` has them all."""
LARGEST_RATIO = 1e6
"""Where the axis of perplexity ratios ends; what lies beyond is an arrow beside its number."""
LOOK = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "text.parse_math": False,  # the name of a model may hold a $
}


def draw(record: Record, folder: Path) -> list[Path]:
    """Write the three figures into ``folder`` (made where missing), each whole or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {"activations.png": activations, "contributions.png": contributions, "ablations.png": ablations}
    with (
        tempfile.TemporaryDirectory(prefix=".figures-", dir=folder) as unfinished,
        style.context(["default", LOOK]),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box in a name is no news
        for name, drawing in drawings.items():
            drawing(record).savefig(Path(unfinished, name), dpi=DPI)
            os.replace(Path(unfinished, name), folder / name)
    return [folder / name for name in drawings]


def activations(record: Record) -> Figure:
    """The largest |input| and |output| of each layer, before and after removal, with a flag at each super weight."""
    weights, layers = record["super_weights"], record["layers"]
    flags = _flags(weights[:MOST_NAMED], len(layers["before"]))
    lanes = max((top for _, _, top in flags), default=0)
    remarks = _left_out(weights) if weights else ["No super weight was found: nothing was removed."]
    what = "The largest input and output of each layer's down-projection"
    figure = _figure(record, what, 4.8 + LINE * lanes, remarks)
    sky, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=[max(LINE * lanes, 0.01), 2, 2])
    sky.axis("off")
    sky.set_ylim(0, max(lanes, 1))
    for layer, text, top in flags:
        sky.plot([layer, layer], [0, top], color=GREY, linewidth=0.8, clip_on=False)
        sky.text(layer, top, text, va="top", fontsize=7.5)
    for axes, side in ((upper, "input"), (lower, "output")):
        for layer, _, _ in flags:
            axes.axvline(layer, color=GREY, linewidth=0.8, zorder=0)
        for when, marker, colour, face in (("before", "o", VERMILLION, VERMILLION), ("after", "s", BLUE, "none")):
            if when == "before" or weights:
                x = [layer["layer"] for layer in layers[when]]
                y = [abs(layer[side]["value"]) for layer in layers[when]]
                axes.plot(x, y, color=colour, marker=marker, mfc=face, ms=4.5, lw=1, label=f"{when} removal")
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"largest |{side}|\n(activation, as computed)")
        axes.grid(axis="y")
    if record["cancellers"]:
        x = [spike["layer"] for spike in record["cancellers"]]
        y = [abs(spike["spike"]) for spike in record["cancellers"]]
        lower.plot(x, y, "D", color=PURPLE, mfc="none", ms=9, mew=1.8, label="a spike that cancels an earlier one")
    lower.set_xlabel("layer (0-based)")
    lower.xaxis.set_major_locator(MaxNLocator(20, integer=True))
    handles, labels = lower.get_legend_handles_labels()
    if flags:
        handles, labels = [*handles, sky.lines[0]], [*labels, "a super weight: (layer, out, in)"]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def contributions(record: Record) -> Figure:
    """For each removal, how much of the spike its largest weights give; without any removal, what the leader gives."""
    weights, leader = record["super_weights"], record["leader"]
    panels = []
    for weight in weights[:MOST_NAMED]:
        bars = [(_in(given), given["share"], _in(given) == _in(weight)) for given in weight["contributions"]]
        bars.append(("the bias", weight["bias_share"], False))
        bars = [bar for bar in bars if abs(bar[1]) >= 0.005 or bar[2]]
        panels.append((f"removal {weight['removal']}: {_spike(weight)}", bars))
    remarks = [*_left_out(weights), "Orange: the weight that was taken out."]
    if not weights:
        panels = [(f"leader: {_spike(leader)}", [(_in(leader), leader["share"], False)])]
        remarks = [f"The leader {place(leader)} is no super weight: {'; '.join(leader['lacks']) or 'see the log'}."]
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    most = max(len(bars) for _, bars in panels) + 1
    figure = _figure(record, "What makes each spike", 0.5 + rows * (0.4 + LINE * most), remarks)
    grid = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flatten())
    for axes in grid[len(panels) :]:
        axes.axis("off")
    for axes, (title, bars) in zip(grid, panels, strict=False):
        bars = [*bars, ("everything else", 1 - sum(share for _, share, _ in bars), False)]
        for y, (_, share, taken) in enumerate(bars):
            colour = VERMILLION if taken else GREY if y == len(bars) - 1 else BLUE
            axes.barh(y, 100 * share, color=colour, height=0.7)
            text = f" {_percent(share)}" + ("  taken out" if taken else "")
            axes.text(max(100 * share, 0), y, text, va="center", fontsize=7)
        axes.set_yticks(range(len(bars)), [label for label, _, _ in bars])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(most - 0.5, -0.6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(title, loc="left", fontweight="bold")
    for axes in grid[: len(panels)][-columns:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("share of the spike (%)")
    low, high = grid[0].get_xlim()
    grid[0].set_xlim(low, high + 0.2 * (high - low))  # room for the numbers
    return figure


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
    together = []
    for row in record["joint"]:
        label = _ranges([weights[member]["removal"] for member in row["members"]]) + ", critical" * row["critical"]
        if row["kind"] == "joint":
            together.append(Row(label, [row], "s", VERMILLION if row["critical"] else GREY, filled=row["critical"]))
    cancelling = [Row(str(place(row)), [row], "D", PURPLE, filled=False) for row in record["cancellers"]]
    controls = [row for row in others if row["kind"] == "control"]
    ordinary = [Row(f"{len(controls)} weights nearest in |w|, each alone", controls, ".")] if controls else []
    for kind, words in (("random set", "weights at random"), ("largest others", "largest other weights")):
        ordinary += [Row(f"{len(row['coordinates'])} {words}", [row], "x") for row in others if row["kind"] == kind]
    sections = {
        "A super weight alone": alone,
        "Super weights together": together,
        "A canceller's largest weight": cancelling,
        "Ordinary weights": ordinary,
    }
    return [row for heading, rows in sections.items() if rows for row in (Row(heading), *rows)]


def ablations(record: Record) -> Figure:
    """Perplexity ratios with 95 % intervals of every weight and set that was zeroed, beside those of ordinary weights."""
    rows = forest(record)
    text = f"{record['eval_tokens']:,} tokens in {record['documents']} documents"
    remarks = [
        f"Intact: perplexity {record['baseline_perplexity']:.2f} on {text}. Bars: 95 % intervals over documents."
    ]
    if not record["super_weights"]:
        remarks.append("No super weight was found, so none was set to zero.")
    figure = _figure(record, "What it costs to set weights to zero", 0.8 + 0.21 * max(len(rows), 4), remarks)
    axes = figure.subplots()
    axes.set_ylim(len(rows) - 0.4, -1)
    axes.axvline(1, color="black", linewidth=0.8)
    bar = math.exp(CRITICAL)
    axes.axvline(bar, color=GREY, linewidth=0.8, linestyle="--")
    axes.text(bar, -0.5, f"  the bar of critical: × {bar:.3f} ({CRITICAL} nat)", va="center", color=GREY, fontsize=7)
    for y, row in enumerate(rows):
        for one in row.ablations:
            _point(axes, y, one, row.marker, row.colour, row.filled)
        ratios = sorted(one["perplexity_ratio"] for one in row.ablations)
        ends = dict.fromkeys(map(_times, ratios[:1] + ratios[-1:]))
        _beside(axes, y, 8, " to ".join(ends), "black")
        if row.restored:
            _point(axes, y + 0.3, row.restored, "D", BLUE, False)
            _beside(axes, y, 70, _times(row.restored["perplexity_ratio"]), BLUE)
    if any(row.restored for row in rows):
        _beside(axes, 0, 70, "◇ spike put back", BLUE)
    _ratio_axis(axes)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", length=0)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("normal" if row.ablations else "bold")
    return figure


def _point(axes: Any, y: float, ablation: Record, marker: str, colour: str, filled: bool) -> None:
    """One perplexity ratio and its interval; an arrow where it lies beyond the axis."""
    low, high = (math.exp(min(end, math.log(LARGEST_RATIO))) for end in ablation["nll_difference_interval"])
    ratio = ablation["perplexity_ratio"]
    axes.plot([low, high], [y, y], color=colour, linewidth=1.2, clip_on=False)
    axes.plot(
        min(ratio, LARGEST_RATIO), y, marker if ratio <= LARGEST_RATIO else ">", color=colour,
        mfc=colour if filled else "white", ms=5 if marker != "." else 4, zorder=3, clip_on=False,
    )  # fmt: skip


def _beside(axes: Any, y: float, points: float, text: str, colour: str) -> None:
    """Text at the right of the axes."""
    axes.annotate(text, (1, y), (points, 0), axes.get_yaxis_transform(), "offset points", va="center", color=colour)


def _ratio_axis(axes: Any) -> None:
    """A log axis of perplexity ratios: powers of ten, or finer where the ratios are small."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    low, high = min(low, 0.9), max(high, 1.25)
    axes.set_xlim(low, min(high, LARGEST_RATIO))
    steps = [1.0] if high / low > 50 else [1, 2, 5] if high / low > 3 else [1, 1.1, 1.2, 1.5, 2, 5, 7, 8, 9]
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"×{ratio:,g}" if ratio < 1e6 else "×10⁶"))
    axes.set_xlabel("perplexity ÷ perplexity of the intact model")
    axes.grid(axis="x")


def _figure(record: Record, what: str, height: float, remarks: Sequence[str]) -> Figure:
    """A figure under a header: the model, what is shown, what the model is, remarks."""
    small = [line for text in (record["note"], *remarks) for line in textwrap.wrap(_plain(text, 400), 130)]
    top = 0.48 + LINE * len(small)
    height += top
    figure = Figure(figsize=(WIDTH, height))
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - top / height))
    figure.text(0.01, 1 - 0.08 / height, _plain(record["model"], 75), va="top", fontsize=11, fontweight="bold")
    figure.text(0.01, 1 - 0.29 / height, what, va="top", fontsize=9)
    figure.text(0.01, 1 - 0.47 / height, "\n".join(small), va="top", fontsize=7.5, color="#444444")
    return figure


def _flags(weights: Sequence[Record], layers: int) -> list[tuple[int, str, int]]:
    """For each layer with super weights: (layer, their coordinates, the line on which they begin, counted from below).

    A flag flies to the right of its pole, above every flag whose pole would stand in it.
    """
    named: dict[int, list[str]] = {}
    for weight in sorted(weights, key=lambda weight: int(weight["layer"])):
        named.setdefault(weight["layer"], []).append(f" {place(weight)}")
    flags: list[tuple[int, str, int]] = []
    for layer, lines in reversed(named.items()):
        reach = layer + max(map(len, lines)) * 0.065 / (WIDTH - 1.2) * layers  # a character is 0.065 inches wide
        below = max((top for other, _, top in flags if other <= reach), default=0)
        flags.append((layer, "\n".join(lines), below + len(lines)))
    return flags


def _left_out(weights: Sequence[Record]) -> list[str]:
    more = len(weights) - MOST_NAMED
    return [f"The first {MOST_NAMED} super weights; {more} more are in the record."] if more > 0 else []


def _in(weight: Record) -> str:
    return f"in {weight['in']}" + ("" if weight["expert"] is None else f", expert {weight['expert']}")


def _spike(spike: Record) -> str:
    size = f"{spike['spike']:,.0f}" if abs(spike["spike"]) >= 100 else f"{spike['spike']:.3g}"
    return f"layer {spike['layer']}, out {spike['out']}, spike {size} (ratio {spike['ratio']:.3g})"


def _percent(share: float) -> str:
    return f"{share:.0%}" if abs(share) < 100 else f"{100 * share:.1e} %"


def _times(ratio: float) -> str:
    return (
        f"× {ratio:.3f}"
        if ratio < 10
        else f"× {ratio:,.1f}"
        if ratio < 1000
        else f"× {ratio:,.0f}"
        if ratio < 1e7
        else f"× {ratio:.1e}"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 as "1–3, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _plain(text: str, longest: int) -> str:
    """Text from a record on one line: without what no font has, and its middle left out where it is long."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-longest // 2 :]}"
