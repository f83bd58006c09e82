"""d to g. Growth and gradient, pruning without magnitudes, rewinding, weights that a model cannot do without; and what pruning costs."""

from __future__ import annotations

import math

import numpy as np

from swlottery.report import words
from swlottery.report.answers import charts
from swlottery.report.answers.arms import Arm, Study
from swlottery.report.answers.kept import Values, rank_test
from swlottery.report.answers.rate import falls, paired, rates
from swlottery.report.answers.sections import Row, Section, Table, interval, listed, p_value, powered, ranked

SEEN = {"gradient_percentile": "|gradient|", "moment_percentile": "second moment", "update_percentile": "update"}


def growth(study: Study) -> Section | None:
    """Do survivors grow as others go? |w| at the end of each round over |w| after round 1, of followed weights and controls."""
    rows: list[Row] = []
    points: list[Row] = []
    answer = []
    for arm in study.arms:
        for round_, there in sorted(_grown(study, arm).items()):
            left = study.left(there, round_ - 1)
            followed = np.exp([mine for mine, _ in there.values()])
            controls = [float(np.mean(others)) for _, others in there.values() if others]
            rows.append({"arm": study.title(arm), "round": round_, "remaining, %": left, "networks": len(there), "followed, times": float(np.exp(np.log(followed).mean())),
                         "least": float(followed.min()), "most": float(followed.max()), "controls, times": float(np.exp(np.mean(controls))) if controls else None})  # fmt: skip
            points += [
                {"arm": study.title(arm), "remaining, %": left, "followed, times": float(one)} for one in followed
            ]
        if any(arm in arms for arms in study.rates) and rows and rows[-1]["arm"] == study.title(arm):
            second, last = next(row for row in rows if row["arm"] == study.title(arm)), rows[-1]
            way = (
                "grows"
                if last["least"] > 1
                else "shrinks"
                if last["most"] < 1
                else "grows in some networks and not in others"
            )
            told = f"{way}: {last['followed, times']:.2f} times its size after round 1 at the end of round {last['round']} ({last['least']:.2f} to {last['most']:.2f}, {words.count(last['networks'], 'network')})"
            if second["controls, times"] is not None:
                told += f"; at the end of round 2 {second['followed, times']:.2f} times, and its controls {second['controls, times']:.2f} times"
            answer.append(f"At {study.title(arm)}, a followed weight that is kept {told}.")
    if not rows:
        return None
    differences, each = paired(study, lambda run, mask: _log_size(study, run, mask + 1))
    if differences:
        told = listed(
            [f"{row['difference']:+.3f} {row['95 % interval']} at {row['remaining, %']:.1f} %" for row in differences]
        )
        answer.append(f"At matched masks its log|w| at the larger rate − that at the smaller is {told} remaining.")
    tables = [
        Table("sizes", "|w| at the end of a round over |w| at the end of round 1: geometric means over networks, of weights that are kept; controls are watched so closely in round 2 alone", rows),
        Table("size_differences", "log|w| of the followed weight, first arm − second arm at matched masks, and the interval of typical values", differences),
        Table("size_difference_points", "the same in each network", each),
    ]  # fmt: skip
    caption = "The line is the geometric mean, a dot one network. The network of each round was trained under the mask that leaves so much."
    picture = charts.lines(
        "sizes", rows, points, "followed, times", "|w| over |w| after round 1", caption
    )
    remark = (
        "If survivors grow because others go, followed weights and controls grow alike, at either rate, as others go. Both were picked for their size after round 1, and fall back in any later training for that alone: "
        "random pruning shows by how much. That the quartiles of what remains rise from round to round (boxplots) only says that the small weights are gone."
    )
    return Section.of("growth", "Do survivors grow?", answer, tables, [picture], remark)


