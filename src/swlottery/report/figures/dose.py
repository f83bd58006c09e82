"""``dose.png``: the perplexity as each weight is made smaller."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from swlottery.find.record import Record, not_found
from swlottery.models.coordinates import Coordinate
from swlottery.report.figures.forest import LARGEST_RATIO
from swlottery.report.figures.style import COLOURS, log_ticks, page

MARKERS = "os^vDP*X"
MOST = 16
"""Lines at most."""


def dosed(record: Record) -> list[Record]:
    """The weights that were made smaller by steps; none in a record of schema 1."""
    return [weight for weight in [*record["super_weights"], *not_found(record)] if weight.get("dose")]


def doses(record: Record) -> Figure:
    """The perplexity ratio of each weight against the part of it that is left."""
    weights = dosed(record)
    more = f" The first {MOST} of {len(weights)} weights." if len(weights) > MOST else ""
    over = f"In brackets: on how many of the {record['documents']:,} documents."
    figure = page("The perplexity as a weight is made smaller", record["model"], 3.6, [record["note"], over + more])
    axes = figure.subplots()
    axes.set_yscale("log")
    for nth, weight in enumerate(weights[:MOST]):
        x = [1.0, *(dose["factor"] for dose in weight["dose"])]
        y = [1.0, *(min(dose["perplexity_ratio"], LARGEST_RATIO) for dose in weight["dose"])]
        counts = sorted({dose["documents"] for dose in weight["dose"]})
        name = f"{Coordinate.of(weight)}, {weight['verdict']} ({' or '.join(map(str, counts))})"
        axes.plot(x, y, color=COLOURS[nth % 8], marker=MARKERS[nth % 8], mfc="none" if nth > 7 else None, label=name)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.9), max(high, 1.25))
    log_ticks(axes.yaxis, lambda y, _: f"×{y:,g}")
    axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_xaxis()
    axes.set_xlabel("the weight, times")
    axes.set_ylabel("perplexity ÷ perplexity\nof the intact model")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
