"""Is a network's own weight kept to the end, and more often than its controls?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table, by_arm, corrected, interval, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.verdict import ALPHA, TOO_FEW
from swlottery.study import statistics as inference

METHOD = (
    "Compare arms at equal remaining weights, never at equal rounds. Intervals: Clopper–Pearson, one weight a network. "
    "The test against the controls is exact and stratified by network; it leaves out weights that prune 1 took: the "
    "controls are chosen among those that prune 1 keeps."
)


def answer(study: Study) -> Answer | None:
    """Kept or pruned, prune by prune, against the matrix and the controls."""
    rows = [row for arm in study.arms for row in _by_prune(study, arm)]
    if not rows:
        return None
    tests = [row for arms in study.rates for row in _tests(study, arms)]
    ends = [end for arm in study.rated if (end := _end(study, arm))]
    kept, of = (sum(end[column] for end in ends) for column in ("kept", "of"))
    return Answer.of(
        "survival",
        "Is a network's own weight kept?",
        f"{kept} of {of} kept to the end{_against_controls(tests)}" if ends else TOO_FEW,
        number=by_arm({end["arm"]: _number(end) for end in ends}),
        networks=min((end["networks"] for end in ends), default=None),
        sentence=_sentence(study, ends, tests) if ends else "",
        tables=[
            Table("survival", "kept by each prune: tracked weights, their controls, and their matrices", rows),
            Table("survival_tests", "kept by the last prune, against the controls of the same network", tests),
        ],
        pictures=[charts.survival(study), charts.magnitude(study), charts.boxes(study)],
        method=METHOD,
    )


def _by_prune(study: Study, arm: Arm) -> list[Row]:
    by_prune: dict[int, list[Any]] = {}
    for run in study.units(arm).values():
        for one in study.kept(run).itertuples():
            by_prune.setdefault(int(one.round), []).append(one)
    return [{"arm": study.title(arm), "prune": prune, **_kept(now)} for prune, now in sorted(by_prune.items())]


def _kept(now: Sequence[Any]) -> Row:
    """What one prune left of tracked weights, of their controls and of their matrices."""
    alive = sum(bool(one.alive) for one in now)
    low, high = inference.proportion(alive, len(now))
    controls, of = (np.nansum([getattr(one, column) for one in now]) for column in ("control_rank", "control_rank_n"))
    return {
        "remaining, %": 100 * float(np.mean([one.remaining_fraction for one in now])),
        "kept": alive,
        "of": len(now),
        "95 % interval, %": interval(100 * low, 100 * high),
        "controls kept, %": float(100 * controls / of) if of else None,
        "matrix kept, %": 100 * float(np.mean([one.matrix_kept / one.matrix_size for one in now])),
    }


def _end(study: Study, arm: Arm) -> Row | None:
    """What the last prune left, in the finished networks of an arm, of all their own weights."""
    runs = [run for run in study.units(arm, finished=True).values() if len(study.kept(run))]
    last = [row for run in runs for row in study.last(run)]
    return {"arm": study.title(arm), "networks": len(runs), **_kept(last)} if runs else None


def _tests(study: Study, arms: list[Arm]) -> list[Row]:
    """The arms of a set-up that differ in their rate alone: one family."""
    rows: list[Row] = []
    for arm in arms:
        tables = [table for run in study.units(arm, finished=True).values() if len(table := study.kept(run))]
        last = [table.iloc[-1] for table in tables if table["alive"].iloc[0] and table["control_rank_n"].iloc[-1] > 0]
        if len(last) > 1:
            alive = [bool(row["alive"]) for row in last]
            controls, of = ([int(row[column]) for row in last] for column in ("control_rank", "control_rank_n"))
            found = inference.survival_test(alive, controls, of)
            rows.append(
                {
                    "arm": study.title(arm),
                    "networks": len(last),
                    "prune": int(last[0]["round"]),
                    "kept": found.kept,
                    "expected": found.expected,
                    "p": found.p,
                    "p (Holm)": None,
                }
            )
    corrected(rows)
    return rows


def _against_controls(tests: list[Row]) -> str:
    ways = {"more" if row["kept"] > row["expected"] else "less" for row in tests if row["p (Holm)"] < ALPHA}
    return f", {' and '.join(sorted(ways))} often than controls" if ways else ""


def _number(end: Row) -> str:
    """With an interval where there is one weight a network."""
    share = f"{100 * end['kept'] / end['of']:.0f} %"
    return f"{share} {end['95 % interval, %']}" if end["of"] == end["networks"] else share


def _sentence(study: Study, ends: list[Row], tests: list[Row]) -> str:
    kinds = {study.kind(run) for run in study.settings if study.own(run)}
    p = {row["arm"]: f"; {p_value(row['p (Holm)'])} by Holm" for row in tests}
    parts = [
        f"{end['kept']} of {end['of']} at {end['arm']} (of all weights {end['remaining, %']:.2f} % remain, "
        f"of their matrices {end['matrix kept, %']:.1f} %"
        + (f", of their controls {end['controls kept, %']:.1f} %" if end["controls kept, %"] is not None else "")
        + f"{p.get(end['arm'], '')})"
        for end in ends
    ]
    what = f"{kinds.pop()}s" if len(kinds) == 1 else "tracked weights"
    none_pruned = all(end["kept"] == end["of"] for end in ends)
    then = "; none was pruned, so survival cannot tell one rate from another" if none_pruned and len(ends) > 1 else ""
    return f"Of the {what}, pruning kept {listed(parts)}{then}."
