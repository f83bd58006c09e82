"""Is a network's own weight more than its size? Its rank among its controls after round 2: the primary outcome."""

from __future__ import annotations

import math

from swlottery.report.page import charts, ranks
from swlottery.report.page.answer import Answer, Row, Table
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import Values

BRACKETED = f"at least {ranks.LEAST_BRACKET} controls larger and smaller after round 1"
METHOD = (
    "Null hypothesis: the weight is exchangeable with the 19 weights of its matrix nearest in rank of |θ_T1| (exact; "
    "Holm over the rates; margin: one standard deviation of the controls). The largest weights of a matrix rank above "
    "½ by construction: see the bracketed networks. Controls matched on |θ_0| give no p: a leader is selected for its "
    "trained size, and they are not."
)


def answer(study: Study) -> Answer | None:
    """The mid-rank of |w|/threshold among the controls, at the end of round 2."""
    found = {arm: _values(study, arm) for arm in study.arms}
    tests = {}
    points: list[Row] = []
    for arm, (there, left_out) in found.items():
        if there:
            tests[arm], each = ranks.tested(_logs(there), {"arm": arm.title, "left out": left_out})
            points += each
    if not tests:
        return None
    for arms in study.rates:
        ranks.family([tests[arm] for arm in arms if arm in tests])
    others = [row for arm in tests for row in _against_others(study, arm, found[arm][0])]
    caption = "log(|w|/threshold) after round 2: the tracked weight among its 19 controls"
    label = "rank among the controls after round 2: 0 below all, 1 above all"
    return Answer(
        "size",
        "Is a tracked weight larger after round 2 than weights of its size?",
        **ranks.summary({title: tests[arm] for title, arm in study.rated.items() if arm in tests}, "log|w|"),
        tables=[
            Table("size", caption, [*tests.values()]),
            Table("size_points", "the rank in each network", points),
            Table("size_sensitivity", "the same in bracketed networks alone, and against other controls", others),
        ],
        pictures=[charts.strip("ranks", points, "rank", label, charts.CIRCLES, reference=0.5)],
        method=METHOD,
    )


def _values(study: Study, arm: Arm) -> tuple[Values, int]:
    """|w|/threshold after round 2, and how many networks are left out: pruned in round 1."""
    runs = [run for run in arm.networks if run in study.own]
    found = {run: study.at(run, 2, "over_threshold") for run in runs if study.survived_prune_1(run)}
    there = {run: (mine, controls) for run, (mine, controls) in found.items() if mine and controls}
    return there, len(runs) - len(there)


def _logs(values: Values) -> Values:
    """A control that is masked has no logarithm, and ranks below every other."""
    return {
        run: (math.log(mine), {weight: math.log(value) if value > 0 else -1e3 for weight, value in controls.items()})
        for run, (mine, controls) in values.items()
    }


def _initial(study: Study, run: str) -> dict[str, float]:
    """|w|/threshold after round 2, of the controls matched on |θ_0|."""
    rows = study.rows("initial", run).dropna(subset=["over_threshold"])
    now = rows[(rows["round"] == 2) & (rows["of"] == study.own[run])]
    return dict(zip(now["weight"], now["over_threshold"], strict=True))


def _against_others(study: Study, arm: Arm, there: Values) -> list[Row]:
    """The same test where controls are on both sides, and against the controls matched on |θ_0|."""
    inside = {run: pair for run, pair in there.items() if ranks.is_bracketed(study, run)}
    initial = {run: (mine, near) for run, (mine, _) in there.items() if (near := _initial(study, run))}
    rows: list[Row] = []
    for name, values in ((BRACKETED, inside), ("controls matched on |θ_0|", initial)):
        if values:
            found = ranks.rank_test(_logs(values))
            where = {"arm": arm.title, "only or against": name, "networks": len(values)}
            rows.append({**where, "mean rank": found.mean, "p": found.p if values is inside else None})
    return rows