def _grown(study: Study, arm: Arm) -> dict[int, dict[str, tuple[float, list[float]]]]:
    """Round → network → log(|w| after that round / |w| after round 1) of the followed weight, and of its controls, while they are kept."""
    found: dict[int, dict[str, tuple[float, list[float]]]] = {}
    for run in study.units(arm).values():
        first, controls_first = study.at(run, 1, "value")
        for round_ in range(2, len(study.remaining(run)) + 1):
            now, controls = study.at(run, round_, "value")
            if first and now:
                both = [(controls_first[w], value) for w, value in controls.items() if value and controls_first.get(w)]
                others = [math.log(abs(after / before)) for before, after in both]
                found.setdefault(round_, {})[run] = (math.log(abs(now / first)), others)
    return found


def _log_size(study: Study, run: str, round_: int) -> float | None:
    value, _ = study.at(run, round_, "value")
    return math.log(abs(value)) if value else None


def gradient(study: Study) -> Section | None:
    """Does the weight see less gradient at the smaller rate?"""
    rows: list[Row] = []
    for arm in study.arms:
        for column, name in SEEN.items():
            seen = {run: study.at(run, 2, column) for run in study.units(arm).values() if study.own(run)}
            there = {run: (mine, others) for run, (mine, others) in seen.items() if mine is not None and others}
            if there:
                found = rank_test(there)
                rows.append({"arm": study.title(arm), "of": name, "networks": len(there), "followed, mean percentile": float(np.mean([mine for mine, _ in there.values()])),
                             "controls, mean percentile": float(np.mean([np.mean(list(others.values())) for _, others in there.values()])), "mean rank among controls": found.mean, "p": found.p})  # fmt: skip
    if not rows:
        return None
    contrasts: list[Row] = []
    answer = []
    for coarse, fine in rates(study):
        own = [row for column in ("gradient", "update") if (row := _sizes(study, coarse, fine, column))]
        ranked(own)
        contrasts += own
        if len(own) == 2 and own[0]["networks"] > 1:
            smaller = [row["p (Holm)"] < 0.05 and row["shift against controls"] < 0 for row in own]
            one = "gradient" if smaller[0] else "update"
            told = (
                "both are"
                if all(smaller)
                else f"only the {one} was found smaller"
                if any(smaller)
                else f"neither was found smaller ({powered(own)})"
            )
            shifts = "; ".join(
                f"{row['of']}: shift of the log ratio {row['shift against controls']:+.3f} {row['95 % interval']}, {p_value(row['p (Holm)'])}"
                for row in own
            )
            answer.append(
                f"If the weight saw less gradient at {study.title(fine)} than at {study.title(coarse)}, its gradient and its update in round 2 would both be smaller there, against its controls: {told} ({shifts})."
            )
    tables = [
        Table(
            "gradient",
            "percentiles within its matrix, averaged over the evaluations of round 2 and over networks: the followed weight and its controls",
            rows,
        ),
        Table(
            "gradient_contrast",
            "log of the absolute size in the second arm over that in the first, round 2: of the followed weight, and how far that stands from its controls'",
            contrasts,
        ),
    ]
    remark = "AdamW divides the gradient's scale away: a weight that sees less gradient need not move less, so the update is the honest one. Percentiles cannot show that everything became smaller; the log ratios can."
    return Section.of("gradient", "Does it see less gradient?", answer, tables, [charts.percentiles(rows)], remark)


def _sizes(study: Study, coarse: Arm, fine: Arm, column: str) -> Row | None:
    there: Values = {}
    for run, other in study.pairs(coarse, fine):
        (a, controls_a), (b, controls_b) = study.at(run, 2, column), study.at(other, 2, column)
        common = [w for w in controls_a if controls_b.get(w) and controls_a[w]]
        if a and b and common:
            there[run] = (math.log(b / a), {w: math.log(controls_b[w] / controls_a[w]) for w in common})
    if not there:
        return None
    found = rank_test(there)
    return {"first arm": study.title(coarse), "second arm": study.title(fine), "of": f"|{column}|", "networks": len(there), "log ratio": float(np.mean([mine for mine, _ in there.values()])),
            "shift against controls": found.shift, "95 % interval": interval(*found.interval), "p": found.p, "p (Holm)": None}  # fmt: skip


