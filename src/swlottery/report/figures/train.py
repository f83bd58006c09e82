"""The figures of ``swlottery train``, drawn from the files of a run folder and nothing else.

``round_<r>.png``: the weights of each tracked weight's matrix, before and after the training of round r.
``magnitude.png``: |w| of each tracked weight against the threshold and its controls, over all rounds.
``perplexity.png``: what remains, and what it costs (as figure 1 of Frankle & Carbin 2019, arXiv:1803.03635).
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swlottery.report.figures.magnitude import magnitude
from swlottery.report.figures.rounds import round_boxes
from swlottery.report.figures.style import BLUE, GREY, log_ticks, look, nothing, page, save
from swlottery.report.run_files import Run, read_run
from swlottery.report.words import perplexity

MOST_NAMED = 8
"""Up to so many masks, each point has its number on the axis and the mask's name."""


def draw_round(run: Path, plots: Path, round: int) -> Path:
    """Write ``round_<round>.png`` into ``plots`` (made where missing); returns its path."""
    with look():
        return save(round_boxes(read_run(run), round), plots / f"round_{round}.png")


def draw_run(run: Path, plots: Path) -> list[Path]:
    """Write ``magnitude.png`` and ``perplexity.png`` of a run, finished or not; returns their paths."""
    read = read_run(run)
    with look():
        return [save(magnitude(read), plots / "magnitude.png"), save(perplexities(read), plots / "perplexity.png")]


def perplexities(run: Run) -> Figure:
    """Validation perplexity of the network trained under each mask, against the weights that the mask leaves."""
    what = "What remains, and the perplexity of the network trained under it"
    first = "mask 0" if run.settings.get("prune_at_start") else "mask 0, before the first prune"
    figure = page(what, run.title, 3.4, [run.remark, f"Dashed: the perplexity under {first}."])
    rows = [row for row in run.rounds if row["val_perplexity"]]
    if not rows:
        return nothing(figure, "No round has been trained to its end yet.")
    axes = figure.subplots()
    x = [100 * float(row["remaining_fraction"]) for row in rows]
    y = [float(row["val_perplexity"]) for row in rows]
    axes.axhline(y[0], color=GREY, lw=1, ls="--")
    axes.plot(x, y, color=BLUE, marker="o", lw=1.6)
    few = len(x) <= MOST_NAMED
    for i, (left, cost) in enumerate(zip(x, y, strict=True)):
        beside = y[max(i - 1, 0) : i] + y[i + 1 : i + 2]
        above = not beside or cost >= sum(beside) / len(beside)  # on the side of the point where the line does not run
        axes.annotate(
            perplexity(cost) + (f"\nmask {rows[i]['round']}" if few else ""),
            (left, cost),
            (0, 7 if above else -7),
            textcoords="offset points",
            va="bottom" if above else "top",
            ha="center",
            fontsize=8,
            bbox={"fc": "white", "ec": "none", "pad": 0.4},
            zorder=3,
        )
    _scales(axes, differ=max(y) > 5 * min(y))
    if few:
        axes.set_xticks(x, [f"{left:.4g}" for left in x])
    axes.set_xlabel("weights remaining (% of those in scope, log scale; dense at the left, sparser to the right)")
    axes.set_ylabel("perplexity on validation text" + ", log scale" * (axes.get_yscale() == "log"))
    return figure


def _scales(axes: Axes, differ: bool) -> None:
    """The most weights at the left; a log scale for perplexities that differ much; room for the numbers."""
    axes.margins(0.07, 0.25)
    axes.set_xscale("log")
    axes.invert_xaxis()
    log_ticks(axes.xaxis, "{x:g}")
    if differ:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, "{x:,g}")
    else:
        axes.yaxis.set_major_formatter("{x:,g}")
