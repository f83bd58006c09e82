"""b. Is the network's own weight kept, is it more than its size, and does the rate matter?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from swlottery.report import words
from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, corrected, interval, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import LEAST_BRACKET, Values, family, is_bracketed, powered, rank_test, tested
from swlottery.study import statistics as inference


def survival(study: Study) -> Section | None:
    """Kept or pruned, prune by prune, against the matrix and the controls."""
    rows: list[Row] = []
    for arm in study.arms:
        tables = [table for run in study.units(arm).values() if len(table := study.kept(run))]
        for prune in sorted({int(r) for table in tables for r in table["round"]}):
            rows.append(
                _at_prune(
                    study, arm, prune, [one for table in tables for one in table.itertuples() if one.round == prune]
                )
            )
    if not rows:
        return None
    kinds = sorted({study.kind(run) for run in study.settings if study.own(run)})
    tests: list[Row] = []
    answer, short, lost = [], [], 0
    for arms in study.rates:
        own: list[Row] = []
        for arm in arms:
            runs = [run for run in study.units(arm, finished=True).values() if len(study.kept(run))]
            if not runs:
                continue
            ends = [row for run in runs for row in study.last(run)]
            alive = sum(bool(row.alive) for row in ends)
            lost += len(ends) - alive
            low, high = inference.proportion(alive, len(ends))
            left = study.left(runs, int(ends[0].round))
            sure = f" (95 % interval {100 * low:.0f} to {100 * high:.0f} %)" if len(ends) == len(runs) else ""
            answer.append(f"At {study.title(arm)}, {alive} of {words.count(len(ends), 'followed weight')} in {words.count(len(runs), 'network')} were kept to the end{sure}, when {left:.2f} % of the weights remained, "
                          f"{100 * _share(ends):.1f} % of those in their matrices" + _of_controls(ends) + ".")  # fmt: skip
            short.append(f"{alive} of {len(ends)} at {study.title(arm)} ({left:.1f} % of all weights remain, {100 * _share(ends):.1f} % of those in their matrices{_of_controls(ends)})")  # fmt: skip
            stood = [
                one
                for one in map(study.kept, runs)
                if bool(one["alive"].iloc[0]) and int(one["control_rank_n"].iloc[-1])
            ]
            if len(stood) > 1:
                last = [one.iloc[-1] for one in stood]
                found = inference.survival_test(
                    [bool(row["alive"]) for row in last],
                    [int(row["control_rank"]) for row in last],
                    [int(row["control_rank_n"]) for row in last],
                )
                own.append(
                    {
                        "arm": study.title(arm),
                        "networks": len(stood),
                        "prune": int(last[0]["round"]),
                        "kept": found.kept,
                        "expected": found.expected,
                        "p": found.p,
                        "p (Holm)": None,
                    }
                )
        corrected(own)
        tests += own
    if answer and not lost:
        answer.append(
            "Nothing that was followed was pruned, so survival cannot tell one rate from another; what can is how near the weights came to it."
            if len(study.rated) > 1
            else "Nothing that was followed was pruned; what tells more is how near the weights came to it."
        )
    if kinds == ["leader"]:
        answer.append(
            "No network here has a super weight: what is followed is the leader, the weight with the largest contribution, so nothing is said of weights whose loss wrecks a model."
        )
    for row in tests:
        if row["p (Holm)"] < 0.05:
            answer.append(
                f"At {row['arm']} it was kept {row['kept']} times in {row['networks']}, where exchangeability with its controls gives {row['expected']:.1f} ({p_value(row['p (Holm)'])} by Holm)."
            )
    tables_ = [
        Table(
            "survival",
            "kept by each prune: the followed weight of each network, its controls nearest in rank of |θ_T1|, and its whole matrix",
            rows,
        ),
        Table(
            "survival_tests", "kept by the last prune, against the controls of the same network (stratified, exact)", tests
        ),
    ]  # fmt: skip
    remark = ("Compare arms at equal remaining weights, never at equal rounds. Interval: Clopper–Pearson, one weight a network. Controls are chosen among what prune 1 keeps, so that prune says nothing of them; "
              "a followed weight that prune 1 took is left out of the test.")  # fmt: skip
    pictures = [charts.survival(study), charts.magnitude(study), charts.boxes(study)]
    title = "Is a network's own weight kept?"
    what = " They are leaders: no network here has a super weight." if kinds == ["leader"] else ""
    brief = f"Kept to the end: {listed(short)}.{what}" if short else ""
    return Section.of("survival", title, answer, tables_, pictures, remark, short=brief)


def _of_controls(rows: list[Any]) -> str:
    """What was kept of their controls, in words."""
    kept, of = (np.nansum([getattr(row, column) for row in rows]) for column in ("control_rank", "control_rank_n"))
    return f" and {100 * kept / of:.1f} % of their controls" if of else ""


def _share(rows: list[Any]) -> float:
    """What was kept of the matrices that the followed weights lie in."""
    return float(np.mean([row.matrix_kept / row.matrix_size for row in rows]))


def _at_prune(study: Study, arm: Arm, prune: int, now: list[Any]) -> Row:
    alive = sum(bool(one.alive) for one in now)
    low, high = inference.proportion(alive, len(now))
    controls, of = (np.nansum([getattr(one, column) for one in now]) for column in ("control_rank", "control_rank_n"))
    return {
        "arm": study.title(arm), "prune": prune, "remaining, %": 100 * float(np.mean([one.remaining_fraction for one in now])), "kept": alive, "of": len(now),
        "95 % interval, %": interval(100 * low, 100 * high), "controls kept, %": float(100 * controls / of) if of else None,
        "matrix kept, %": 100 * _share(now),
    }  # fmt: skip


def size(study: Study) -> Section | None:
    """The primary outcome: the mid-rank of |w|/threshold among the controls, at the end of round 2."""
    rows: list[Row] = []
    points: list[Row] = []
    sensitive: list[Row] = []
    by_arm: dict[Arm, Row] = {}
    for arm in study.arms:
        runs = [run for run in study.units(arm).values() if study.own(run)]
        there = {
            run: (mine, others)
            for run in runs
            if study.stood_prune_1(run)
            for mine, others in [study.at(run, 2, "over_threshold")]
            if mine and others
        }
        if not there:
            continue
        row, each = tested(_logs(there), {"arm": study.title(arm), "left out": len(runs) - len(there)})
        rows.append(row)
        by_arm[arm] = row
        points += each
        inside = {run: pair for run, pair in there.items() if is_bracketed(study, run)}
        initial: Values = {run: (mine, near) for run, (mine, _) in there.items() if (near := study.initial(run, 2))}
        for name, values in (
            (f"at least {LEAST_BRACKET} controls larger and smaller after round 1", inside),
            ("controls matched on |θ_0|", initial),
        ):
            if values:
                one = rank_test(_logs(values))
                sensitive.append(
                    {
                        "arm": study.title(arm),
                        "only or against": name,
                        "networks": len(values),
                        "mean rank": one.mean,
                        "p": one.p if values is inside else None,
                    }
                )
    if not rows:
        return None
    answer, short = [], []
    for arms in study.rates:
        own = [by_arm[arm] for arm in arms if arm in by_arm]
        family(own)
        for row in own:
            if row["networks"] > 1:
                is_null = row["p (Holm)"] >= 0.05
                way = "not told from" if is_null else "larger than" if row["mean rank"] > 0.5 else "smaller than"
                told = f"{way} an ordinary weight of its size" + (f": {powered([row])}" if is_null else "")
                short.append(f"{way} ordinary weights of its size at {row['arm']} (mean rank {row['mean rank']:.2f} among them)")  # fmt: skip
                both_sides = [
                    one
                    for one in sensitive
                    if one["arm"] == row["arm"] and one["only or against"].startswith("at least")
                ]
                answer.append(f"At {row['arm']}, the followed weight's |w|/threshold at the end of round 2 has mean rank {row['mean rank']:.2f} among its controls (½ is chance; {row['networks']} networks, "
                              f"{p_value(row['p (Holm)'])} by Holm): {told}"
                              + (f"; in the {words.count(both_sides[0]['networks'], 'network')} where controls stand on both sides of it {both_sides[0]['mean rank']:.2f}." if both_sides else "."))  # fmt: skip
    if not answer:
        answer.append("One network gives no test of whether its weight is more than its size.")
    tables = [
        Table(
            "size",
            "log(|w|/threshold) at the end of round 2: the mid-rank of the followed weight among its 19 controls, and how far it stands above them",
            rows,
        ),
        Table("size_points", "the rank in each network", points),
        Table("size_sensitivity", "the same in bracketed networks alone, and against other controls", sensitive),
    ]
    remark = ("H0: within its network the weight is exchangeable with the 19 weights of its matrix nearest in rank of |θ_T1|; exact, the network is the unit, Holm over the rates. Left out: pruned in round 1. "
              "The largest weights of a matrix have few or no controls above them, and stand above ½ by construction: see the bracketed networks. The rank of |w|/threshold is that of |w|: it does not see the rate. A leader was selected for its size after training, and its controls by |θ_0| were not: that it stands above those is no finding, so no p is given.")  # fmt: skip
    picture = charts.strip(
        "ranks", points, "rank", "rank among the controls after round 2: 0 below all, 1 above all", charts.CIRCLES, reference=0.5
    )  # fmt: skip
    brief = f"After round 2 it is {listed(short)}, where ½ is chance." if short else ""
    return Section.of("size", "Is it more than its size?", answer, tables, [picture], remark, short=brief)


def _logs(values: Values) -> Values:
    """A control that is masked has no logarithm, and stands below every other."""
    return {
        run: (math.log(mine), {w: math.log(v) if v > 0 else -1e3 for w, v in controls.items()})
        for run, (mine, controls) in values.items()
    }
