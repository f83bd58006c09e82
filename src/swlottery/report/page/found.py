"""b and c. Is what is kept settled at initialisation, is the weight found again, and by a twin of the network?"""

from __future__ import annotations

from typing import Any

import pandas

from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table, by_arm, counted, interval, listed, p_value, within
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import Parts, Values, is_bracketed, joined, rank_test, spread
from swlottery.report.page.rate import paired
from swlottery.report.page.verdict import by_interval, by_share, together
from swlottery.study import statistics

OUTCOMES = ("kept", "moved", "lost")
SUPER = "super_weight"
HAS, STAYS = "with a super weight", "one of the round before"
MARGIN = 0.02
"""An AUC within this of ½ predicts nothing."""
LEFT, BY_INITIAL = "remaining, %", "by |θ_0|"
FIXED = 0.44
"""Where the interval of twins that agree has to begin for the initialisation to fix the weight."""


def prediction(study: Study) -> Answer | None:
    """Does |θ_0| predict which c_proj weights are kept?"""
    rows, each = joined(_aucs(study))
    if not rows:
        return None
    ends = {row["arm"]: row for row in rows if row["arm"] in study.rated}
    at_end = {
        arm: [one[BY_INITIAL] for one in each if one["arm"] == arm and one[LEFT] == end[LEFT]]
        for arm, end in ends.items()
    }
    intervals = {arm: statistics.typical_values(values) for arm, values in at_end.items()}
    parts = [f"{end[BY_INITIAL]:.3f} at {arm} ({end[LEFT]:.1f} % remaining)" for arm, end in ends.items()]
    names = ("AUC by |θ_0|", "prediction_differences", "prediction_points")
    between = paired(study, lambda run, mask: study.value("predicted", run, mask, "auc_initial"), *names)
    caption = (
        "how well |w| separates the kept c_proj weights of a mask from the pruned ones: "
        "AUC within matrices, mean over networks, and its range"
    )
    said = "|θ_0| alone separates the kept from the pruned weights of c_proj with an AUC of"
    line = f"The line is the mean over networks, a dot one network. Grey: ½ ± {MARGIN}, which predicts nothing."
    label = "AUC of |θ_0|, first arm − second arm"
    return Answer(
        "prediction",
        "Does |θ_0| predict which weights are kept?",
        together({arm: by_interval(*ends, chance=0.5, margin=MARGIN) for arm, ends in intervals.items()}),
        number=by_arm({arm: f"AUC {ends[arm][BY_INITIAL]:.3f}{within(interval(*intervals[arm]))}" for arm in ends}),
        networks=counted(row["networks"] for row in rows),
        sentence=f"{said} {listed(parts)}, where ½ is chance and 1 is certain." if parts else "",
        tables=[Table("prediction", caption, rows), *between, _regression(study)],
        pictures=[
            charts.lines("auc", rows, each, BY_INITIAL, "AUC of |θ_0|", line, band=(0.5 - MARGIN, 0.5 + MARGIN)),
            charts.strip("auc_differences", between[1].rows, "difference", label, charts.APART, by="at", reference=0),
        ],
        method=f"AUC within matrices; the margin is {MARGIN} around ½. Differences between the rates are at equal "
        "remaining weights. After more than one prune the regression sees only what several trainings have kept; the "
        "arms with one prune are free of that.",
    )


def _aucs(study: Study) -> Parts:
    """By arm and mask: the means over networks, and |θ_0|'s AUC in each network."""
    for arm in study.arms:
        predicted = study.rows("predicted", *arm.finished)
        for mask, now in predicted.dropna(subset=["auc_initial", "auc_trained"]).groupby("round"):
            round_ = int(str(mask))
            where = {"arm": arm.title, "mask": round_, LEFT: study.left(now["run"], round_)}
            row, points = spread(where, BY_INITIAL, now["auc_initial"])
            yield {**row, "by |θ_T1|": float(now["auc_trained"].mean())}, points


def _regression(study: Study) -> Table:
    rows: list[Row] = [
        {
            "arm": arm.title,
            "networks": len(now),
            "prunes": int(now["prunes"].iloc[0]),
            "b, of |θ_T1|": float(now["trained"].mean()),
            "c, of |θ_0|": float(now["initial"].mean()),
            "R²": float(now["r_squared"].mean()),
        }
        for arm in study.arms
        if len(now := study.rows("regression", *arm.networks))
    ]
    caption = (
        "log|w| in the final ticket = a + b log|θ_T1| + c log|θ_0|, over the c_proj weights that remain: "
        "means over networks"
    )
    return Table("regression_by_arm", caption, rows)


