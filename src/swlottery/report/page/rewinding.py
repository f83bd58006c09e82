"""Does it matter where the weights go back to?"""

from __future__ import annotations

from swlottery.report.page import charts, ranks
from swlottery.report.page.answer import Answer, Row, Table
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.rate import log_ratios

METHOD = (
    "q is the fraction of all weights that remain when pruning reaches this one. Holm over the arms of a set-up. "
    "Without rewinding a network has trained r·T steps after round r, so its perplexity is not compared."
)


def answer(study: Study) -> Answer | None:
    """The distance of the tracked weight to pruning after round 2, against the plain arm of the same rate."""
    families = zip(study.setups, study.rates, strict=True)
    rows, points = ranks.joined(_tests(study, arms, plains) for arms, plains in families)
    if not rows:
        return None
    label = "rank of d among the controls' d, after round 2"
    return Answer(
        "rewinding",
        "Does rewinding matter?",
        **ranks.summary(
            {row["arm"]: row for row in rows},
            "d",
            " of d",
            "; above 0, the arm brings it nearer to pruning than the plain arm",
        ),
        tables=[
            Table(
                "rewinding",
                "d = log q(arm) − log q(plain arm), after round 2: above 0, the arm brings it nearer to pruning",
                rows,
            ),
            Table("rewinding_points", "the rank of d in each network", points),
        ],
        pictures=[charts.strip("rewound", points, "rank of d", label, charts.CIRCLES, reference=0.5)],
        method=METHOD,
    )


def _tests(study: Study, arms: list[Arm], plains: list[Arm]) -> tuple[list[Row], list[Row]]:
    """The arms of a set-up that differ from a plain one in the rewinding alone: one family, and the ranks."""
    plain = {arm.rate: arm for arm in plains}
    rows: list[Row] = []
    points: list[Row] = []
    for arm in arms:
        base, (_, *changes) = plain.get(arm.rate), arm.name.split(", ")
        if base is None or len(changes) != 1 or not changes[0].startswith("rewind"):
            continue
        there = log_ratios(study, study.pairs(arm, base), 2, 2)
        if there:
            row, each = ranks.tested(there, {"arm": arm.title, "against": base.title}, " of d")
            rows.append(row)
            points += each
    ranks.family(rows)
    return rows, points
