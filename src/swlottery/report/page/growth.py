"""Do survivors grow as others go?"""

from __future__ import annotations

import math

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table, by_arm, counted, listed, within
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import Values, factor, log_ratio, mean_of
from swlottery.report.page.rate import differences, log_of, paired
from swlottery.report.page.verdict import YES, by_interval, together
from swlottery.study import statistics as inference

SAME = 0.01
"""A change of log|w| that is none."""
METHOD = (
    "No change: the interval lies within 1 % of it. Tracked weights and controls are picked for their size after round "
    "1, and shrink in any later training for that alone. Random pruning of as many weights is without that choice."
)


def answer(study: Study) -> Answer | None:
    """|w| at the end of each round over |w| after round 1, of tracked weights and controls."""
    grown = {arm: own for arm in study.arms if (own := _by_round(study, arm))}
    if not grown:
        return None
    rows = [row for own in grown.values() for row, _ in own]
    points = [
        {"arm": row["arm"], "remaining, %": row["remaining, %"], "followed, times": math.exp(mine)}
        for own in grown.values()
        for row, there in own
        for mine, _ in there.values()
    ]
    against = [row for arm in study.arms for row in _against_random(study, arm)]
    between = ("log|w| of the tracked weight", "size_differences", "size_difference_points")
    rated = {title: grown[arm] for title, arm in study.rated.items() if arm in grown}
    caption = "Lines: geometric means over the n networks that still have it (numbers: where n changes); dots: each."
    label = "|w| over |w| after round 1, log scale"
    parts = [_part(own, [row for row in against if row["arm"] == arm]) for arm, own in rated.items()]
    return Answer(
        "growth",
        "Do survivors grow?",
        together({arm: _verdict(own[-1][1]) for arm, own in rated.items()}),
        number=by_arm({arm: _times(*own[-1]) for arm, own in rated.items()}),
        networks=counted(own[-1][0]["networks"] for own in rated.values()),
        sentence=f"A tracked weight that is kept ends at {listed(parts)}." if parts else "",
        tables=[
            Table("sizes", "|w| over |w| after round 1, of weights that are kept: geometric means over networks", rows),
            Table("sizes_against_random", "log|w| − that under random pruning of as many, where both keep it", against),
            *paired(study, log_of(study, "value"), *between),
        ],
        pictures=[charts.lines("sizes", rows, points, "followed, times", label, caption, log=True, number="networks")],
        method=METHOD,
    )


def _by_round(study: Study, arm: Arm) -> list[tuple[Row, Values]]:
    """From round 2 on: the row of a table, and log(|w| after that round / |w| after round 1) of each network."""
    found: dict[int, Values] = {}
    for run in arm.networks:
        for round_ in range(2, len(study.remaining(run)) + 1):
            if ratio := log_ratio(study.at(run, round_, "value"), study.at(run, 1, "value")):
                found.setdefault(round_, {})[run] = ratio
    return [(_row(study, arm, round_, there), there) for round_, there in sorted(found.items())]


def _row(study: Study, arm: Arm, round_: int, there: Values) -> Row:
    followed = np.array([mine for mine, _ in there.values()])
    controls = [float(np.mean(list(others.values()))) for _, others in there.values() if others]
    return {
        "arm": arm.title,
        "round": round_,
        "remaining, %": study.left(there, round_ - 1),
        "networks": len(there),
        "followed, times": math.exp(followed.mean()),
        "least": math.exp(followed.min()),
        "most": math.exp(followed.max()),
        "controls, times": math.exp(np.mean(controls)) if controls else None,
    }


def _verdict(there: Values) -> str:
    low, high = inference.typical_values([mine for mine, _ in there.values()])
    if max(-low, high) < SAME:
        return "they keep their size"
    found = by_interval(low, high, 0.0)
    return {YES: "they grow" if low > 0 else "they shrink"}.get(found, found)


def _times(row: Row, there: Values) -> str:
    return f"{row['followed, times']:#.3g} times{within(factor([mine for mine, _ in there.values()]))}"


def _part(own: list[tuple[Row, Values]], against: list[Row]) -> str:
    """Of one arm: the size at the end over that after round 1, that after round 2, and that under random pruning."""
    (second, at_second), (last, at_last) = own[0], own[-1]
    text = f"{_times(last, at_last)} its size after round 1 at {last['arm']} ({last['remaining, %']:.1f} % remaining"
    since = [at_last[run][0] - at_second[run][0] for run in at_last if run in at_second]
    if last is not second and since:
        text += f"; {math.exp(np.mean(since)):#.3g} times{within(factor(since))} its size after round 2"
    for row in against[-1:]:
        text += f"; {math.exp(row['difference']):#.3g} times that after random pruning to {row['remaining, %']:.1f} %"
    return text + ")"


def _against_random(study: Study, arm: Arm) -> list[Row]:
    """An arm by global magnitude against the one of its set-up and rate that prunes at random."""
    rows: list[Row] = []
    for other in study.arms if arm.plain else ():
        same = (other.setup, other.rate) == (arm.setup, arm.rate)
        if same and other.name.endswith(", random") and other.name.count(", ") == 1:
            for mask, there in differences(study, study.pairs(arm, other), log_of(study, "value")):
                where = {"arm": arm.title, "round": mask + 1, "remaining, %": study.left(there, mask)}
                rows.append(where | mean_of(there))
    return rows
