"""b and c. Is what is kept settled at initialisation, is the weight found again, and by a twin of the network?"""

from __future__ import annotations

from typing import Any

import numpy as np

from swlottery import inference
from swlottery.report.answers import charts
from swlottery.report.answers.arms import Study
from swlottery.report.answers.rate import paired
from swlottery.report.answers.sections import Row, Section, Table, listed, p_value


def prediction(study: Study) -> Section | None:
    """How well do |θ_0| and |θ_T1| tell which c_proj weights are kept?"""
    rows: list[Row] = []
    each: list[Row] = []
    ends: dict[str, Row] = {}
    for arm in study.arms:
        for prune, now in study.rows("predicted", study.units(arm, finished=True).values()).groupby("round"):
            initial, trained = (now[column].dropna() for column in ("auc_initial", "auc_trained"))
            if len(initial) and len(trained):
                left = study.left(now["run"], int(str(prune)))
                each += [{"arm": study.title(arm), "remaining, %": left, "by |θ_0|": float(one)} for one in initial]
                rows.append({"arm": study.title(arm), "mask": int(str(prune)), "remaining, %": left, "networks": len(now),
                             "by |θ_0|": float(initial.mean()), "least": float(initial.min()), "most": float(initial.max()), "by |θ_T1|": float(trained.mean())})  # fmt: skip
                if any(arm in arms for arms in study.rates):
                    ends[study.title(arm)] = rows[-1]
    if not rows:
        return None
    parts = [f"{row['by |θ_0|']:.3f} at {arm} ({row['remaining, %']:.1f} % remaining)" for arm, row in ends.items()]
    answer = (
        [
            f"|θ_0| alone tells the kept from the pruned weights of c_proj with an AUC of {listed(parts)}: ½ is a coin, 1 a certainty."
        ]
        if parts
        else []
    )
    differences, points = paired(study, lambda run, mask: _auc(study, run, mask))
    if differences:
        told = [
            f"{row['difference']:+.3f} {row['95 % interval']} at {row['remaining, %']:.1f} % remaining"
            for row in differences
        ]
        answer.append(f"Between the rates, at matched masks, it differs by {listed(told)}.")
    fits: list[Row] = [
        {"arm": study.title(arm), "networks": len(now), "prunes": int(now["prunes"].iloc[0]), "b, of |θ_T1|": float(now["trained"].mean()), "c, of |θ_0|": float(now["initial"].mean()), "R²": float(now["r_squared"].mean())}
        for arm in study.arms if len(now := study.rows("growth", study.units(arm).values()))
    ]  # fmt: skip
    tables = [
        Table(
            "prediction",
            "how well |w| tells the kept c_proj weights of a mask from the pruned ones: AUC within matrices, mean over networks, and its range",
            rows,
        ),
        Table(
            "prediction_differences",
            "AUC by |θ_0|, first arm − second arm at matched masks, and the interval of typical values",
            differences,
        ),
        Table("prediction_points", "the same in each network", points),
        Table(
            "growth_by_arm",
            "log|w| in the final ticket = a + b log|θ_T1| + c log|θ_0|, over the c_proj weights that remain: means over networks",
            fits,
        ),
    ]
    remark = "After more than one prune the regression sees only what several trainings have kept; the arms with one prune are free of that."
    caption = "The line is the mean over networks, a dot one network."
    picture = charts.lines("auc", rows, each, "by |θ_0|", "AUC of |θ_0|", caption)
    label = "AUC of |θ_0|, first arm − second arm"
    apart = charts.strip("auc_differences", points, "difference", label, charts.APART, by="masks", reference=0)
    return Section.of("prediction", "Is it settled at initialisation?", answer, tables, [picture, apart], remark)


def _auc(study: Study, run: str, mask: int) -> float | None:
    rows = study.rows("predicted", [run])
    found = rows[rows["round"] == mask]["auc_initial"].dropna()
    return float(found.iloc[0]) if len(found) else None


