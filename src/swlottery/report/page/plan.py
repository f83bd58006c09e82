"""The comparisons of the plan: pairs of arms that differ in one thing, network by network. Rules: docs/study.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table, corrected, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.comparisons import COMPARISONS, COST, DISTANCE, FREE, LOSS, Comparison
from swlottery.report.page.ranks import mean_interval
from swlottery.report.page.rate import differences
from swlottery.report.page.verdict import ALPHA, SMALL, TOO_FEW, YES, by_test
from swlottery.study import statistics

MARGIN = {LOSS: 0.05, COST: 0.05, DISTANCE: math.log(1.25)}
WAYS = {
    LOSS: ("the loss is lower", "the loss is higher"),
    COST: ("it costs less", "it costs more"),
    DISTANCE: ("nearer to pruning", "further from pruning"),
}
"""What a difference below and above zero means."""
WHAT = {
    LOSS: "held-out loss, nat",
    COST: "held-out loss over that under the first mask, nat",
    DISTANCE: "natural log of |w|/threshold, of the network's own weight (of a pruned one: when it was pruned)",
}
ALL, WITH = "all", "with a super weight"
NOT_RUN = "not asked: the arms that it is judged by were not run"
METHOD = (
    "At equal remaining weights, in pairs of networks of one seed. Judged at the fewest weights that both arms reach, "
    "by one pair of arms and one group of networks, chosen as docs/study.md says. p: all changes of sign, from "
    f"{statistics.FEWEST} pairs on; Holm over the questions of the plan. Interval: typical values; of fewer pairs "
    "Student's, and then there is no test and no answer. Left out: pairs in which a run has not finished, or has no "
    "such number."
)


@dataclass
class Compared:
    """What the runs say to one question. rows: by arms and group, where they are judged; masks: under every mask.

    judged: the row that answers, and the networks' differences in it; empty where only other arms were run.
    """

    comparison: Comparison
    rows: list[Row] = field(default_factory=list)
    masks: list[Row] = field(default_factory=list)
    points: list[Row] = field(default_factory=list)
    judged: Row = field(default_factory=dict)
    each: list[float] = field(default_factory=list)
    verdict: str = NOT_RUN


def compared(study: Study) -> list[Compared]:
    """The questions that the runs can say something of, corrected as one family."""
    found = [one for comparison in COMPARISONS if (one := _compare(study, comparison)).rows]
    tested = [one for one in found if one.judged and len(one.each) >= statistics.FEWEST]
    for one in tested:
        one.judged["p"] = statistics.flip_test(one.each)
    corrected([one.judged for one in tested])
    for one in found:
        one.verdict = _verdict(one) if one.judged else NOT_RUN
    return found


def _verdict(one: Compared) -> str:
    if len(one.each) < statistics.FEWEST:
        return TOO_FEW
    outcome = one.comparison.outcome
    is_near = max(map(abs, statistics.typical_values(one.each))) <= MARGIN[outcome]
    found = by_test(one.judged["p (Holm)"], is_near)
    return f"{YES}: {WAYS[outcome][one.judged['difference'] > 0]}{SMALL * is_near}" if found == YES else found


def _compare(study: Study, comparison: Comparison) -> Compared:
    one = Compared(comparison)
    value = partial(OUTCOMES[comparison.outcome], study)
    for order, first, second in _arms(study, comparison):
        runs, both = _pairs(study, first, second)
        arms = {"first arm": first.title, "second arm": second.title, "pairs share": _shared(study, runs)}
        rows: dict[str, Row] = {}
        for mask, there in differences(study, runs, value):
            groups, left = _groups(study, runs, there), {"remaining, %": study.left(there, mask)}
            rows = {group: {**arms, **_row(group, some), **left} for group, some in groups.items()}
            one.masks += rows.values()
        if not rows:
            continue
        one.rows += [row | {"left out": both - len(there), "p": None, "p (Holm)": None} for row in rows.values()]
        names = f"{first.name if first.setup == second.setup else first.title} − {second.title}"
        at = f"{names}: {left['remaining, %']:.1f} %"
        one.points += [{"at": at, "run": run, "follows": study.kind(run), "difference": d} for run, d in there.items()]
        if order == 1 and not one.judged:
            enough = comparison.of_weights and len(groups.get(WITH, ())) >= statistics.FEWEST
            one.judged, one.each = one.rows[-1 if enough else -len(rows)], [*groups[WITH if enough else ALL].values()]
    return one


def _arms(study: Study, comparison: Comparison) -> list[tuple[int, Arm, Arm]]:
    """The pairs of arms that differ as a comparison asks, those first by which it is judged."""
    found: list[tuple[int, Arm, Arm]] = []
    for first in study.arms:
        for second in study.arms:
            a, b = study.settings[first.runs[0]], study.settings[second.runs[0]]
            apart = {key for key in {*a, *b} - FREE if a.get(key) != b.get(key)}
            if apart and apart <= {*comparison.keys.split()} and (order := comparison.order(a, b)):
                found.append((order, first, second))

    def place(pair: tuple[int, Arm, Arm]) -> Any:
        steps = [study.settings[arm.runs[0]]["steps"] for arm in pair[1:]]
        return pair[0], not pair[2].plain, -(pair[2].rate or 0), -steps[0], steps[1]

    return sorted(found, key=place)


def _pairs(study: Study, first: Arm, second: Arm) -> tuple[list[tuple[str, str]], int]:
    """Finished runs of two arms with the same seeds, and how many seeds have a run in both arms."""
    ours, theirs = ({study.seeds(run): run for run in arm.finished} for arm in (first, second))
    both = set(map(study.seeds, first.runs)).intersection(map(study.seeds, second.runs))
    return [(run, theirs[seeds]) for seeds, run in ours.items() if seeds in theirs], len(both)


def _shared(study: Study, runs: Sequence[tuple[str, str]]) -> str:
    """What the runs of each pair have in common beside their seeds."""
    for what, known in (("round 1", study.network), ("θ_0", study.lineage)):
        if all(known[run] and known[run] == known[other] for run, other in runs):
            return what
    return "batches"


def _groups(study: Study, runs: Sequence[tuple[str, str]], there: dict[str, float]) -> dict[str, dict[str, float]]:
    """All differences, and those between networks that both have a super weight, if there are two at least."""
    has = {run for run, other in runs if study.kind(run) == study.kind(other) == "super weight"}
    some = {run: one for run, one in there.items() if run in has}
    return {ALL: there} | ({WITH: some} if len(some) > 1 else {})


def _row(group: str, there: Mapping[str, float]) -> Row:
    each = list(there.values())
    return {
        "networks that count": group,
        "networks": len(each),
        "difference": float(np.mean(each)),
        "95 % interval": mean_interval(each),
        "interval by": "typical values" if len(each) >= statistics.FEWEST else "Student",
        "sd of the difference": float(np.std(each, ddof=1)),
    }


def cost(study: Study, run: str, mask: int) -> float | None:
    """The loss under a mask less that under the first, in nats."""
    now, first = study.loss(run, mask), study.loss(run, 0)
    return None if now is None or first is None else now - first


def distance(study: Study, run: str, mask: int) -> float | None:
    """log(|w|/threshold) of a run's own weight when a mask was made; of one that has fallen, when it fell."""
    prunes = study.kept(run).set_index("round")["over_threshold"]
    seen = prunes[(prunes.index <= mask) & (prunes > 0)]
    return math.log(seen.iloc[-1]) if mask in prunes.index and len(seen) else None


