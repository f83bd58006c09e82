"""What does pruning cost?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import NOTHING, Answer, Row, Table, by_arm, counted, listed, within
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.comparisons import LOSS
from swlottery.report.page.plan import MARGIN, cost
from swlottery.report.page.ranks import Parts, joined, spread, typical
from swlottery.report.page.rate import paired
from swlottery.report.page.verdict import NO, YES, by_interval, together
from swlottery.study.statistics import typical_values

CHANGE = "held-out loss under the last mask less that under the first, nat: means over networks"
METHOD = (
    "Every round trains again from where it rewinds to. Where the loss still falls with every step, fewer weights can "
    "mean a lower loss, and say little of a network trained to the end. Change: the loss under the last mask less that "
    f"under the first, network by network, with the interval of typical values; margin {MARGIN[LOSS]} nat."
)


def answer(study: Study) -> Answer | None:
    """Perplexity against remaining weights."""
    rows, points = joined(part for arm in study.arms for part in _by_mask(study, arm))
    if not rows:
        return None
    rated = [[row for row in rows if row["arm"] == arm] for arm in study.rated]
    ends = {own[0]["arm"]: (own[0], own[-1]) for own in rated if len(own) > 1}
    names = ("perplexity_differences", "perplexity_points")
    differences, each = paired(study, study.loss, "held-out loss, nat", *names)
    label, apart = "validation perplexity, log scale", "held-out loss, first arm − second arm, nat"
    line = "The line is the median over runs, a dot one run."
    caption = "validation perplexity of the network trained under each mask: median over runs, and range"
    changes = {arm: _changes(study, study.rated[arm]) for arm in ends}
    return Answer(
        "perplexity",
        "What does pruning cost?",
        together({arm: _verdict(change) for arm, change in changes.items()}),
        number=by_arm({arm: _number(*both, changes[arm]) for arm, both in ends.items()}),
        networks=counted(len(study.rated[arm].networks) for arm in ends),
        sentence=_sentence(ends, differences.rows) if ends else "",
        tables=[Table("perplexity", caption, rows), Table("loss_changes", CHANGE, _rows(changes)), differences, each],
        pictures=[
            charts.lines("cost", rows, points, "perplexity", label, line, log=True),
            charts.strip("cost_differences", each.rows, "difference", apart, charts.APART, by="at", reference=0),
        ],
        method=METHOD,
    )


def _by_mask(study: Study, arm: Arm) -> Parts:
    for mask, now in study.rows("rounds", *arm.runs).dropna(subset=["val_perplexity"]).groupby("round"):
        left = 100 * float(now["remaining_fraction"].mean())
        where = {"arm": arm.title, "mask": int(str(mask)), "remaining, %": left}
        yield spread(where, "perplexity", now["val_perplexity"], "median", "runs")


def _changes(study: Study, arm: Arm) -> list[float]:
    """Of each finished network the loss under its last mask less that under the first, in nats."""
    found = [cost(study, run, max(study.remaining(run))) for run in arm.finished]
    return [change for change in found if change is not None]


def _rows(changes: dict[str, list[float]]) -> list[Row]:
    return [
        {"arm": arm, "networks": len(each), "change": float(np.mean(each)), "95 % interval": typical(each)}
        for arm, each in changes.items()
        if each
    ]


def _verdict(changes: list[float]) -> str:
    found = by_interval(*typical_values(changes), 0.0, MARGIN[LOSS])
    if found == NO:
        return f"nothing: the loss changes by less than {MARGIN[LOSS]} nat"
    return found.replace(YES, f"the loss {'rises' if np.mean(changes) > 0 else 'falls'}")


def _number(first: Row, last: Row, changes: list[float]) -> str:
    change = f"{np.mean(changes):+.3f}{within(typical(changes))}" if changes else NOTHING
    return f"perplexity {first['perplexity']:.4g} to {last['perplexity']:.4g}, loss {change} nat"


def _sentence(ends: dict[str, tuple[Row, Row]], differences: Sequence[Row]) -> str:
    parts = [
        f"from {first['perplexity']:.4g} to {last['perplexity']:.4g} at {arm} ({last['remaining, %']:.1f} % remaining)"
        for arm, (first, last) in ends.items()
    ]
    text = f"Median validation perplexity goes {listed(parts)}"
    for row in differences[-1:]:
        text += f"; with {row['remaining, %']:.1f} % remaining, the loss at {row['first arm']} "
        text += f"minus that at {row['second arm']} is {row['difference']:+.4f}{within(row['95 % interval'])} nat"
    return f"{text}."
