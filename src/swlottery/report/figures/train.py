"""The figures of ``swlottery train``, drawn from the files of a run folder and nothing else.

``round_<r>.png``: the weights of each followed weight's matrix, before and after the training of round r.
``magnitude.png``: |w| of each followed weight against the threshold and its controls, over all rounds.
``perplexity.png``: what remains, and what it costs (as figure 1 of Frankle & Carbin 2019, arXiv:1803.03635).
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from swlottery.report.figures.magnitude import magnitude
from swlottery.report.figures.rounds import round_boxes
from swlottery.report.figures.style import BLUE, GREY, log_ticks, look, nothing, page, save
from swlottery.report.run_files import Run, read_run, read_settings
from swlottery.report.words import perplexity


def draw_round(run: Path, plots: Path, round: int) -> Path:
    """Write ``round_<round>.png`` into ``plots`` (made where missing); returns its path."""
    by_layer = read_settings(run).get("criterion") == "layer-magnitude"  # thresholds are then in watch.csv alone
    with look():
        return save(round_boxes(read_run(run, watch=by_layer), round), plots / f"round_{round}.png")


def draw_run(run: Path, plots: Path) -> list[Path]:
    """Write ``magnitude.png`` and ``perplexity.png`` of a run, finished or not; returns their paths."""
    read = read_run(run)
    with look():
        return [
            save(magnitude(read), plots / "magnitude.png"),
            save(perplexities(read), plots / "perplexity.png"),
        ]


def perplexities(run: Run) -> Figure:
    """Validation perplexity of the network trained under each mask, against the weights that the mask leaves."""
    what = "What remains, and the perplexity of the network trained under it"
    figure = page(run.title, what, 3.4, [run.remark, "Dashed: the perplexity under mask 0."])
    rows = [row for row in run.rounds if row["val_perplexity"]]
    if not rows:
        nothing(figure, "No round has been trained to its end yet.")
        return figure
    axes = figure.subplots()
    x = [100 * float(row["remaining_fraction"]) for row in rows]
    y = [float(row["val_perplexity"]) for row in rows]
    axes.axhline(y[0], color=GREY, lw=0.9, ls="--")
    axes.plot(x, y, color=BLUE, marker="o", ms=5, lw=1.4)
    for row, left, cost in zip(rows, x, y, strict=True):
        axes.annotate(
            perplexity(cost) + f"\nmask {row['round']}" * (len(x) <= 8), (left, cost), (0, 8), textcoords="offset points", ha="center",
            fontsize=8 if len(x) <= 8 else 7, bbox={"fc": "white", "ec": "none", "pad": 0.6}, zorder=3,
        )  # fmt: skip
    span = max(y) - min(y) or 0.1 * max(y)
    axes.set_ylim(max(min(y) - 0.1 * span, 0), max(y) + 0.25 * span)
    axes.set_xscale("log")
    low, high = min(x), max(x)
    room = max((high / low) ** 0.06, 1.03)
    axes.set_xlim(high * room, low / room)
    if len(x) <= 8:
        axes.set_xticks(x, [f"{left:.4g}" for left in x])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        log_ticks(axes.xaxis, axes.get_xlim(), lambda left: f"{left:g}")
    if max(y) > 8 * min(y):
        axes.set_yscale("log")
        axes.set_ylim(min(y) / 1.2, max(y) * (max(y) / min(y)) ** 0.2)
        log_ticks(axes.yaxis, axes.get_ylim(), lambda cost: f"{cost:,g}")
    axes.grid(axis="y")
    axes.set_xlabel("weights remaining (% of those in scope, log scale; dense at the left, sparser to the right)")
    axes.set_ylabel("perplexity on validation text" + ", log scale" * (axes.get_yscale() == "log"))
    return figure
