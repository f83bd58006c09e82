"""Does a weight see less gradient at the smaller rate?"""

from __future__ import annotations

import math

import numpy as np

from swlottery.report.page import pictures, ranks
from swlottery.report.page.answer import Answer, Row, Table, listed
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import Parts, Values
from swlottery.report.page.rate import log_of, paired, rates
from swlottery.report.page.verdict import NO, TOO_FEW, YES, together

SEEN = {"gradient_percentile": "|gradient|", "moment_percentile": "second moment", "update_percentile": "update"}
METHOD = (
    "Yes needs a smaller gradient and a smaller update: AdamW divides the gradient's scale away. Margin: one standard "
    "deviation of the controls. The arms are compared "
    "in round 2, where the smaller rate leaves more weights. A leader is picked by |w|·x, and x is a factor of its "
    "gradient: its percentile is above its controls' by selection."
)


def answer(study: Study) -> Answer | None:
    """Gradient and update of the tracked weight in round 2, against its controls: by arm, and between the rates."""
    rows, points = ranks.joined(_percentiles(study))
    if not rows:
        return None
    tests: dict[str, Row] = {}
    ranked: list[Row] = []
    verdicts = {}
    for coarse, fine in rates(study):
        names = f"{fine.title} over {coarse.title}"
        parts = [_sizes(study, coarse, fine, column) for column in ("gradient", "update")]
        own, each = ranks.joined(filter(None, parts))
        ranks.family(own)
        tests |= {f"{row['of']}, {names}": row for row in own}
        ranked += each
        if len(own) == 2:
            verdicts[names] = _verdict(own)
    ordinary = [f"{math.exp(row['controls, log ratio']):.2f}" for row in tests.values()]
    then = f"; in round 2, the ratios of the controls are {listed(ordinary)}"
    between = ("log|gradient| of the tracked weight", "gradient_differences", "gradient_difference_points")
    return Answer(
        "gradient",
        "Does a tracked weight see less gradient at the smaller rate?",
        **ranks.summary(tests, "log ratio", then=then) | {"verdict": together(verdicts)},
        tables=[
            Table("gradient", "percentiles within its matrix: means over round 2 and over networks", rows),
            Table("gradient_points", "the same in each network", points),
            Table("gradient_contrast", "log ratio, second arm over first, in round 2", [*tests.values()]),
            Table("gradient_contrast_points", "its rank among its controls in each network", ranked),
            *paired(study, log_of(study, "gradient"), *between),
        ],
        pictures=[pictures.percentiles(rows, points)],
        method=METHOD,
    )


def _percentiles(study: Study) -> Parts:
    """Within the matrix, in round 2: means over networks, and each network."""
    for arm in study.arms:
        for column, name in SEEN.items():
            seen = {run: study.at(run, 2, column) for run in arm.networks}
            there = {run: (mine, others) for run, (mine, others) in seen.items() if mine is not None and others}
            if not there:
                continue
            own = [mine for mine, _ in there.values()]
            controls = [float(np.mean(list(others.values()))) for _, others in there.values()]
            where = {"arm": arm.title, "of": name}
            points = [
                {**where, "run": run, "followed, percentile": mine, "controls, mean percentile": theirs}
                for run, mine, theirs in zip(there, own, controls, strict=True)
            ]
            row = {
                **where,
                "networks": len(there),
                "followed, mean percentile": float(np.mean(own)),
                "controls, mean percentile": float(np.mean(controls)),
                "mean rank among controls": ranks.rank_test(there).mean,
            }
            yield row, points


def _sizes(study: Study, coarse: Arm, fine: Arm, column: str) -> tuple[Row, list[Row]] | None:
    """log ratios between the rates, in round 2: a test against the controls, and the rank in each network."""
    there: Values = {}
    for run, other in study.pairs(coarse, fine):
        ratio = ranks.log_ratio(study.at(other, 2, column), study.at(run, 2, column))
        if ratio and ratio[1]:
            there[run] = ratio
    if not there:
        return None
    mine = [one for one, _ in there.values()]
    theirs = [float(np.mean(list(others.values()))) for _, others in there.values()]
    where = {"first arm": coarse.title, "second arm": fine.title, "of": f"|{column}|"}
    row, points = ranks.tested(there, where)
    own = {"log ratio": float(np.mean(mine)), "factor": ranks.factor(mine)}
    controls = {"controls, log ratio": float(np.mean(theirs)), "controls, factor": ranks.factor(theirs)}
    return row | own | controls, points


def _verdict(tests: list[Row]) -> str:
    """yes: both are smaller; no: one of them is not."""
    found = [(ranks.verdict(row), row["shift"] < 0) for row in tests]
    if any(one == YES and not is_smaller for one, is_smaller in found):
        return f"{NO}: more"
    if all(one == YES for one, _ in found):
        return YES
    return NO if any(one == NO for one, _ in found) else TOO_FEW
