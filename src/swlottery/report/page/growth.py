"""b. Do survivors grow as others go?"""

from __future__ import annotations

import math

import numpy as np

from swlottery.report import words
from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, interval, listed, within
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import factor
from swlottery.report.page.rate import in_words, paired
from swlottery.study import statistics as inference


def section(study: Study) -> Section | None:
    """Do survivors grow as others go? |w| at the end of each round over |w| after round 1, of followed weights and controls."""
    rows: list[Row] = []
    points: list[Row] = []
    against: list[Row] = []
    answer, short = [], []
    for arm in study.arms:
        own = [(_grown_row(study, arm, *one), one[1]) for one in sorted(_grown(study, arm).items())]
        rows += [row for row, _ in own]
        points += [
            {"arm": row["arm"], "remaining, %": row["remaining, %"], "followed, times": math.exp(mine)}
            for row, there in own
            for mine, _ in there.values()
        ]
        against += _against_random(study, arm)
        if arm in study.rated and own:
            answer.append(_grown_sentence(study, arm, own, against))
            last, _ = own[-1]
            way = (
                KEEPS
                if _way(last) == KEEPS
                else f"{_way(last)}, to {last['followed, times']:.2f} times its size after round 1,"
            )
            short.append(f"{way} at {study.title(arm)} ({last['remaining, %']:.1f} % remaining)")
    if not rows:
        return None
    differences, each = paired(study, lambda run, mask: _log_size(study, run, mask + 1))
    if differences:
        answer.append(
            f"At equal remaining weights its log|w| at the larger rate − that at the smaller is {in_words(differences, 3)}."
        )
    tables = [
        Table("sizes", "|w| at the end of a round over |w| at the end of round 1: geometric means over networks, of weights that are kept; controls are watched so closely in round 2 alone", rows),
        Table("sizes_against_random", "log|w| at the end of a round − the same under random pruning of as many weights, in networks that kept the weight under both, and the interval of typical values", against),
        Table("size_differences", "log|w| of the followed weight, first arm − second arm at equal remaining weights, and the interval of typical values", differences),
        Table("size_difference_points", "the same in each network", each),
    ]  # fmt: skip
    caption = "The line is the geometric mean, a dot one network. The network of each round was trained under the mask that leaves so much."
    picture = charts.lines("sizes", rows, points, "followed, times", "|w| over |w| after round 1", caption)
    remark = (
        "If survivors grew because others go, followed weights and controls would grow alike, at either rate, as others go. Both were picked for their size after round 1, and fall back in any later training for that "
        "alone; random pruning of as many weights is training with that and without the choice by size. That the quartiles of what remains rise from round to round (boxplots) only says that the small weights are gone."
    )
    brief = f"A followed weight that is kept {listed(short)}." if short else ""
    return Section.of("growth", "Do survivors grow?", answer, tables, [picture], remark, short=brief)


KEEPS = "keeps its size"
SAME = 0.01
"""A change of log|w| that is none."""
Grown = dict[str, tuple[float, list[float]]]
"""Of each network (its run) log(|w| after a round / |w| after round 1) of the followed weight, and of its controls, while they are kept."""


def _grown(study: Study, arm: Arm) -> dict[int, Grown]:
    """By round."""
    found: dict[int, Grown] = {}
    for run in study.units(arm).values():
        first, controls_first = study.at(run, 1, "value")
        for round_ in range(2, len(study.remaining(run)) + 1):
            now, controls = study.at(run, round_, "value")
            if first and now:
                both = [(controls_first[w], value) for w, value in controls.items() if value and controls_first.get(w)]
                others = [math.log(abs(after / before)) for before, after in both]
                found.setdefault(round_, {})[run] = (math.log(abs(now / first)), others)
    return found


def _grown_row(study: Study, arm: Arm, round_: int, there: Grown) -> Row:
    followed = np.array([mine for mine, _ in there.values()])
    controls = [float(np.mean(others)) for _, others in there.values() if others]
    return {"arm": study.title(arm), "round": round_, "remaining, %": study.left(there, round_ - 1), "networks": len(there), "followed, times": math.exp(followed.mean()),
            "least": math.exp(followed.min()), "most": math.exp(followed.max()), "controls, times": math.exp(np.mean(controls)) if controls else None}  # fmt: skip


def _way(row: Row) -> str:
    """What becomes of it in all networks."""
    least, most = row["least"], row["most"]
    if max(abs(math.log(least)), abs(math.log(most))) < SAME:
        return KEEPS
    return "grows" if least > 1 else "shrinks" if most < 1 else "grows in some networks and not in others"


def _grown_sentence(study: Study, arm: Arm, own: list[tuple[Row, Grown]], against: list[Row]) -> str:
    (second, at_second), (last, at_last) = own[0], own[-1]
    text = (f"At {study.title(arm)}, a followed weight that is kept {_way(last)}: at {last['remaining, %']:.1f} % remaining it is {last['followed, times']:.2f} times its size after round 1 "
            f"({last['least']:.2f} to {last['most']:.2f}, {words.count(last['networks'], 'network')})")  # fmt: skip
    if second["controls, times"] is not None:
        text += f"; at {second['remaining, %']:.1f} % {second['followed, times']:.2f} times, and its controls {second['controls, times']:.2f} times"
    both = [at_last[run][0] - at_second[run][0] for run in at_last if run in at_second]
    if len(own) > 1 and len(both) > 1:
        text += f"; from there to the end {math.exp(np.mean(both)):.2f} times{within(factor(both))}"
    compared = [row for row in against if row["arm"] == study.title(arm)]
    if compared:
        row = compared[-1]
        text += f"; at {row['remaining, %']:.1f} % it is {math.exp(row['difference']):.2f} times as large as after random pruning of as many ({words.count(row['networks'], 'network')} that kept it there)"
    return text + "."


def _against_random(study: Study, arm: Arm) -> list[Row]:
    """An arm by global magnitude against the one of its set-up and rate that prunes at random."""
    if not arm.plain:
        return []
    rows: list[Row] = []
    for other in study.setups[arm.setup]:
        if other.rate == arm.rate and other.name.endswith(", random") and other.name.count(", ") == 1:
            pairs = study.pairs(arm, other)
            for round_ in range(2, 1 + max((len(study.remaining(run)) for run, _ in pairs), default=0)):
                sizes = {run: (_log_size(study, run, round_), _log_size(study, twin, round_)) for run, twin in pairs}
                each = {
                    run: mine - theirs
                    for run, (mine, theirs) in sizes.items()
                    if mine is not None and theirs is not None
                }
                if len(each) > 1:
                    rows.append({"arm": study.title(arm), "round": round_, "remaining, %": study.left(each, round_ - 1), "networks": len(each),
                                 "difference": float(np.mean(list(each.values()))), "95 % interval": interval(*inference.typical_values(list(each.values())))})  # fmt: skip
    return rows


def _log_size(study: Study, run: str, round_: int) -> float | None:
    value, _ = study.at(run, round_, "value")
    return math.log(abs(value)) if value else None
