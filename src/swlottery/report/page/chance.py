"""a. Is a coordinate that was fixed beforehand kept with the rate of its matrix, and no more often than that?"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pandas
from pandas import Series

from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table, by_arm, ends, interval, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.verdict import YES, by_test, together
from swlottery.study import statistics

POWER = "power against twice the rate, %"
KEPT = "95 % interval of the kept fraction"
FEWEST = 3
"""Networks from which on it can be asked whether the same coordinates are kept again and again."""
ALPHA = 0.01
"""The level of the dispersion's test, as planned (docs/study.md): in either arm, without a correction."""
MARGIN = 0.2
"""A dispersion within this of 1 is as chance gives."""
SPREAD = ("dispersion", "p", "chance, low", "chance, high")
"""The columns of a `statistics.Dispersion`."""
BY_RATES = "Expected: the sum of the keep rates of the matrices. p: Poisson-binomial, two-sided."


def drawn(study: Study) -> Answer | None:
    """Are 1,000 coordinates, drawn once, kept other than by chance?"""
    rows = [_drawn(study, arm, last) for arm in study.arms if (last := _last_prune(study, arm))]
    if not rows:
        return None
    judged = {row["arm"]: row for row in rows if row["p"] is not None and row["arm"] in study.rated}
    ranges = {arm: _dispersion_range(row) for arm, row in judged.items()}
    near = {arm: low >= 1 - MARGIN and high <= 1 + MARGIN for arm, (low, high) in ranges.items()}
    numbers = {arm: f"dispersion {row['dispersion']:.2f} {interval(*ranges[arm], 2)}" for arm, row in judged.items()}
    parts = [f"{row['dispersion']:.2f} at {arm} ({p_value(row['p'])})" for arm, row in judged.items()]
    spread = [row for row in rows if row["dispersion"] is not None]
    said = "Over 1,000 coordinates drawn once, the dispersion of how many networks keep each is"
    caption = "1,000 coordinates drawn once, looked up in every network that has finished, after the last prune"
    label = "dispersion over networks, times what chance gives"
    line = "Dashed: chance; the band holds 95 % of what it gives."
    band = ("chance, low", "chance, high")
    return Answer(
        "chance",
        "Is a coordinate fixed beforehand kept other than by chance?",
        together({arm: by_test(row["p"], near[arm], alpha=ALPHA) for arm, row in judged.items()}),
        number=by_arm(numbers),
        networks=max(row["networks"] for row in rows),
        sentence=f"{said} {listed(parts)}; chance gives 1." if judged else "",
        tables=[Table("chance", caption, rows)],
        pictures=[charts.strip("dispersion", spread, "dispersion", label, line, reference=1, band=band)],
        method="Dispersion: the variance over coordinates of the number of networks that keep each, over its mean when "
        "the kept ones are permuted within each matrix of each network (999 draws, two-sided). Above 1, the same ones "
        f"are kept again and again. Yes: p < 0.01 in either arm, as planned. "
        f"Its interval is the band of chance, turned round; the margin is {MARGIN} around 1.",
    )


def elsewhere(study: Study) -> Answer | None:
    """Is a weight that was found in one network kept in the next one other than by chance?"""
    rows = [row for arm in study.arms if (last := _last_prune(study, arm)) for row in _elsewhere(study, arm, last)]
    caption = (
        "the weight of each network, looked up in that of the next seed after the same prune; "
        "and in every other one (pairs that are not independent, so without a test)"
    )
    return _looked_up(
        "elsewhere",
        "Is a weight found in one network kept in the next other than by chance?",
        "A weight found in one network and tracked in the next, as in the first runs",
        {row["arm"]: row for row in rows if row["arm"] in study.rated},
        Table("elsewhere_by_arm", caption, rows),
    )


def foreign(study: Study) -> Answer | None:
    """Are coordinates of another network, which the runs were asked to follow, kept other than by chance?"""
    rows = _foreign(study)
    caption = "coordinates of another network (--follow, --allow-foreign), after the last prune that the runs have made"
    return _looked_up(
        "foreign",
        "Is a tracked coordinate of another network kept other than by chance?",
        "A coordinate that was tracked though it comes from elsewhere",
        {f"{row['arm']}, {row['weight']}": row for row in rows},
        Table("foreign", caption, rows),
    )


