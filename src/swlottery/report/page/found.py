"""b and c. Is what is kept settled at initialisation, is the weight found again, and by a twin of the network?"""

from __future__ import annotations

from typing import Any

from swlottery.report import words
from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, listed, p_value
from swlottery.report.page.arms import Study
from swlottery.report.page.ranks import Values, is_bracketed, rank_test
from swlottery.report.page.rate import paired
from swlottery.study import statistics as inference


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
                if arm in study.rated:
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
    fits: list[Row] = [
        {"arm": study.title(arm), "networks": len(now), "prunes": int(now["prunes"].iloc[0]), "b, of |θ_T1|": float(now["trained"].mean()), "c, of |θ_0|": float(now["initial"].mean()), "R²": float(now["r_squared"].mean())}
        for arm in study.arms if len(now := study.rows("regression", study.units(arm).values()))
    ]  # fmt: skip
    for fit in fits:
        if fit["arm"] in ends:
            answer.append(f"In the final ticket of {fit['arm']}, log|w| of the c_proj weights that remain goes with log|θ_T1| by a factor of {fit['b, of |θ_T1|']:.2f} and with log|θ_0| by {fit['c, of |θ_0|']:.2f} (R² {fit['R²']:.2f}).")  # fmt: skip
    tables = [
        Table(
            "prediction",
            "how well |w| tells the kept c_proj weights of a mask from the pruned ones: AUC within matrices, mean over networks, and its range",
            rows,
        ),
        Table(
            "prediction_differences",
            "AUC by |θ_0|, first arm − second arm at equal remaining weights, and the interval of typical values",
            differences,
        ),
        Table("prediction_points", "the same in each network", points),
        Table(
            "regression_by_arm",
            "log|w| in the final ticket = a + b log|θ_T1| + c log|θ_0|, over the c_proj weights that remain: means over networks",
            fits,
        ),
    ]
    remark = "After more than one prune the regression sees only what several trainings have kept; the arms with one prune are free of that."
    caption = "The line is the mean over networks, a dot one network."
    picture = charts.lines("auc", rows, each, "by |θ_0|", "AUC of |θ_0|", caption)
    label = "AUC of |θ_0|, first arm − second arm"
    apart = charts.strip("auc_differences", points, "difference", label, charts.APART, by="at", reference=0)
    return Section.of("prediction", "Is it settled at initialisation?", answer, tables, [picture, apart], remark)


def _auc(study: Study, run: str, mask: int) -> float | None:
    rows = study.rows("predicted", [run])
    found = rows[rows["round"] == mask]["auc_initial"].dropna()
    return float(found.iloc[0]) if len(found) else None


def again(study: Study) -> Section | None:
    """Does the finder find the weight again in the networks of later rounds?"""
    rows: list[Row] = []
    each: list[Row] = []
    shares: list[Row] = []
    answer, short = [], []
    for arm in study.arms:
        units = [run for run in study.units(arm).values() if study.own(run)]
        own = []
        for round_, now in study.rows("found", units).query("round > 1").groupby("round"):
            fates = [_fate(str(study.own(row.run)), row) for row in now.itertuples()]
            counts = {word: fates.count(word) for word in FATES}
            rows.append({"arm": study.title(arm), "round": int(str(round_)), "networks": len(now), **counts})
            own += [
                {"arm": study.title(arm), "run": row.run, "round": int(row.round), "followed": study.own(row.run), "fate": fate, "found": row.weights}
                for row, fate in zip(now.itertuples(), fates, strict=True)
            ]  # fmt: skip
        by_run: dict[str, list[str]] = {}
        for one in own:
            by_run.setdefault(one["run"], []).append(one["fate"])
        shares += [
            {"arm": study.title(arm), "run": run, "share": fates.count("kept") / len(fates)}
            for run, fates in by_run.items()
        ]
        if arm in study.rated and own:
            each += own
            times = sum(one["fate"] == "kept" for one in own)
            short.append(f"in {times} of {len(own)} later rounds at {study.title(arm)}")
            counted = [sum(word in fates for fates in by_run.values()) for word in FATES]
            answer.append(f"At {study.title(arm)}, looked for again in every later round, the followed weight was found in at least one by {counted[0]} of {words.count(len(by_run), 'network')}; "
                          f"another had taken its place in at least one in {counted[1]}, and in {counted[2]} there was neither.")  # fmt: skip
    if not rows:
        return None
    tables = [Table("again", "the finder, on the network that each later round trained: how often the weight is found again (kept), another has taken over (moved), or neither (lost)", rows),
              Table("again_weights", "which weights were found", each),
              Table("again_shares", "of each network, the share of later rounds in which its weight is found again", shares)]  # fmt: skip
    remark = "Moved: another weight leads, or feeds the same channel. To be alive is about the mask; this is about what the network does."
    label, caption = "share of later rounds in which it is found again", "One circle a network, the bar their mean."
    picture = charts.strip("found_again", shares, "share", label, caption)
    brief = f"The finder finds it again {listed(short)}." if short else ""
    return Section.of("again", "Is it found again?", answer, tables, [picture], remark, brief)


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
        {"network": one.run, "twin": one.other, "weight": one.weight, "in front there": "the same" if one.found_again else "another", "percentile there": float(one.percentile), "controls below it": int(one.rank),
         "controls": int(one.controls), "bracketed": is_bracketed(study, one.run), "kept by prune 1": None if one.kept != one.kept else bool(one.kept), "its matrix' keep rate": float(one.matrix_keep_rate)}
        for one in facts.itertuples()
    ]  # fmt: skip
    agree = sum(row["in front there"] == "the same" for row in rows)
    low, high = inference.proportion(agree, len(rows))
    settled = (
        "so the initialisation fixes it"
        if low >= FIXED
        else "so the initialisation does not usually fix it"
        if high < 0.5
        else "which leaves open how far the initialisation fixes it"
    )
    answer = [f"Trained again from the same initialisation in another order of the batches, {agree} of {len(rows)} networks have the same weight in front "
              f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %){f', {settled}' if len(rows) > 1 else ''}."]  # fmt: skip
    there = [row["percentile there"] for row in rows]
    answer.append(f"In the other twin its |w| stands at percentile {min(there):.2f} to {max(there):.2f} of its matrix.")
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
    if tests:
        parts = [
            f"{row['mean rank']:.2f} ({p_value(row['p'])}, {words.count(row['networks'], 'network')})" for row in tests
        ]
        answer.append(
            f"Followed in the other twin, where it was not chosen, its mean rank among its controls is {parts[0]}, where ½ is chance"
            + (f"; {parts[1]} where controls stand on both sides of it, while one without controls above it stands above ½ by construction." if len(parts) > 1 else ".")
        )  # fmt: skip
    tables = [
        Table("twin_networks", "the followed weight of the first network, looked up in its twin", rows),
        Table("twin_tests", "its mean rank there among its controls", tests),
    ]
    label, caption = "percentile of |w| in its matrix of the twin", "One circle a pair of twins."
    picture = charts.strip("twin_percentiles", rows, "percentile there", label, caption, by="in front there")
    remark = "Controls: nearest in rank of |θ_T1| in the first network. Initialisation is said to fix it where the interval begins at 44 % at least, as it does from 8 of 10 on."
    return Section.of("twins", "Is it fixed by initialisation?", answer, tables, [picture], remark)


FIXED = 0.44
"""Where the interval of twins that agree has to begin for the initialisation to fix the weight."""