def again(study: Study) -> Section | None:
    """Does the finder find the weight again in the networks of later rounds?"""
    rows: list[Row] = []
    each: list[Row] = []
    hits = number = 0
    for arm in study.arms:
        units = [run for run in study.units(arm).values() if study.own(run)]
        for round_, now in study.rows("found", units).query("round > 1").groupby("round"):
            fates = [_fate(str(study.own(row.run)), row) for row in now.itertuples()]
            rows.append(
                {
                    "arm": study.title(arm),
                    "round": int(str(round_)),
                    "networks": len(now),
                    **{word: fates.count(word) for word in FATES},
                }
            )
            if any(arm in arms for arms in study.rates):
                each += [
                    {
                        "arm": study.title(arm),
                        "run": row.run,
                        "round": int(row.round),
                        "followed": study.own(row.run),
                        "fate": fate,
                        "found": row.weights,
                    }
                    for row, fate in zip(now.itertuples(), fates, strict=True)
                ]
                hits, number = hits + fates.count("kept"), number + len(now)
    if not rows:
        return None
    answer = (
        [
            f"Looked for again in each later round at each rate, the followed weight was among those found in {hits} of {number} trained networks."
        ]
        if number
        else []
    )
    tables = [Table("again", "the finder, on the network that each later round trained: how often the weight is found again (kept), another has taken over (moved), or neither (lost)", rows),
              Table("again_weights", "which weights were found", each)]  # fmt: skip
    remark = "Moved: another weight leads, or feeds the same channel. To be alive is about the mask; this is about what the network does."
    share = [{**row, "share": row["kept"] / row["networks"]} for row in rows]
    label, caption = "share of networks in which it is found again", "One circle a round, the bar their mean."
    picture = charts.strip("found_again", share, "share", label, caption)
    return Section.of("again", "Is it found again?", answer, tables, [picture], remark)


FATES = ("kept", "moved", "lost")


def _fate(own: str, row: Any) -> str:
    """What the finder's event says of a weight; its places have no expert."""
    place = f"({', '.join(own.strip('()').split(', ')[:3])})"
    return next((word for word in FATES if place in getattr(row, word)), "")


def twins(study: Study) -> Section | None:
    """The same θ_0, another order of the batches."""
    facts = study.facts["twins"].drop_duplicates("run")
    if facts.empty:
        return None
    rows: list[Row] = [
        {"network": one.run, "twin": one.other, "weight": one.weight, "found there": bool(one.found_again), "percentile there": float(one.percentile), "controls below it": int(one.rank),
         "controls": int(one.controls), "kept by prune 1": None if one.kept != one.kept else bool(one.kept), "its matrix' keep rate": float(one.matrix_keep_rate)}
        for one in facts.itertuples()
    ]  # fmt: skip
    agree = sum(row["found there"] for row in rows)
    low, high = inference.proportion(agree, len(rows))
    settled = (
        "so the initialisation fixes it"
        if agree >= 0.8 * len(rows)
        else "so the initialisation does not usually fix it"
        if high < 0.5
        else "which leaves open how far the initialisation fixes it"
    )
    answer = [f"Trained again from the same initialisation in another order of the batches, {agree} of {len(rows)} networks have the same weight in front "
              f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %){f', {settled}' if len(rows) > 1 else ''}."]  # fmt: skip
    tested = [row for row in rows if row["controls"]]
    if len(tested) > 1:
        found = inference.rank_test(
            [row["controls below it"] - 0.5 for row in tested], [np.arange(row["controls"]) for row in tested]
        )
        answer.append(
            f"Followed in the other twin, where it was not chosen, its mean rank among its controls is {found.mean:.2f} ({p_value(found.p)}; ½ is chance)."
        )
    table = Table("twin_networks", "the followed weight of the first network, looked up in its twin", rows)
    label, caption = "percentile of |w| in its matrix of the twin", "One circle a pair of twins."
    picture = charts.strip("twin_percentiles", rows, "percentile there", label, caption, by="found there")
    remark = "Controls: nearest in rank of |θ_T1| in the first network."
    return Section.of("twins", "Is it fixed by initialisation?", answer, [table], [picture], remark)