def matrices(study: Study) -> Section | None:
    """What each way of pruning leaves of the c_proj matrices, and of the followed weight."""
    rows: list[Row] = []
    points: list[Row] = []
    for arm in study.arms:
        units = list(study.units(arm).values())
        for prune, now in study.rows("fixed", units).groupby("round"):
            each = [100 * float(one["matrix_kept"].sum() / one["size"].sum()) for _, one in now.groupby("run")]
            left = study.left(now["run"], int(str(prune)))
            points += [{"arm": study.title(arm), "of all, %": left, "of c_proj, %": one} for one in each]
            sums = now.groupby("matrix", sort=False)[["matrix_kept", "size"]].sum()
            by_matrix = 100 * sums["matrix_kept"] / sums["size"]
            alive = [
                bool(table[table["round"] == prune]["alive"].iloc[0])
                for run in units
                if (table := study.kept(run))["round"].eq(prune).any()
            ]
            rows.append({"arm": study.title(arm), "prune": int(str(prune)), "of all, %": left, "networks": len(each), "of c_proj, %": float(np.mean(each)),
                         "least": min(each), "most": max(each), "of one matrix, least": float(by_matrix.min()), "of one, most": float(by_matrix.max()),
                         "followed kept": f"{sum(alive)} of {len(alive)}" if alive else None})  # fmt: skip
    if not rows:
        return None
    answer = []
    random = [
        row
        for row in rows
        if row["arm"]
        in {study.title(arm) for arm in study.arms if study.settings[arm.runs[0]]["criterion"] == "random"}
    ]
    if random:
        off = max(abs(row["of c_proj, %"] - row["of all, %"]) for row in random)
        answer.append(
            f"Random pruning keeps of c_proj what it keeps of all weights, to {off:.2f} points"
            + (", as it must." if off < 1 else ": too far off, something is wrong in the pruning.")
        )
    for arms in study.setups.values():
        answer += _ordered(study, arms, rows)
    remark = "GPT-2 initialises c_proj, which writes into the residual stream, smaller by √(2·layers), so a global threshold takes more of it from the start; a threshold for each tensor does not."
    table = Table(
        "matrices", "what remains of the c_proj matrices, by arm and prune: mean over networks, and its range", rows
    )
    label, caption = "c_proj weights remaining, %", "The line is the mean over networks, a dot one network."
    picture = charts.lines("c_proj", rows, points, "of c_proj, %", label, caption, x="of all, %")
    return Section.of("matrices", "Which initialisation and criterion keep c_proj?", answer, [table], [picture], remark)


def _ordered(study: Study, arms: list[Arm], rows: list[Row]) -> list[str]:
    """The arms of a set-up after their third prune at the rate that most of them have, and whether Xavier stands above all."""
    titles = {study.title(arm): arm for arm in arms}
    third = [row for row in rows if row["arm"] in titles and row["prune"] == 3]
    lefts = [round(row["of all, %"], 1) for row in third]
    third = sorted(
        (row for row in third if round(row["of all, %"], 1) == max(set(lefts), key=lefts.count)),
        key=lambda row: -row["of c_proj, %"],
    )
    if len(third) < 2:
        return []
    parts = [f"{row['of c_proj, %']:.1f} % under {row['arm']}" for row in third]
    told = [
        f"Of c_proj, after three prunes ({third[0]['of all, %']:.1f} % of all weights remaining), {listed(parts)} remain."
    ]
    xavier = [row for row in third if study.settings[titles[row["arm"]].runs[0]]["init"] == "xavier"]
    others = [row for row in third if row not in xavier]
    if xavier and others:
        above = min(row["least"] for row in xavier) > max(row["most"] for row in others)
        told.append("Xavier keeps more of c_proj than every other arm, in every network." if above else f"That only Xavier keeps it is not so: {max(others, key=lambda row: row['of c_proj, %'])['arm']} keeps at least as much of c_proj."
                    if max(row["of c_proj, %"] for row in others) >= max(row["of c_proj, %"] for row in xavier) else "Xavier keeps most of c_proj, but not in every network.")  # fmt: skip
    return told