OUTCOMES: dict[str, Callable[[Study, str, int], float | None]] = {
    LOSS: lambda study, run, mask: study.loss(run, mask),
    COST: cost,
    DISTANCE: distance,
}


def answers(found: list[Compared]) -> Iterator[Answer]:
    """One section a question."""
    tests = sum(bool(one.judged) and one.judged["p"] is not None for one in found)
    for one in found:
        comparison, row = one.comparison, one.judged
        name, what = f"plan_{comparison.name}", WHAT[comparison.outcome]
        caption = f"{what}: first arm − second arm at the fewest weights that both reach"
        left = f"left of the dashed line: {WAYS[comparison.outcome][0]} in the first arm"
        label = f"{what}:\nfirst arm − second arm ({left})"
        yield Answer(
            name,
            comparison.question,
            one.verdict,
            number=f"{comparison.outcome} {row['difference']:+.3f} {row['95 % interval']}" if row else "",
            networks=row["networks"] if row else None,
            sentence=_sentence(one, row, tests) if row else "",
            tables=[
                Table(name, caption, one.rows),
                Table(f"{name}_masks", "the same under every mask", one.masks),
                Table(f"{name}_points", "the same in each network", one.points),
            ],
            pictures=[charts.strip(name, one.points, "difference", label, charts.APART, by="at", reference=0)],
            method=f"{METHOD} No: not yes, and the interval lies within {MARGIN[comparison.outcome]:.2g} of zero.",
        )


def _sentence(one: Compared, row: Row, tests: int) -> str:
    p = f"{p_value(row['p (Holm)'])} by Holm" if row["p (Holm)"] is not None else "no test"
    who = "pairs of networks, each with a super weight" if row["networks that count"] == WITH else "pairs of networks"
    leaders = one.comparison.of_weights and row["networks that count"] == ALL
    what = WHAT[one.comparison.outcome]
    return (
        f"With {row['remaining, %']:.1f} % remaining, {row['first arm']} less {row['second arm']} is "
        f"{row['difference']:+.4f} {row['95 % interval']} ({what}; {row['networks']} {who}; {p})."
        + _limit(row, tests)
        + (" Fewer than six pairs have a super weight, so the answer is about leaders too." if leaders else "")
    )


def _limit(row: Row, tests: int) -> str:
    """Where so few pairs could be significant only behind other questions."""
    least = 2 / 2 ** row["networks"]
    if row["p"] is None or least * tests < ALPHA:
        return ""
    return (
        f" {row['networks']} pairs give no p below {least:.2g}: as one of {tests} questions it can be significant only "
        "if others are."
    )
