"""``ablations.png``: the perplexity ratio of every weight and set that was zeroed, as a forest plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swlottery.find.effects import CRITICAL
from swlottery.find.record import Record, not_found
from swlottery.models.coordinates import Coordinate
from swlottery.report.figures.style import BLUE, GREY, OCHRE, VERMILLION, VIOLET, log_ticks, page
from swlottery.report.words import looked_at

VERDICTS = {
    "critical": ("o", VERMILLION),
    "jointly critical": ("s", OCHRE),
    "weak": ("^", BLUE),
    "inert": ("v", GREY),
    "undetermined": ("d", GREY),
}
LARGEST_RATIO = 1e6
"""Where the axis of perplexity ratios ends; what is beyond it is an arrow, with its number beside it."""


@dataclass(frozen=True)
class Row:
    """A line of the forest plot; a heading where it has no ablations."""

    label: str
    ablations: Sequence[Record] = ()
    marker: str = "o"
    colour: str = GREY
    filled: bool = True


def forest(record: Record) -> list[Row]:
    """The rows of the forest plot, from the top."""
    weights, others = record["super_weights"], [*record["controls"], *record.get("ablated_controls", [])]
    alone = []
    for weight in weights:
        label = f"{weight['removal']}: {Coordinate.of(weight)}, {weight['verdict']}"
        alone.append(Row(label, [weight], *VERDICTS[weight["verdict"]]))
    asked = [
        Row(f"{Coordinate.of(weight)}, {weight['verdict']}", [weight], *VERDICTS[weight["verdict"]])
        for weight in not_found(record)
    ]
    rows: dict[str, Row] = {}
    for weight in [*weights, *not_found(record)]:
        if weight.get("row"):  # none in a record of schema 1
            where = f"layer {weight['layer']}, out {weight['out']}"
            where += "" if weight["expert"] is None else f", expert {weight['expert']}"
            rows[where] = Row(where, [weight["row"]], "P")
    together = {}  # by set: the verification may come back to one
    for row in record["joint"]:
        if row["kind"] == "joint":
            members = [str(weights[member]["removal"]) for member in row["members"]]
            more = f" and {len(members) - 8} more" if len(members) > 8 else ""
            together[frozenset(row["members"])] = _set(f"{', '.join(members[:8])}{more}", row)
    sets = [row for row in record.get("ablated_joint", []) if row["kind"] == "joint"]
    asked += {frozenset(row["members"]): _set(f"{len(row['members'])} of these", row) for row in sets}.values()
    cancelling = [Row(str(Coordinate.of(row)), [row], "D", VIOLET, filled=False) for row in record["cancellers"]]
    controls = [row for row in others if row["kind"] == "control"]
    ordinary = [Row(f"{len(controls)} weights nearest in |w|, each alone", controls, ".")] if controls else []
    for kind, words in (("random set", "weights at random"), ("largest others", "largest other weights")):
        ordinary += [Row(f"{len(row['coordinates'])} {words}", [row], "x") for row in others if row["kind"] == kind]
    sections = {
        "A super weight alone": alone,
        "Super weights together": list(together.values()),
        "Asked for, and not found": asked,
        "A whole output channel": list(rows.values()),
        "A canceller's largest weight": cancelling,
        "Ordinary weights": ordinary,
    }
    return [row for heading, rows in sections.items() if rows for row in (Row(heading), *rows)]


def _set(members: str, row: Record) -> Row:
    colour = VERMILLION if row["critical"] else GREY
    return Row(f"{members} together" + ", critical" * row["critical"], [row], "s", colour, filled=row["critical"])


def ablations(record: Record) -> Figure:
    """Perplexity ratios with intervals of every weight and set that was zeroed, and of ordinary weights."""
    rows = forest(record)
    text = f"{record['eval_tokens']:,} tokens in {record['documents']} documents"
    remark = f"Intact: perplexity {record['baseline_perplexity']:.2f} on {text}. Bars: 95 % intervals over all"
    remark += " documents, or over as many and at the level that stand behind a name."
    back = [weight["restored"] for weight in [*record["super_weights"], *not_found(record)] if weight["restored"]]
    remark += f" Spike put back: {looked_at(back)}." if looked_at(back) else ""
    remark += "" if record["super_weights"] else " No super weight: none was zeroed."
    height = 0.9 + 0.22 * max(len(rows), 4)
    figure = page("What it costs to set weights to zero", record["model"], height, [record["note"], remark])
    axes = figure.subplots()
    axes.set_ylim(len(rows) - 0.4, -1.1)
    axes.axvline(1, color="black", lw=0.8)
    axes.axvline(math.exp(CRITICAL), color=GREY, lw=0.8, ls="--")
    for y, row in enumerate(rows):
        _row(axes, y, row)
    if back:
        _beside(axes, 0, 62, "◇ spike put back", BLUE)
    _ratios(axes)
    critical = f"critical: interval above × {math.exp(CRITICAL):.3f} ({CRITICAL} nat)"
    paper = {"fc": "white", "ec": "none", "pad": 1}
    at = (math.exp(CRITICAL), -0.6)
    axes.annotate(critical, at, (4, 0), textcoords="offset points", color=GREY, fontsize=8, bbox=paper)
    axes.set_yticks(range(len(rows)), [_labelled(row, record["documents"]) for row in rows])
    axes.tick_params(axis="y", length=0)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(fontweight="normal" if row.ablations else "bold", fontsize=8)
    return figure


def _labelled(row: Row, documents: int) -> str:
    """The label; behind it the documents and the level where these are not all at 95 %."""
    seen = looked_at(row.ablations)
    return row.label + (f" ({seen})" if seen and seen != looked_at([{"documents": documents, "level": 0.95}]) else "")


def _row(axes: Axes, y: float, row: Row) -> None:
    for one in row.ablations:
        _point(axes, y, one, row.marker, row.colour, row.filled)
        if restored := one.get("restored"):  # the same with the spike put back
            _point(axes, y + 0.3, restored, "D", BLUE, False)
            _beside(axes, y, 62, _times(restored["perplexity_ratio"]), BLUE)
    ratios = sorted(one["perplexity_ratio"] for one in row.ablations)
    if len(ratios) > 1:
        axes.plot([ratios[0], ratios[-1]], [y, y], color=row.colour, lw=9, alpha=0.3, solid_capstyle="butt")
    _beside(axes, y, 8, " to ".join(dict.fromkeys(map(_times, ratios[:1] + ratios[-1:]))), "black")


def _point(axes: Axes, y: float, ablation: Record, marker: str, colour: str, filled: bool) -> None:
    """One perplexity ratio and its interval; an arrow where it is beyond the axis."""
    ends = [math.exp(min(end, math.log(LARGEST_RATIO))) for end in ablation["nll_difference_interval"]]
    ratio = min(ablation["perplexity_ratio"], LARGEST_RATIO)
    marker, face = (">" if ratio == LARGEST_RATIO else marker), (colour if filled else "white")
    axes.plot(ends, [y, y], color=colour, lw=1.2, clip_on=False)
    axes.plot(ratio, y, marker, color=colour, mfc=face, zorder=3, clip_on=False)


def _beside(axes: Axes, y: float, points: float, text: str, colour: str) -> None:
    """Text at the right of the axes."""
    axes.annotate(
        text, (1, y), (points, 0), axes.get_yaxis_transform(), "offset points", va="center", color=colour, fontsize=8
    )


def _ratios(axes: Axes) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), min(max(high, 1.25), LARGEST_RATIO))
    powers = {10_000: "×10⁴", 100_000: "×10⁵", 1_000_000: "×10⁶"}
    log_ticks(axes.xaxis, lambda x, _: powers.get(round(x), f"×{x:,g}"))
    axes.set_xlabel("perplexity ÷ perplexity of the intact model")
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")


def _times(ratio: float) -> str:
    digits = 3 if ratio < 10 else 1 if ratio < 1000 else 0
    return f"× {ratio:,.{digits}f}" if ratio < 1e7 else f"× {ratio:.1e}"