def _looked_up(name: str, question: str, subject: str, judged: dict[str, Row], table: Table) -> Answer | None:
    """The answer from weights that mean nothing where they were looked up. judged: the rows that count, by arm."""
    if not table.rows:
        return None
    parts = [
        f"{row['kept']} of {row['networks']} times at {arm}, where the keep rates of its matrix say "
        f"{row['expected']:.1f} ({p_value(row['p'])})"
        for arm, row in judged.items()
    ]
    numbers = {}
    for arm, row in judged.items():
        number, ends = row["networks"], interval(*statistics.proportion(row["kept"], row["networks"]), 2)
        numbers[arm] = f"kept {row['kept'] / number:.2f} {ends}, chance {row['expected'] / number:.2f}"
    return Answer(
        name,
        question,
        together({arm: _verdict(row) for arm, row in judged.items()}),
        number=by_arm(numbers),
        networks=max(row["networks"] for row in table.rows),
        sentence=f"{subject} was kept {listed(parts)}." if parts else "",
        tables=[table],
        method=f"{BY_RATES} Outside: the Clopper–Pearson interval, 95 %, does not hold the mean keep rate. "
        "No: the interval lies below twice the keep rate.",
    )


def _verdict(row: Row) -> str:
    """The plan's rule (docs/study.md): yes where the interval of the kept fraction excludes what chance gives."""
    _, high = ends(row[KEPT])
    return YES if row["outside"] else by_test(1.0, high <= 2 * row["expected"] / row["networks"], row[POWER])


def _dispersion_range(row: Row) -> tuple[float, float]:
    """What dispersions give the one that was found: the band of what chance gives, turned round."""
    low, high = row["chance, low"], row["chance, high"]
    return row["dispersion"] / high if high else 0.0, row["dispersion"] / low if low else float("inf")


def _last_prune(study: Study, arm: Arm) -> int:
    """The last prune that all finished networks of an arm have made."""
    made = study.rows("fixed", *arm.finished).groupby("run")["round"].max()
    return int(made.min()) if len(made) else 0


def _drawn(study: Study, arm: Arm, last: int) -> Row:
    rows = study.rows("fixed", *arm.finished)
    now = rows[rows["round"] == last]
    bits, groups = [], np.empty(0)
    for _, one in now.groupby("run", sort=True):
        bits.append(np.concatenate([_unpacked(b, n) for b, n in zip(one["bits"], one["drawn"], strict=True)]))
        groups = np.repeat(np.arange(len(one)), one["drawn"].astype(int))
    found = statistics.dispersion(np.array(bits), groups) if len(bits) >= FEWEST else None
    return {
        "arm": arm.title,
        "networks": len(bits),
        "prune": last,
        "remaining, %": study.left(now["run"], last),
        "looked up": int(now["drawn"].sum()),
        "kept": int(now["kept"].sum()),
        "expected": float((now["drawn"] * now["matrix_kept"] / now["size"]).sum()),
        **dict(zip(SPREAD, astuple(found) if found else [None] * len(SPREAD), strict=True)),
    }


def _unpacked(bits: str, number: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), dtype=np.uint8), count=int(number)).astype(bool)


def _elsewhere(study: Study, arm: Arm, last: int) -> list[Row]:
    """Each network looks up the weight of the network before it, in the order of their seeds.

    So every network and every weight counts once. And all pairs, which are not independent.
    """
    rows = study.facts["elsewhere"]
    names = arm.finished
    now = rows[rows["run"].isin(names) & (rows["round"] == last)]
    networks = now["of"].map(study.network.get)
    before = zip(names, [names[-1], *names[:-1]], strict=True)
    there = pandas.concat(now[(now["run"] == run) & (networks == study.network[one])][:1] for run, one in before)
    if there.empty:
        return []
    pairs = now[networks.isin({study.network[name] for name in names})]
    every = {
        "all pairs": len(pairs),
        "of these kept": int(pairs["alive"].sum()),
        "of these expected": float(pairs["matrix_keep_rate"].sum()),
    }
    return [{"arm": arm.title, **_counted(there["alive"], there["matrix_keep_rate"]), **every}]


def _foreign(study: Study) -> list[Row]:
    """By arm and coordinate, after the last prune of each run."""
    rows = []
    for arm in study.arms:
        here = study.rows("kept", *arm.networks)
        for weight, one in here[here["kind"] == "foreign"].groupby("weight"):
            ends = one.sort_values("round").groupby("run").tail(1)
            counted = _counted(ends["alive"], ends["matrix_kept"] / ends["matrix_size"])
            rows.append({"arm": arm.title, "weight": weight, **counted})
    return rows


def _counted(alive: Series[Any], keep_rates: Series[float]) -> Row:
    rates = keep_rates.tolist()
    found = statistics.against_rates(alive.astype(bool).tolist(), rates)
    low, high = statistics.proportion(found.kept, found.number)
    return {
        "networks": found.number,
        "kept": found.kept,
        "expected": found.expected,
        KEPT: interval(low, high),
        "p": found.p,
        POWER: 100 * statistics.rates_power(rates),
        "outside": not low <= found.expected / found.number <= high,
    }