def again(study: Study) -> Answer | None:
    """Does the finder find the weight again in the networks of later rounds?"""
    rows = [row for arm in study.arms for row in _outcomes(study, arm)]
    if not rows:
        return None
    each = pandas.DataFrame(rows)
    each["share"] = each["fate"] == "kept"
    counts = [
        {
            "arm": arm,
            "round": round_,
            "networks": len(now),
            **{one: int((now["fate"] == one).sum()) for one in OUTCOMES},
            HAS: int((now["kind"] == "super weight").sum()),
            STAYS: int(now[STAYS].sum()),
        }
        for (arm, round_), now in each.groupby(["arm", "round"], sort=False)
    ]
    shares = each.groupby(["arm", "run"], sort=False)["share"].mean()
    rated = {arm: each[each["arm"] == arm]["share"] for arm in study.rated if arm in shares}
    intervals = {arm: statistics.typical_values(shares[arm].tolist()) for arm in rated}
    numbers = {arm: f"{shares[arm].mean():.2f}{within(interval(*ends, 2))}" for arm, ends in intervals.items()}
    parts = [f"in {kept.sum()} of {len(kept)} later rounds at {arm}" for arm, kept in rated.items()]
    points = shares.reset_index().to_dict("records")
    how_often = (
        "the finder, on the network that each later round trained: how often the weight is found again (kept), "
        "another has taken over (moved), or neither (lost); in how many it finds a super weight, and in how many one "
        "that the round before had"
    )
    shared = "of each network, the share of later rounds in which its weight is found again"
    label, caption = "share of later rounds in which it is found again", "One circle a network, the bar their mean."
    return Answer(
        "again",
        "Is it found again in most later rounds?",
        together({arm: by_share(*ends) for arm, ends in intervals.items()}),
        number=by_arm(numbers),
        networks=counted(row["networks"] for row in counts),
        sentence=f"The finder finds the tracked weight again {listed(parts)}." if parts else "",
        tables=[
            Table("again", how_often, counts),
            Table("again_weights", "which weights were found", [row for row in rows if row["arm"] in rated]),
            Table("again_shares", shared, points),
        ],
        pictures=[charts.strip("found_again", points, "share", label, caption)],
        method="Moved: another weight leads, or feeds the same channel. Kept here is about what the network does, not "
        "about the mask. The number is the mean over networks of that share. Yes: its interval lies above one half. "
        "No: below.",
    )


def _outcomes(study: Study, arm: Arm) -> list[Row]:
    """What the finder says of each network's weight in each later round."""
    followed = [run for run in arm.networks if run in study.own]
    rounds = study.rows("found", *followed).sort_values(["run", "round"], kind="stable")
    rounds = rounds.assign(before=rounds["weights"].where(rounds["kind"] == SUPER).groupby(rounds["run"]).shift())
    return [
        {
            "arm": arm.title,
            "run": row.run,
            "round": int(row.round),
            "followed": study.own[row.run],
            "fate": _outcome(study.own[row.run], row),
            "kind": row.kind.replace("_", " "),
            "found": row.weights,
            STAYS: row.kind == SUPER and not _places(row.weights).isdisjoint(_places(row.before)),
        }
        for row in rounds[rounds["round"] > 1].itertuples()
    ]


def _places(weights: Any) -> set[str]:
    """The places in a cell; none where it is empty."""
    return set(weights.split("; ")) if isinstance(weights, str) and weights else set()


def _outcome(own: str, row: Any) -> str:
    """What the finder's event says of a weight; its places have no expert."""
    place = f"({', '.join(own.strip('()').split(', ')[:3])})"
    return next((outcome for outcome in OUTCOMES if place in getattr(row, outcome)), "")


def twins(study: Study) -> Answer | None:
    """Is the weight fixed by initialisation? The same θ_0, another order of the batches."""
    facts = study.facts["twins"].drop_duplicates("run")
    if facts.empty:
        return None
    rows: list[Row] = [
        {
            "network": one.run,
            "twin": one.other,
            "weight": one.weight,
            "in front there": "the same" if one.found_again else "another",
            "percentile there": float(one.percentile),
            "controls below it": int(one.rank),
            "controls": int(one.controls),
            "bracketed": is_bracketed(study, one.run),
            "kept by prune 1": None if one.kept != one.kept else bool(one.kept),
            "its matrix' keep rate": float(one.matrix_keep_rate),
        }
        for one in facts.itertuples()
    ]
    agree = sum(row["in front there"] == "the same" for row in rows)
    low, high = statistics.proportion(agree, len(rows))
    there = [row["percentile there"] for row in rows]
    tests = _twin_tests(rows)
    ranks = [f"{row['mean rank']:.2f} ({p_value(row['p'])})" for row in tests[:1]]
    label, caption = "percentile of |w| in its matrix of the twin", "One circle a pair of twins, by who leads there."
    return Answer(
        "twins",
        "Is it fixed by initialisation?",
        by_share(low, high, FIXED),
        number=f"{agree} of {len(rows)} twins agree {interval(low, high, 2)}",
        networks=len(rows),
        sentence=f"Trained again from the same initialisation in another order of the batches, {agree} of {len(rows)} "
        f"networks have the same weight in front, and in the other twin its |w| is at percentile {min(there):.2f} to "
        f"{max(there):.2f} of its matrix{f', with mean rank {ranks[0]} among its controls' if ranks else ''}.",
        tables=[
            Table("twin_networks", "the tracked weight of the first network, looked up in its twin", rows),
            Table("twin_tests", "its mean rank there among its controls", tests),
        ],
        pictures=[charts.strip("twin_percentiles", rows, "percentile there", label, caption, by="in front there")],
        method="Controls: nearest in rank of |θ_T1| in the first network; a weight without controls above it has a "
        f"rank above ½ by construction. Yes: the interval begins at {FIXED:.0%} at least, as it does from 8 of 10. "
        "No: it ends below one half.",
    )


def _twin_tests(rows: list[Row]) -> list[Row]:
    tests: list[Row] = []
    for which, some in (("all", rows), ("bracketed", [row for row in rows if row["bracketed"]])):
        values: Values = {
            row["network"]: (row["controls below it"] - 0.5, {str(n): float(n) for n in range(row["controls"])})
            for row in some
            if row["controls"]
        }
        if len(values) > 1:
            found = rank_test(values)
            tests.append({"networks that count": which, "networks": len(values), "mean rank": found.mean, "p": found.p})
    return tests
