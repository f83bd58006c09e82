"""Tracked weights among the controls of their networks: one row of a table for each test, with its power."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pandas import Series

from swlottery.report.page.answer import Row, by_arm, corrected, counted, ends, interval, listed, p_value, within
from swlottery.report.page.arms import Study
from swlottery.report.page.verdict import by_test, together
from swlottery.study import statistics as inference

LEAST_BRACKET = 5
"""Controls on either side of a weight, in |θ_T1|, from which on it counts as bracketed."""
Tracked = tuple[float | None, dict[str, float]]
"""The tracked weight's value, None where there is none, and those of its controls."""
Values = dict[str, tuple[float, dict[str, float]]]
"""Of each network (its run) the tracked weight's value, and those of its controls."""
Parts = Iterable[tuple[Row, list[Row]]]
"""Rows of a table, each with the points of the networks that it is about."""
SD, POWER = "sd of the controls", "power at 1 sd, %"


def rank_test(values: Values) -> inference.Ranked:
    """`inference.rank_test` of networks by run."""
    controls = [list(others.values()) for _, others in values.values()]
    return inference.rank_test([mine for mine, _ in values.values()], controls)


def tested(values: Values, where: Row, of: str = "") -> tuple[Row, list[Row]]:
    """A test as the row of a table, and the rank in each network.

    where: its first columns. of: what is ranked (`` of d``).
    """
    found = rank_test(values)
    spread = [float(np.var(list(controls.values()), ddof=1)) for _, controls in values.values() if len(controls) > 1]
    row = {
        **where,
        "networks": len(values),
        f"mean rank{of}": found.mean,
        f"shift{of}": found.shift,
        "95 % interval": interval(*found.interval),
        SD: math.sqrt(float(np.mean(spread))) if spread else None,
        "p": found.p,
        "p (Holm)": None,
        POWER: None,
    }
    ranks = zip(values, found.by_network, strict=True)
    return row, [{**where, "run": run, f"rank{of}": rank} for run, rank in ranks]


def family(rows: Sequence[Row]) -> None:
    """Correct tests that are one family by Holm, and set the power that each has at the least of Holm's levels."""
    corrected(rows)
    for row in rows:
        row[POWER] = 100 * inference.power(row["networks"], 1.0, level=0.05 / len(rows))


def summary(tests: Mapping[str, Row], quantity: str, of: str = "", then: str = "") -> dict[str, Any]:
    """Verdict, number, networks and sentence of an answer that rests on tests, one an arm.

    quantity: what is compared with the controls. then: the end of the sentence. A null result never comes without its
    power.
    """
    judged = {arm: row for arm, row in tests.items() if row["networks"] > 1}
    shifts = {arm: f"{row[f'shift{of}']:+.3f}{within(row['95 % interval'])}" for arm, row in judged.items()}
    parts = [
        f"{shifts[arm]} ({arm}: mean rank {row[f'mean rank{of}']:.2f}, {p_value(row['p (Holm)'])} by Holm, "
        f"power {row[POWER]:.0f} %)"
        for arm, row in judged.items()
    ]
    return {
        "verdict": together({arm: verdict(row) for arm, row in judged.items()}),
        "number": by_arm({arm: f"shift of {quantity} {shift}" for arm, shift in shifts.items()}),
        "networks": counted(row["networks"] for row in tests.values()),
        "sentence": f"The tracked weight's {quantity} minus its controls' is {listed(parts)}{then}." if parts else "",
    }


def verdict(row: Row) -> str:
    """From the row of a test; margin: one standard deviation of the controls."""
    low, high = ends(row["95 % interval"])
    return by_test(row["p (Holm)"], row[SD] is not None and max(-low, high) <= row[SD], row[POWER])


def log_ratio(above: Tracked, below: Tracked) -> tuple[float, dict[str, float]] | None:
    """log|above / below| of the tracked weight, and of the controls that both have; None where one lacks the weight."""
    (a, first), (b, second) = above, below
    if not a or not b:
        return None
    return math.log(abs(a / b)), {w: math.log(abs(q / second[w])) for w, q in first.items() if q and second.get(w)}


def is_bracketed(study: Study, run: str) -> bool:
    """Whether enough controls are larger, and enough smaller, than the tracked weight at the end of round 1."""
    mine, controls = study.at(run, 1, "value")
    if mine is None:
        return False
    above = sum(abs(value) > abs(mine) for value in controls.values())
    return LEAST_BRACKET <= above <= len(controls) - LEAST_BRACKET


def typical(values: Sequence[float]) -> str:
    """The interval of typical values, one a network."""
    return interval(*inference.typical_values(values))


def mean_of(there: Mapping[str, float]) -> Row:
    """The mean of a value over networks, as columns of a table."""
    each = list(there.values())
    return {"networks": len(each), "difference": float(np.mean(each)), "95 % interval": typical(each)}


def mean_interval(values: Sequence[float]) -> str:
    """The interval of typical values; of too few values for it, Student's."""
    return typical(values) if len(values) >= inference.FEWEST else interval(*inference.student(values))


def factor(logs: Sequence[float]) -> str:
    """The interval of typical values of log ratios, one a network, as one of ratios."""
    return interval(*np.exp(inference.typical_values(logs)))


def spread(
    where: Row, of: str, values: Series[float], middle: str = "mean", networks: str = "networks"
) -> tuple[Row, list[Row]]:
    """The middle and the range of a value over networks as the row of a table, and each network's value.

    where: the first columns. of, networks: the columns of the middle, and of how many there are.
    """
    ends = {of: float(values.agg(middle)), "least": float(values.min()), "most": float(values.max())}
    return {**where, networks: len(values), **ends}, [{**where, of: float(one)} for one in values]


def joined(parts: Parts) -> tuple[list[Row], list[Row]]:
    """The rows of a table, and the points of all of them."""
    pairs = list(parts)
    return [row for row, _ in pairs], [point for _, points in pairs for point in points]