def rewinding(study: Study) -> Section | None:
    """Does it matter where the weights go back to? The fall of the followed weight after round 2, against the plain arm."""
    rows: list[Row] = []
    points: list[Row] = []
    for arms, plains in zip(study.setups.values(), study.rates, strict=True):
        plain = {arm.rate: arm for arm in plains}
        own: list[Row] = []
        for arm in arms:
            base = plain.get(arm.rate)
            if base is None or not arm.name.partition(", ")[2].startswith("rewind") or arm.name.count(", ") > 1:
                continue
            there = falls(study, study.pairs(arm, base), 2, 2)
            if there:
                found = rank_test(there)
                own.append({"arm": study.title(arm), "against": study.title(base), "networks": len(there), "mean rank of d": found.mean, "shift of d": found.shift,
                            "95 % interval": interval(*found.interval), "p": found.p, "p (Holm)": None})  # fmt: skip
                points += [
                    {"arm": study.title(arm), "run": run, "rank of d": rank}
                    for run, rank in zip(there, found.by_network, strict=True)
                ]
        ranked(own)
        rows += own
    if not rows:
        return None
    answer = [
        f"{row['arm']} " + ("changes" if row["p (Holm)"] < 0.05 else "was not found to change") + " how near the followed weight comes to its fall, against its controls "
        f"(shift of d {row['shift of d']:+.3f} {row['95 % interval']}, {p_value(row['p (Holm)'])} by Holm, {row['networks']} networks" + ("" if row["p (Holm)"] < 0.05 else f"; {powered([row])}") + ")." for row in rows if row["networks"] > 1
    ]  # fmt: skip
    tables = [Table("rewinding", "d = log q(arm) − log q(plain arm) after round 2: the followed weight among its controls", rows),
              Table("rewinding_points", "the rank of d in each network", points)]  # fmt: skip
    remark = (
        "Without rewinding a network has trained r·T steps after round r: perplexities of the two are not comparable."
    )
    label = "rank of d among the controls' d, after round 2"
    picture = charts.strip("rewound", points, "rank of d", label, charts.CIRCLES, reference=0.5)
    return Section.of("rewinding", "Does rewinding matter?", answer, tables, [picture], remark)


def cost(study: Study) -> Section | None:
    """Perplexity against remaining weights."""
    rows: list[Row] = []
    each: list[Row] = []
    for arm in study.arms:
        for mask, now in study.rows("rounds", arm.runs).groupby("round"):
            found = now["val_perplexity"].dropna()
            if len(found):
                each += [{"arm": study.title(arm), "remaining, %": 100 * float(now["remaining_fraction"].mean()), "perplexity": float(one)} for one in found]  # fmt: skip
                rows.append({"arm": study.title(arm), "mask": int(str(mask)), "remaining, %": 100 * float(now["remaining_fraction"].mean()), "runs": len(found),
                             "perplexity": float(found.median()), "least": float(found.min()), "most": float(found.max())})  # fmt: skip
    if not rows:
        return None
    differences, points = paired(study, study.loss)
    answer = []
    if differences:
        told = [
            f"{row['difference']:+.4f} nat {row['95 % interval']} at {row['remaining, %']:.1f} %" for row in differences
        ]
        answer.append(f"Held-out loss at matched masks, larger rate − smaller rate: {listed(told)} remaining.")
    tables = [Table("perplexity", "validation perplexity of the network trained under each mask: median over runs, and the range", rows),
              Table("perplexity_differences", "held-out loss, first arm − second arm at matched masks, in nats, and the interval of typical values", differences),
              Table("perplexity_points", "the same in each network", points)]  # fmt: skip
    label, caption = "validation perplexity, log scale", "The line is the median over runs, a dot one run."
    costs = charts.lines("cost", rows, each, "perplexity", label, caption, log=True)
    label = "held-out loss, first arm − second arm, nat"
    apart = charts.strip("cost_differences", points, "difference", label, charts.APART, by="masks", reference=0)
    return Section.of("perplexity", "What does pruning cost?", answer, tables, [costs, apart])
