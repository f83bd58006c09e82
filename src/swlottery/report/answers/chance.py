"""a. Is a coordinate that was fixed beforehand kept with the rate of its matrix, and no more often than that?"""

from __future__ import annotations

import numpy as np

from swlottery import inference
from swlottery.report.answers.arms import Arm, Study
from swlottery.report.answers.sections import Row, Section, Table, interval, listed, p_value

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
    if not drawn:
        return None
    answer = []
    judged = [row for row in drawn if row["p"] is not None]
    if judged:
        doubts = [row["arm"] for row in judged if row["p"] < 0.01]
        found = [row["dispersion"] for row in judged]
        answer.append(
            "Coordinates fixed beforehand: "
            + (f"the same ones are kept again and again in {listed(doubts)}, so the symmetry argument fails there" if doubts
               else "no sign that the same ones are kept again and again")
            + f" (dispersion over networks {min(found):.2f} to {max(found):.2f} times what chance gives, smallest {p_value(min(row['p'] for row in judged))})."
        )  # fmt: skip
    if elsewhere:
        kept, number, expected = (sum(row[column] for row in elsewhere) for column in ("kept", "networks", "expected"))
        outside = [row["arm"] for row in elsewhere if row["p"] < 0.05]
        answer.append(
            f"A weight found in one network and followed in another, as in the first runs, was kept {kept} of {number} times, where the keep rates of its matrix say {expected:.1f}: "
            + (f"more or less than chance in {listed(outside)}." if outside else "chance, in every arm.")
        )  # fmt: skip
    tables = [
        Table(
            "chance",
            "1,000 coordinates drawn once, looked up in every network after the last prune that all networks of the arm have made",
            drawn,
        )
    ]
    if elsewhere:
        tables.append(
            Table(
                "elsewhere_by_arm",
                "the weight that each network follows, looked up in the next network after the same prune",
                elsewhere,
            )
        )
    remark = (
        "That drawn coordinates are kept on average as their matrices are is arithmetic. The dispersion is the variance over coordinates of the number of networks that kept each, "
        "over its mean when the kept ones are permuted within each matrix of each network (999 draws): above 1, some are kept again and again. "
        "Expected: the sum of the keep rates of the matrices; p: Poisson-binomial, two-sided; interval: Clopper–Pearson, 95 %."
    )
    return Section("chance", "Chance: a coordinate fixed beforehand", answer, tables, remark=remark)


def _last(study: Study, arm: Arm) -> int:
    """The last prune that all networks of an arm have made."""
    rows = study.facts["fixed"]
    made = rows[rows["run"].isin(study.units(arm).values())].groupby("run")["round"].max()
    return int(made.min()) if len(made) else 0


def _drawn(study: Study, arm: Arm, last: int) -> Row:
    rows = study.facts["fixed"]
    now = rows[rows["run"].isin(study.units(arm).values()) & (rows["round"] == last)]
    bits, groups = [], np.empty(0)
    for _, one in now.groupby("run", sort=True):
        bits.append(np.concatenate([_unpacked(b, n) for b, n in zip(one["bits"], one["drawn"], strict=True)]))
        groups = np.repeat(np.arange(len(one)), one["drawn"].astype(int))
    dispersion, p = inference.dispersion(np.array(bits), groups) if len(bits) >= FEWEST else (None, None)
    return {
        "arm": study.title(arm), "networks": len(bits), "prune": last, "remaining, %": study.left(now["run"], last), "looked up": int(now["drawn"].sum()),
        "kept": int(now["kept"].sum()), "expected": float((now["drawn"] * now["matrix_kept"] / now["size"]).sum()), "dispersion": dispersion, "p": p,
    }  # fmt: skip


def _unpacked(bits: str, number: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), dtype=np.uint8), count=int(number)).astype(bool)


def _elsewhere(study: Study, arm: Arm, last: int) -> list[Row]:
    """Each network looks up the weight of the network before it: so that every network and every weight counts once."""
    rows = study.facts["elsewhere"]
    names = list(study.units(arm).values())
    kept, rates = [], []
    for previous, run in zip([names[-1], *names[:-1]], names, strict=True):
        here = rows[(rows["run"] == run) & (rows["round"] == last)]
        found = here[[study.lineage.get(of) == study.lineage[previous] for of in here["of"]]]
        if len(found):
            kept.append(bool(found["alive"].iloc[0]))
            rates.append(float(found["matrix_keep_rate"].iloc[0]))
    if not kept:
        return []
    counted = inference.against_rates(kept, rates)
    low, high = inference.proportion(counted.kept, counted.number)
    return [{"arm": study.title(arm), "networks": counted.number, "kept": counted.kept, "expected": counted.expected,
             "95 % interval of the kept fraction": interval(low, high), "p": counted.p}]  # fmt: skip
