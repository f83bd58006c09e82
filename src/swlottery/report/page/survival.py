"""Is a network's own weight kept to the end, more often than its controls, and at which sparsity would it fall?"""

from __future__ import annotations

import math

from pandas import DataFrame

from swlottery.report.page import charts, pictures
from swlottery.report.page.answer import Answer, Row, Table, by_arm, corrected, counted, interval, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.plan import ALL, WITH
from swlottery.report.page.rows import OWN
from swlottery.report.page.verdict import ALPHA, by_share, together
from swlottery.study import statistics as inference

WHO, INTERVAL, FALLS = "networks that count", "95 % interval, %", "falls at remaining, %"
FIRST = "first falls at remaining, %"
LEFT, MATRIX, CONTROLS = "remaining, %", "matrix kept, %", "controls kept, %"
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
        networks=counted(end["networks"] for end in ends),
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
        LEFT: 100 * float(now["remaining_fraction"].mean()),
        "kept": alive,
        "of": len(now),
        INTERVAL: interval(100 * low, 100 * high),
        CONTROLS: float(100 * controls / of) if of else None,
        MATRIX: 100 * float((now["matrix_kept"] / now["matrix_size"]).mean()),
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
        last = _last(study, arm).query("control_rank_n > 0")
        last = last.loc[[run for run in last.index if study.survived_prune_1(str(run))]]
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
    return f"{share} {end[INTERVAL]}" if end["of"] == end["networks"] else share


def _sentence(study: Study, ends: list[Row], tests: list[Row]) -> str:
    kinds = {study.kind(run) for run in study.settings if run in study.own}
    p = {row["arm"]: f"; {p_value(row['p (Holm)'])} by Holm" for row in tests}
    parts = [
        f"{end['kept']} of {end['of']} at {end['arm']} (of all weights {end[LEFT]:.2f} % remain, "
        f"of their matrices {end[MATRIX]:.1f} %"
        + (f", of their controls {end[CONTROLS]:.1f} %" if end[CONTROLS] is not None else "")
        + f"{p.get(end['arm'], '')})"
        for end in ends
    ]
    limit = LEADERS if kinds == {"leader"} else ""
    what = f"{kinds.pop()}s" if len(kinds) == 1 else "tracked weights"
    none_pruned = all(end["kept"] == end["of"] for end in ends)
    then = "; none was pruned, so survival cannot tell one rate from another" if none_pruned and len(ends) > 1 else ""
    return f"Of the {what}, pruning kept {listed(parts)}{then}.{limit}"


def falls(study: Study) -> Answer | None:
    """Kept to the end of the plain arms, and how much remains when each weight falls or would fall."""
    rows: list[Row] = []
    each: list[Row] = []
    judged: dict[str, Row] = {}
    for title, arm in study.rated.items():
        last = _last(study, arm)
        each += _each(title, last)
        for who, some in ((ALL, last), (WITH, last[last["tracks"] == "super weight"])):
            if len(some):
                rows.append({"arm": title, WHO: who, **_of_networks(some)})
                if who == ALL or len(some) >= inference.FEWEST:
                    judged[title] = rows[-1]
    if not rows:
        return None
    shares = {arm: inference.proportion(row["kept"], row["networks"]) for arm, row in judged.items()}
    numbers = {
        arm: f"{row['kept']} of {row['networks']} {'super weights' if row[WHO] == WITH else 'weights'} kept with "
        f"{row[LEFT]:.3g} % remaining (in some round, one prune to {row[FIRST]:.3g} % would take the first)"
        for arm, row in judged.items()
    }
    parts = [
        f"{numbers[arm]} at {arm}, where of their matrices {row[MATRIX]:.1f} % remain" for arm, row in judged.items()
    ]
    label, caption = "sparsity at which it is or would be pruned, %", "One circle a network, the bar their mean."
    return Answer(
        "plan_survival",
        "Does a network's weight survive, and at which sparsity would pruning take it?",
        together({arm: by_share(*ends) for arm, ends in shares.items()}),
        number=by_arm(numbers),
        networks=counted(row["networks"] for row in judged.values()),
        sentence=f"Of the networks' own: {listed(parts)}.",
        tables=[
            Table("plan_survival", "kept to the last mask, and how much remains when each falls or would fall", rows),
            Table("plan_survival_points", "the same in each network", each),
        ],
        pictures=[charts.strip("plan_survival", each, "falls at sparsity, %", label, caption)],
        method="Finished runs. It falls at the most weights that may remain after one prune, of the network of any "
        "round, for that prune to take it; if no prune went so far it is kept. Yes: the Clopper–Pearson interval "
        "of the kept share lies above one half; no: below. With six super weights or more these alone are judged. A "
        "weight found after round 1 is large there: prune 1 says nothing. Its matrix' keep rate is the chance of a "
        "weight fixed beforehand.",
    )


def _last(study: Study, arm: Arm) -> DataFrame:
    """By finished network of an arm: what the last prune did to its weight, where it falls, and which prune took it."""
    kept = study.kept(*arm.finished)
    last = kept.groupby("run").tail(1).set_index("run")
    last["tracks"] = last.index.map(study.kind)
    last["gone"] = kept[~kept["alive"].astype(bool)].groupby("run")["round"].first()
    last[FALLS] = 100 * study.rows("own", *arm.finished).groupby("run")["q"].max()
    last[LEFT] = 100 * last["remaining_fraction"]
    last[MATRIX] = 100 * (last["matrix_kept"] / last["matrix_size"])
    return last.reindex([run for run in arm.finished if run in last.index]).dropna(subset=FALLS)


def _each(title: str, last: DataFrame) -> list[Row]:
    return [
        {
            "arm": title,
            "run": run,
            "tracks": row["tracks"],
            "weight": row["weight"],
            "pruned by prune": None if math.isnan(row["gone"]) else int(row["gone"]),
            FALLS: row[FALLS],
            "falls at sparsity, %": 100 - row[FALLS],
            LEFT: row[LEFT],
            MATRIX: row[MATRIX],
            "controls kept": int(row["control_rank"]),
            "controls": int(row["control_rank_n"]),
        }
        for run, row in last.iterrows()
    ]


def _of_networks(last: DataFrame) -> Row:
    """What became of the weights of some networks of an arm."""
    row, at = _kept(last), last[FALLS]
    return {
        "networks": row["of"],
        "kept": row["kept"],
        INTERVAL: row[INTERVAL],
        "first falls at sparsity, %": 100 - float(at.max()),
        FIRST: float(at.max()),
        "median": float(at.median()),
        "last": float(at.min()),
        **{name: float(last[name].mean()) for name in (LEFT, MATRIX)},
        CONTROLS: row[CONTROLS],
    }
