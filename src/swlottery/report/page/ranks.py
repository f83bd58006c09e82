"""Followed weights among the controls of their networks: one row of a table for each test, with its power."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from swlottery.report.page.answer import Row, corrected, interval
from swlottery.report.page.arms import Study
from swlottery.study import statistics as inference

LEAST_BRACKET = 5
"""Controls that have to stand on either side of a weight, in |θ_T1|, for it to count as bracketed."""
Values = dict[str, tuple[float, dict[str, float]]]
"""Of each network (its run) the followed weight's value, and those of its controls."""
SD, POWER = "sd of the controls", "power at 1 sd, %"


def rank_test(values: Values) -> inference.Ranked:
    """`inference.rank_test` of networks by run."""
    return inference.rank_test(
        [mine for mine, _ in values.values()], [list(controls.values()) for _, controls in values.values()]
    )


def tested(values: Values, where: Row, of: str = "") -> tuple[Row, list[Row]]:
    """A test as the row of a table, and the rank in each network. where: its first columns; of: what is ranked (`` of d``)."""
    found = rank_test(values)
    spread = [float(np.var(list(controls.values()), ddof=1)) for _, controls in values.values() if len(controls) > 1]
    row = {
        **where, "networks": len(values), f"mean rank{of}": found.mean, f"shift{of}": found.shift, "95 % interval": interval(*found.interval),
        SD: math.sqrt(float(np.mean(spread))) if spread else None, "p": found.p, "p (Holm)": None, POWER: None,
    }  # fmt: skip
    ranks = zip(values, found.by_network, strict=True)
    return row, [{**where, "run": run, f"rank{of}": rank} for run, rank in ranks]


def family(rows: Sequence[Row]) -> None:
    """Correct tests that are one family by Holm, and set the power that each has at the least of Holm's levels."""
    corrected(rows)
    for row in rows:
        row[POWER] = 100 * inference.power(row["networks"], 1.0, level=0.05 / len(rows))


def powered(rows: Sequence[Row]) -> str:
    """What stands beside null results on logarithms: what they would have shown, and how surely."""
    least, spread = min(row[POWER] for row in rows), max(row[SD] or 0 for row in rows)
    factor = f", a factor of {math.exp(spread):.2f}," if spread else ""
    return f"a shift of one standard deviation of the controls{factor} is found in at least {least:.0f} % of studies with as many networks"


def is_bracketed(study: Study, run: str) -> bool:
    """Whether enough controls are larger, and enough smaller, than the followed weight at the end of round 1."""
    mine, controls = study.at(run, 1, "value")
    if mine is None:
        return False
    above = sum(abs(value) > abs(mine) for value in controls.values())
    return LEAST_BRACKET <= above <= len(controls) - LEAST_BRACKET


def factor(logs: Sequence[float]) -> str:
    """The interval of typical values of log ratios, one a network, as one of ratios."""
    return interval(*np.exp(inference.typical_values(logs)))
