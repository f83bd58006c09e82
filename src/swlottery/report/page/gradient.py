"""d. Does the followed weight see less gradient at the smaller rate?"""

from __future__ import annotations

import math

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, listed, within
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import Values, factor, family, powered, rank_test, tested
from swlottery.report.page.rate import in_words, paired, rates

SEEN = {"gradient_percentile": "|gradient|", "moment_percentile": "second moment", "update_percentile": "update"}


def section(study: Study) -> Section | None:
    """Does the weight see less gradient at the smaller rate?"""
    rows: list[Row] = []
    points: list[Row] = []
    for arm in study.arms:
        for column, name in SEEN.items():
            seen = {run: study.at(run, 2, column) for run in study.units(arm).values() if study.own(run)}
            there = {run: (mine, others) for run, (mine, others) in seen.items() if mine is not None and others}
            if there:
                each = [{"arm": study.title(arm), "of": name, "run": run, "followed, percentile": mine, "controls, mean percentile": float(np.mean(list(others.values())))}
                        for run, (mine, others) in there.items()]  # fmt: skip
                points += each
                rows.append({"arm": study.title(arm), "of": name, "networks": len(there), "followed, mean percentile": float(np.mean([one["followed, percentile"] for one in each])),
                             "controls, mean percentile": float(np.mean([one["controls, mean percentile"] for one in each])), "mean rank among controls": rank_test(there).mean})  # fmt: skip
    if not rows:
        return None
    contrasts: list[Row] = []
    contrast_points: list[Row] = []
    answer, short = [], []
    for coarse, fine in rates(study):
        tests = [found for column in ("gradient", "update") if (found := _sizes(study, coarse, fine, column))]
        own = [row for row, _ in tests]
        family(own)
        contrasts += own
        contrast_points += [point for _, each in tests for point in each]
        if len(own) == 2 and own[0]["networks"] > 1:
            answer += _seen_sentences(study, coarse, fine, own)
            short.append(_in_short(study, coarse, fine, own))
    alone, each = paired(study, lambda run, mask: _log_gradient(study, run, mask + 1))
    if alone:
        answer.append(
            f"At equal remaining weights, log|gradient| of the followed weight at the larger rate − that at the smaller is {in_words(alone, 2)}."
        )
    tables = [
        Table("gradient", "percentiles within its matrix, averaged over the evaluations of round 2 and over networks: the followed weight and its controls", rows),
        Table("gradient_points", "the same in each network", points),
        Table("gradient_contrast", "log of the absolute size in the second arm over that in the first, round 2: of the followed weight, of its controls, and how far the one stands from the others", contrasts),
        Table("gradient_contrast_points", "its rank among its controls in each network", contrast_points),
        Table("gradient_differences", "log|gradient| of the followed weight, first arm − second arm at equal remaining weights, and the interval of typical values", alone),
        Table("gradient_difference_points", "the same in each network", each),
    ]  # fmt: skip
    remark = (
        "Round 2 is the first that is trained after a prune: the arms are compared there at equal rounds, where the smaller rate leaves more. AdamW divides the gradient's scale away: a weight that sees less gradient need not move less, "
        "so the update is the honest one. Percentiles cannot show that everything became smaller; the log ratios can. A leader is picked by |w|·x, and x is a factor of its gradient: that it sees more gradient than its controls is by selection."
    )
    pictures = [charts.percentiles(rows, points)]
    return Section.of("gradient", "Does it see less gradient?", answer, tables, pictures, remark, short=" ".join(short))


def _seen_sentences(study: Study, coarse: Arm, fine: Arm, own: list[Row]) -> list[str]:
    """What happens to weights of this size, and whether the followed one differs from them."""
    pairs = study.pairs(coarse, fine)
    left = [study.left([pair[n] for pair in pairs], 1) for n in (0, 1)]
    ordinary, followed = (
        " and ".join(f"{math.exp(row[log]):.2f} times the {row['of']}{within(row[ends])}" for row in own)
        for log, ends in (("controls, log ratio", "controls, factor"), ("log ratio", "factor"))
    )
    ways = _ways(own)
    told = listed(ways) if ways else f"no difference was found; {powered(own)}"
    stands = all(row["p (Holm)"] < 0.05 and row["shift"] < 0 for row in own)
    guess = "as the guess has it" if stands else "the guess needs both to be smaller, and is not shown"
    return [
        f"In round 2, {study.title(fine)} (trained at {left[1]:.0f} % remaining) against {study.title(coarse)} (at {left[0]:.0f} %): ordinary weights as large as the followed one have {ordinary}, the followed weight {followed}.",
        f"Of the followed weight against these controls, at {study.title(fine)}, {told}; {guess}.",
    ]


def _in_short(study: Study, coarse: Arm, fine: Arm, own: list[Row]) -> str:
    gradient, update = (math.exp(row["controls, log ratio"]) for row in own)
    ways = _ways(own)
    then = (
        f"against them, {listed(ways)} for the followed weight" if ways else "the followed weight is not told from them"
    )
    return f"At {study.title(fine)} ordinary weights of its size have {gradient:.2f} times the gradient that they have at {study.title(coarse)}, and move {update:.2f} times as far (round 2); {then}."  # fmt: skip


def _ways(own: list[Row]) -> list[str]:
    """How the followed weight differs from its controls, where it is shown to."""
    return [
        f"its {row['of']} is {'smaller' if row['shift'] < 0 else 'larger'}" for row in own if row["p (Holm)"] < 0.05
    ]


def _sizes(study: Study, coarse: Arm, fine: Arm, column: str) -> tuple[Row, list[Row]] | None:
    there: Values = {}
    for run, other in study.pairs(coarse, fine):
        (a, controls_a), (b, controls_b) = study.at(run, 2, column), study.at(other, 2, column)
        common = [w for w in controls_a if controls_b.get(w) and controls_a[w]]
        if a and b and common:
            there[run] = (math.log(b / a), {w: math.log(controls_b[w] / controls_a[w]) for w in common})
    if not there:
        return None
    mine = [one for one, _ in there.values()]
    theirs = [float(np.mean(list(others.values()))) for _, others in there.values()]
    where = {"first arm": study.title(coarse), "second arm": study.title(fine), "of": f"|{column}|"}
    row, points = tested(there, where)
    more = {"log ratio": float(np.mean(mine)), "factor": factor(mine), "controls, log ratio": float(np.mean(theirs)), "controls, factor": factor(theirs)}  # fmt: skip
    return row | more, points


def _log_gradient(study: Study, run: str, round_: int) -> float | None:
    value, _ = study.at(run, round_, "gradient")
    return math.log(value) if value else None
