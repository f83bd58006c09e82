"""a. Is a coordinate that was fixed beforehand kept with the rate of its matrix, and no more often than that?"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, interval, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.study import statistics as inference

DOUBLED = "power against twice the rate, %"
FEWEST = 3
"""Networks from which on it can be asked whether the same coordinates are kept again and again."""


def section(study: Study) -> Section | None:
    """None where no run has masks to look into."""
    drawn: list[Row] = []
    elsewhere: list[Row] = []
    for arm in study.arms:
        last = _last(study, arm)
        if last:
            drawn.append(_drawn(study, arm, last))
            elsewhere += _elsewhere(study, arm, last)
    foreign = _foreign(study)
    if not drawn and not foreign:
        return None
    rates = {study.title(arm) for arm in study.rated}
    answer, short = [], []
    judged = [row for row in drawn if row["p"] is not None and row["arm"] in rates]
    if judged:
        told = [row for row in judged if row["p"] < 0.01]
        again, evenly = ([row["arm"] for row in told if (row["dispersion"] > 1) == above] for above in (True, False))
        found = [f"{row['dispersion']:.2f} at {row['arm']} ({p_value(row['p'])})" for row in judged]
        answer.append(
            "Of 1,000 coordinates fixed beforehand, "
            + (f"the same ones are kept again and again in {listed(again)}, so the symmetry argument fails there" if again
               else "there is no sign that the same ones are kept again and again from network to network")
            + (f"; they are kept more evenly than independent networks would in {listed(evenly)}, so it fails there too" if evenly else "")
            + f": the dispersion is {listed(found)}, where chance gives 1."
        )  # fmt: skip
        short.append(f"1,000 coordinates fixed beforehand are {'not ' if told else ''}kept as chance gives{f' in {listed([*again, *evenly])}' if told else ''}.")  # fmt: skip
    judged = [row for row in elsewhere if row["arm"] in rates]
    if judged:
        outside = [row["arm"] for row in judged if row["outside"]]
        parts = [
            f"{row['kept']} of {row['networks']} times at {row['arm']}, where the keep rates of its matrix say {row['expected']:.1f} ({p_value(row['p'])})"
            for row in judged
        ]
        answer.append(f"A weight found in one network and followed in the next, as in the first runs, was kept {listed(parts)}: "
                      + (f"not chance in {listed(outside)}." if outside else f"what chance gives, though in so few networks only {listed([f'{row[DOUBLED]:.0f} %' for row in judged])} of studies would tell twice that from chance."))  # fmt: skip
        counts = [f"{row['kept']} of {row['networks']} times at {row['arm']}, where chance gives {row['expected']:.1f}" for row in judged]  # fmt: skip
        like = f"not kept as chance gives in {listed(outside)}" if outside else f"like any other, as far as {min(row['networks'] for row in judged)} networks can tell"  # fmt: skip
        short.append(f"A weight found in one network is, in the next, {like}: kept {listed(counts)}.")
    if foreign:
        parts = [
            f"{row['weight']} in {row['kept']} of {row['networks']} networks at {row['arm']}, where {row['expected']:.1f} are expected ({p_value(row['p'])})"
            for row in foreign
        ]
        answer.append(f"Coordinates that were followed though they come from elsewhere: kept {listed(parts)}.")
    tables = [
        Table(
            "chance",
            "1,000 coordinates drawn once, looked up in every network that has finished, after the last prune",
            drawn,
        ),
        Table(
            "elsewhere_by_arm",
            "the weight of each network, looked up in that of the next seed after the same prune; and in every other one (pairs that are not independent, so without a test)",
            elsewhere,
        ),
        Table(
            "foreign",
            "coordinates of another network (--follow, --allow-foreign), after the last prune that the runs have made",
            foreign,
        ),
    ]
    remark = (
        "That drawn coordinates are kept on average as their matrices are is arithmetic. The dispersion is the variance over coordinates of the number of networks that kept each, "
        "over its mean when the kept ones are permuted within each matrix of each network (999 draws, two-sided): above 1, some are kept again and again. "
        "Expected: the sum of the keep rates of the matrices; p: Poisson-binomial, two-sided; outside: the Clopper–Pearson interval, 95 %, does not hold the mean keep rate."
    )
    spread = [row for row in drawn if row["dispersion"] is not None]
    picture = charts.strip(
        "dispersion", spread, "dispersion", "dispersion over networks, times what chance gives", "Dashed: chance; the band holds 95 % of what it gives.",
        reference=1, band=("chance, low", "chance, high"),
    )  # fmt: skip
    title = "What becomes of a coordinate from elsewhere?"
    return Section.of("chance", title, answer, tables, [picture], remark, short=" ".join(short))


SPREAD = ("dispersion", "p", "chance, low", "chance, high")
"""The columns of an `inference.Dispersion`."""


def _last(study: Study, arm: Arm) -> int:
    """The last prune that all finished networks of an arm have made."""
    made = study.rows("fixed", study.units(arm, finished=True).values()).groupby("run")["round"].max()
    return int(made.min()) if len(made) else 0


def _drawn(study: Study, arm: Arm, last: int) -> Row:
    rows = study.rows("fixed", study.units(arm, finished=True).values())
    now = rows[rows["round"] == last]
    bits, groups = [], np.empty(0)
    for _, one in now.groupby("run", sort=True):
        bits.append(np.concatenate([_unpacked(b, n) for b, n in zip(one["bits"], one["drawn"], strict=True)]))
        groups = np.repeat(np.arange(len(one)), one["drawn"].astype(int))
    found = inference.dispersion(np.array(bits), groups) if len(bits) >= FEWEST else None
    told: Row = dict(zip(SPREAD, astuple(found) if found else (None,) * len(SPREAD), strict=True))
    return {
        "arm": study.title(arm), "networks": len(bits), "prune": last, "remaining, %": study.left(now["run"], last), "looked up": int(now["drawn"].sum()),
        "kept": int(now["kept"].sum()), "expected": float((now["drawn"] * now["matrix_kept"] / now["size"]).sum()), **told,
    }  # fmt: skip


def _unpacked(bits: str, number: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), dtype=np.uint8), count=int(number)).astype(bool)


def _elsewhere(study: Study, arm: Arm, last: int) -> list[Row]:
    """Each network looks up the weight of the network before it, in the order of their seeds: every network and every weight counts
    once. And all pairs, which do not."""
    rows = study.facts["elsewhere"]
    names = list(study.units(arm, finished=True).values())
    kept, rates = [], []
    for previous, run in zip([names[-1], *names[:-1]], names, strict=True):
        here = rows[(rows["run"] == run) & (rows["round"] == last)]
        found = here[[study.network.get(of) == study.network[previous] for of in here["of"]]]
        if len(found):
            kept.append(bool(found["alive"].iloc[0]))
            rates.append(float(found["matrix_keep_rate"].iloc[0]))
    if not kept:
        return []
    now = rows[rows["run"].isin(names) & (rows["round"] == last)]
    known = {study.network[name] for name in names}
    pairs = now[now["of"].map(study.network.get).isin(known)]
    every = {
        "all pairs": len(pairs),
        "of these kept": int(pairs["alive"].sum()),
        "of these expected": float(pairs["matrix_keep_rate"].sum()),
    }
    return [{"arm": study.title(arm), **_counted(kept, rates), **every}]


def _foreign(study: Study) -> list[Row]:
    """Coordinates that a run was told to follow, by arm."""
    rows = []
    for arm in study.arms:
        here = study.rows("kept", study.units(arm).values())
        for weight, one in here[here["kind"] == "foreign"].groupby("weight"):
            ends = one.sort_values("round").groupby("run").tail(1)
            counted = _counted(
                [bool(alive) for alive in ends["alive"]],
                [float(k / n) for k, n in zip(ends["matrix_kept"], ends["matrix_size"], strict=True)],
            )
            rows.append({"arm": study.title(arm), "weight": weight, **counted})
    return rows


def _counted(kept: list[bool], rates: list[float]) -> Row:
    found = inference.against_rates(kept, rates)
    low, high = inference.proportion(found.kept, found.number)
    return {"networks": found.number, "kept": found.kept, "expected": found.expected, "95 % interval of the kept fraction": interval(low, high), "p": found.p, DOUBLED: 100 * inference.rates_power(rates),
            "outside": not low <= found.expected / found.number <= high}  # fmt: skip
