"""Is a network's own weight kept to the end, and more often than its controls?"""

from __future__ import annotations

from pandas import DataFrame

from swlottery.report.page import pictures
from swlottery.report.page.answer import Answer, Row, Table, by_arm, corrected, interval, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.rows import OWN
from swlottery.report.page.verdict import ALPHA, together
from swlottery.study import statistics as inference

METHOD = (
    "Compare arms at equal remaining weights, never at equal rounds. Intervals: Clopper–Pearson, one weight a network. "
    "The test against the controls is exact and stratified by network; it leaves out weights that prune 1 took: the "
    "controls are chosen among those that prune 1 keeps."
)

LEADERS = " No network here has a super weight, so nothing is said of weights whose loss wrecks a model."


def answer(study: Study) -> Answer | None:
    """Kept or pruned, prune by prune, against the matrix and the controls."""
    rows = [
        {"arm": arm.title, "prune": prune, **_kept(now)}
        for arm in study.arms
        for prune, now in study.kept(*arm.networks).groupby("round")
    ]
    if not rows:
        return None
    tests = [row for arms in study.rates for row in _tests(study, arms)]
    ends = [end for arm in study.rated.values() if (end := _end(study, arm))]
    return Answer(
        "survival",
        "Is a network's own weight kept?",
        together({end["arm"]: f"{end['kept']} of {end['of']} kept to the end" for end in ends})
        + _against_controls(tests),
        number=by_arm({end["arm"]: _number(end) for end in ends}),
        networks=min((end["networks"] for end in ends), default=None),
        sentence=_sentence(study, ends, tests) if ends else "",
        tables=[
            Table("survival", "kept by each prune: tracked weights, their controls, and their matrices", rows),
            Table("survival_tests", "kept by the last prune, against the controls of the same network", tests),
        ],
        pictures=[pictures.survival(study, study.arms), pictures.magnitude(study), pictures.boxes(study)],
        method=METHOD,
    )


def _kept(now: DataFrame) -> Row:
    """What one prune left of tracked weights, of their controls and of their matrices."""
    alive = int(now["alive"].sum())
    low, high = inference.proportion(alive, len(now))
    controls, of = now["control_rank"].sum(), now["control_rank_n"].sum()
    return {
        "remaining, %": 100 * float(now["remaining_fraction"].mean()),
        "kept": alive,
        "of": len(now),
        "95 % interval, %": interval(100 * low, 100 * high),
        "controls kept, %": float(100 * controls / of) if of else None,
        "matrix kept, %": 100 * float((now["matrix_kept"] / now["matrix_size"]).mean()),
    }


def _end(study: Study, arm: Arm) -> Row | None:
    """What the last prune left, in the finished networks of an arm, of all their own weights."""
    runs = study.kept(*arm.finished)["run"].unique()
    rows = study.rows("kept", *runs)
    own = rows[rows["kind"].isin(OWN)]
    last = own[own["round"] == own.groupby("run")["round"].transform("max")]
    return {"arm": arm.title, "networks": len(runs), **_kept(last)} if len(runs) else None


def _tests(study: Study, arms: list[Arm]) -> list[Row]:
    """The arms of a set-up that differ in their rate alone: one family."""
    rows: list[Row] = []
    for arm in arms:
        last = study.kept(*arm.finished).groupby("run").tail(1).set_index("run")
        last = last.loc[[run for run in arm.finished if run in last.index and study.survived_prune_1(run)]]
        last = last[last["control_rank_n"] > 0]
        if len(last) > 1:
            alive, controls, of = (last[column].tolist() for column in ("alive", "control_rank", "control_rank_n"))
            found = inference.survival_test(alive, controls, of)
            where = {"arm": arm.title, "networks": len(last), "prune": int(last["round"].iloc[0])}
            rows.append({**where, "kept": found.kept, "expected": found.expected, "p": found.p, "p (Holm)": None})
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
    kinds = {study.kind(run) for run in study.settings if run in study.own}
    p = {row["arm"]: f"; {p_value(row['p (Holm)'])} by Holm" for row in tests}
    parts = [
        f"{end['kept']} of {end['of']} at {end['arm']} (of all weights {end['remaining, %']:.2f} % remain, "
        f"of their matrices {end['matrix kept, %']:.1f} %"
        + (f", of their controls {end['controls kept, %']:.1f} %" if end["controls kept, %"] is not None else "")
        + f"{p.get(end['arm'], '')})"
        for end in ends
    ]
    limit = LEADERS if kinds == {"leader"} else ""
    what = f"{kinds.pop()}s" if len(kinds) == 1 else "tracked weights"
    none_pruned = all(end["kept"] == end["of"] for end in ends)
    then = "; none was pruned, so survival cannot tell one rate from another" if none_pruned and len(ends) > 1 else ""
    return f"Of the {what}, pruning kept {listed(parts)}{then}.{limit}"
