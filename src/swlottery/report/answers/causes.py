"""d to g. Growth and gradient, pruning without magnitudes, rewinding, weights that a model cannot do without; and what pruning costs."""

from __future__ import annotations

import math

import numpy as np

from swlottery import inference
from swlottery.report import words
from swlottery.report.answers import charts
from swlottery.report.answers.arms import Arm, Study
from swlottery.report.answers.ranks import Values, family, powered, rank_test, tested
from swlottery.report.answers.rate import falls, paired, rates
from swlottery.report.answers.sections import Row, Section, Table, interval, listed, p_value


def growth(study: Study) -> Section | None:
    """Do survivors grow as others go? |w| at the end of each round over |w| after round 1, of followed weights and controls."""
    rows: list[Row] = []
    points: list[Row] = []
    against: list[Row] = []
    answer = []
    for arm in study.arms:
        own = [(_grown_row(study, arm, *one), one[1]) for one in sorted(_grown(study, arm).items())]
        rows += [row for row, _ in own]
        points += [
            {"arm": row["arm"], "remaining, %": row["remaining, %"], "followed, times": math.exp(mine)}
            for row, there in own
            for mine, _ in there.values()
        ]
        against += _against_random(study, arm)
        if arm in study.rated and own:
            answer.append(_grown_sentence(study, arm, own, against))
    if not rows:
        return None
    differences, each = paired(study, lambda run, mask: _log_size(study, run, mask + 1))
    if differences:
        told = listed(
            [f"{row['difference']:+.3f} {row['95 % interval']} at {row['remaining, %']:.1f} %" for row in differences]
        )
        answer.append(f"At equal remaining weights its log|w| at the larger rate − that at the smaller is {told}.")
    tables = [
        Table("sizes", "|w| at the end of a round over |w| at the end of round 1: geometric means over networks, of weights that are kept; controls are watched so closely in round 2 alone", rows),
        Table("sizes_against_random", "log|w| at the end of a round − the same under random pruning of as many weights, in networks that kept the weight under both, and the interval of typical values", against),
        Table("size_differences", "log|w| of the followed weight, first arm − second arm at equal remaining weights, and the interval of typical values", differences),
        Table("size_difference_points", "the same in each network", each),
    ]  # fmt: skip
    caption = "The line is the geometric mean, a dot one network. The network of each round was trained under the mask that leaves so much."
    picture = charts.lines("sizes", rows, points, "followed, times", "|w| over |w| after round 1", caption)
    remark = (
        "If survivors grew because others go, followed weights and controls would grow alike, at either rate, as others go. Both were picked for their size after round 1, and fall back in any later training for that "
        "alone; random pruning of as many weights is training with that and without the choice by size. That the quartiles of what remains rise from round to round (boxplots) only says that the small weights are gone."
    )
    return Section.of("growth", "Do survivors grow?", answer, tables, [picture], remark, leads=len(study.rated))


Grown = dict[str, tuple[float, list[float]]]
"""Of each network (its run) log(|w| after a round / |w| after round 1) of the followed weight, and of its controls, while they are kept."""


def _grown(study: Study, arm: Arm) -> dict[int, Grown]:
    """By round."""
    found: dict[int, Grown] = {}
    for run in study.units(arm).values():
        first, controls_first = study.at(run, 1, "value")
        for round_ in range(2, len(study.remaining(run)) + 1):
            now, controls = study.at(run, round_, "value")
            if first and now:
                both = [(controls_first[w], value) for w, value in controls.items() if value and controls_first.get(w)]
                others = [math.log(abs(after / before)) for before, after in both]
                found.setdefault(round_, {})[run] = (math.log(abs(now / first)), others)
    return found


def _grown_row(study: Study, arm: Arm, round_: int, there: Grown) -> Row:
    followed = np.array([mine for mine, _ in there.values()])
    controls = [float(np.mean(others)) for _, others in there.values() if others]
    return {"arm": study.title(arm), "round": round_, "remaining, %": study.left(there, round_ - 1), "networks": len(there), "followed, times": math.exp(followed.mean()),
            "least": math.exp(followed.min()), "most": math.exp(followed.max()), "controls, times": math.exp(np.mean(controls)) if controls else None}  # fmt: skip


def _grown_sentence(study: Study, arm: Arm, own: list[tuple[Row, Grown]], against: list[Row]) -> str:
    (second, at_second), (last, at_last) = own[0], own[-1]
    way = (
        "grows" if last["least"] > 1 else "shrinks" if last["most"] < 1 else "grows in some networks and not in others"
    )
    text = (f"At {study.title(arm)}, a followed weight that is kept {way}: at {last['remaining, %']:.1f} % remaining it is {last['followed, times']:.2f} times its size after round 1 "
            f"({last['least']:.2f} to {last['most']:.2f}, {words.count(last['networks'], 'network')})")  # fmt: skip
    if second["controls, times"] is not None:
        text += f"; at {second['remaining, %']:.1f} % {second['followed, times']:.2f} times, and its controls {second['controls, times']:.2f} times"
    both = [at_last[run][0] - at_second[run][0] for run in at_last if run in at_second]
    if len(own) > 1 and len(both) > 1:
        text += f"; from there to the end {math.exp(np.mean(both)):.2f} times {_factor(both)}"
    compared = [row for row in against if row["arm"] == study.title(arm)]
    if compared:
        row = compared[-1]
        text += f"; at {row['remaining, %']:.1f} % {math.exp(row['difference']):.2f} times its size under random pruning ({words.count(row['networks'], 'network')})"
    return text + "."


def _against_random(study: Study, arm: Arm) -> list[Row]:
    """An arm by global magnitude against the one of its set-up and rate that prunes at random."""
    if not arm.plain:
        return []
    rows: list[Row] = []
    for other in study.setups[arm.setup]:
        if other.rate == arm.rate and other.name.endswith(", random") and other.name.count(", ") == 1:
            pairs = study.pairs(arm, other)
            for round_ in range(2, 1 + max((len(study.remaining(run)) for run, _ in pairs), default=0)):
                sizes = {run: (_log_size(study, run, round_), _log_size(study, twin, round_)) for run, twin in pairs}
                each = {
                    run: mine - theirs
                    for run, (mine, theirs) in sizes.items()
                    if mine is not None and theirs is not None
                }
                if len(each) > 1:
                    rows.append({"arm": study.title(arm), "round": round_, "remaining, %": study.left(each, round_ - 1), "networks": len(each),
                                 "difference": float(np.mean(list(each.values()))), "95 % interval": interval(*inference.typical_values(list(each.values())))})  # fmt: skip
    return rows


def _log_size(study: Study, run: str, round_: int) -> float | None:
    value, _ = study.at(run, round_, "value")
    return math.log(abs(value)) if value else None


SEEN = {"gradient_percentile": "|gradient|", "moment_percentile": "second moment", "update_percentile": "update"}


def gradient(study: Study) -> Section | None:
    """Does the weight see less gradient at the smaller rate?"""
    rows: list[Row] = []
    points: list[Row] = []
    for arm in study.arms:
        for column, name in SEEN.items():
            seen = {run: study.at(run, 2, column) for run in study.units(arm).values() if study.own(run)}
            there = {run: (mine, others) for run, (mine, others) in seen.items() if mine is not None and others}
            if there:
                each = [{"arm": study.title(arm), "of": name, "run": run, "followed, percentile": mine, "controls, mean percentile": float(np.mean(list(others.values())))}
                        for run, (mine, others) in there.items()]  # fmt: skip
                points += each
                rows.append({"arm": study.title(arm), "of": name, "networks": len(there), "followed, mean percentile": float(np.mean([one["followed, percentile"] for one in each])),
                             "controls, mean percentile": float(np.mean([one["controls, mean percentile"] for one in each])), "mean rank among controls": rank_test(there).mean})  # fmt: skip
    if not rows:
        return None
    contrasts: list[Row] = []
    contrast_points: list[Row] = []
    answer = []
    for coarse, fine in rates(study):
        tests = [found for column in ("gradient", "update") if (found := _sizes(study, coarse, fine, column))]
        own = [row for row, _ in tests]
        family(own)
        contrasts += own
        contrast_points += [point for _, each in tests for point in each]
        if len(own) == 2 and own[0]["networks"] > 1:
            answer += _seen_sentences(study, coarse, fine, own)
    alone, each = paired(study, lambda run, mask: _log_gradient(study, run, mask + 1))
    if alone:
        told = listed(
            [f"{row['difference']:+.2f} {row['95 % interval']} at {row['remaining, %']:.1f} %" for row in alone]
        )
        answer.append(
            f"At equal remaining weights, log|gradient| of the followed weight at the larger rate − that at the smaller is {told}."
        )
    tables = [
        Table("gradient", "percentiles within its matrix, averaged over the evaluations of round 2 and over networks: the followed weight and its controls", rows),
        Table("gradient_points", "the same in each network", points),
        Table("gradient_contrast", "log of the absolute size in the second arm over that in the first, round 2: of the followed weight, of its controls, and how far the one stands from the others", contrasts),
        Table("gradient_contrast_points", "its rank among its controls in each network", contrast_points),
        Table("gradient_differences", "log|gradient| of the followed weight, first arm − second arm at equal remaining weights, and the interval of typical values", alone),
        Table("gradient_difference_points", "the same in each network", each),
    ]  # fmt: skip
    remark = (
        "Round 2 is the first that is trained after a prune: the arms are compared there at equal rounds, where the smaller rate leaves more. AdamW divides the gradient's scale away: a weight that sees less gradient need not move less, "
        "so the update is the honest one. Percentiles cannot show that everything became smaller; the log ratios can. A leader is picked by |w|·x, and x is a factor of its gradient: that it sees more gradient than its controls is by selection."
    )
    pictures = [charts.percentiles(rows, points)]
    return Section.of("gradient", "Does it see less gradient?", answer, tables, pictures, remark, leads=1)


def _seen_sentences(study: Study, coarse: Arm, fine: Arm, own: list[Row]) -> list[str]:
    """What happens to weights of this size, and whether the followed one differs from them."""
    pairs = study.pairs(coarse, fine)
    left = [study.left([pair[n] for pair in pairs], 1) for n in (0, 1)]
    ordinary, followed = (
        " and ".join(f"{math.exp(row[log]):.2f} times the {row['of']} {row[factor]}" for row in own)
        for log, factor in (("controls, log ratio", "controls, factor"), ("log ratio", "factor"))
    )
    ways = [
        f"its {row['of']} is {'smaller' if row['shift'] < 0 else 'larger'}" for row in own if row["p (Holm)"] < 0.05
    ]
    told = listed(ways) if ways else f"no difference was found; {powered(own)}"
    stands = all(row["p (Holm)"] < 0.05 and row["shift"] < 0 for row in own)
    guess = "as the guess has it" if stands else "the guess needs both to be smaller, and is not shown"
    return [
        f"In round 2, {study.title(fine)} (trained at {left[1]:.0f} % remaining) against {study.title(coarse)} (at {left[0]:.0f} %): ordinary weights as large as the followed one have {ordinary}, the followed weight {followed}.",
        f"Of the followed weight against these controls, at {study.title(fine)}, {told}; {guess}.",
    ]


def _sizes(study: Study, coarse: Arm, fine: Arm, column: str) -> tuple[Row, list[Row]] | None:
    there: Values = {}
    for run, other in study.pairs(coarse, fine):
        (a, controls_a), (b, controls_b) = study.at(run, 2, column), study.at(other, 2, column)
        common = [w for w in controls_a if controls_b.get(w) and controls_a[w]]
        if a and b and common:
            there[run] = (math.log(b / a), {w: math.log(controls_b[w] / controls_a[w]) for w in common})
    if not there:
        return None
    mine = [one for one, _ in there.values()]
    theirs = [float(np.mean(list(others.values()))) for _, others in there.values()]
    where = {"first arm": study.title(coarse), "second arm": study.title(fine), "of": f"|{column}|"}
    row, points = tested(there, where)
    more = {"log ratio": float(np.mean(mine)), "factor": _factor(mine), "controls, log ratio": float(np.mean(theirs)), "controls, factor": _factor(theirs)}  # fmt: skip
    return row | more, points


def _factor(logs: list[float]) -> str:
    return interval(*np.exp(inference.typical_values(logs)))


def _log_gradient(study: Study, run: str, round_: int) -> float | None:
    value, _ = study.at(run, round_, "gradient")
    return math.log(value) if value else None


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
    remark = "GPT-2 initialises c_proj, which writes into the residual stream, smaller by √(2·layers), so a global threshold takes more of it from the start; a threshold for each tensor, and random pruning, keep its share by construction."
    table = Table(
        "matrices", "what remains of the c_proj matrices, by arm and prune: mean over networks, and its range", rows
    )
    label, caption = "c_proj weights remaining, %", "The line is the mean over networks, a dot one network."
    picture = charts.lines("c_proj", rows, points, "of c_proj, %", label, caption, x="of all, %")
    return Section.of("matrices", "Which initialisation and criterion keep c_proj?", answer, [table], [picture], remark)


def _ordered(study: Study, arms: list[Arm], rows: list[Row]) -> list[str]:
    """The arms of a set-up after their third prune at the rate that most of them have: the followed weight, c_proj, and whether it takes Xavier."""
    titles = {study.title(arm): arm for arm in arms}
    third = [row for row in rows if row["arm"] in titles and row["prune"] == 3]
    lefts = [round(row["of all, %"], 1) for row in third]
    third = [row for row in third if round(row["of all, %"], 1) == max(set(lefts), key=lefts.count)]
    if len(third) < 2:
        return []
    told = []
    followed = [f"{row['followed kept']} networks under {row['arm']}" for row in third if row["followed kept"]]
    if followed:
        told.append(f"After three prunes ({third[0]['of all, %']:.1f} % of all weights remaining) the followed weight was kept in {listed(followed)}.")  # fmt: skip
    parts = [
        f"{row['of c_proj, %']:.1f} % under {row['arm']}" for row in sorted(third, key=lambda row: -row["of c_proj, %"])
    ]
    told.append(f"Of c_proj, {listed(parts)} remain.")
    settings = {row["arm"]: study.settings[titles[row["arm"]].runs[0]] for row in third}
    xavier = [row for row in third if settings[row["arm"]]["init"] == "xavier"]
    others = [row for row in third if row not in xavier]
    if xavier and others:
        most, least = max(row["of c_proj, %"] for row in xavier), min(row["least"] for row in xavier)
        under = [row for row in others if settings[row["arm"]]["criterion"] == "global-magnitude"]
        if least > max(row["most"] for row in others):
            told.append("Xavier keeps more of c_proj than every other arm, in every network.")
        elif most <= max(row["of c_proj, %"] for row in others):
            known = max(others, key=lambda row: row["of c_proj, %"])["arm"]
            among = (
                "; among arms with a global threshold it does keep most"
                if under and most > max(row["of c_proj, %"] for row in under)
                else ""
            )
            told.append(f"That only Xavier keeps c_proj is not so: {known} keeps at least as much{among}.")
        else:
            told.append("Xavier keeps most of c_proj, but not in every network.")
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
                row, each = tested(there, {"arm": study.title(arm), "against": study.title(base)}, " of d")
                own.append(row)
                points += each
        family(own)
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
    for arm in study.rated:
        own = [row for row in rows if row["arm"] == study.title(arm)]
        if len(own) > 1:
            way = "falls" if own[-1]["perplexity"] < own[0]["perplexity"] else "rises"
            answer.append(f"At {study.title(arm)} perplexity {way} from {own[0]['perplexity']:.4g} to {own[-1]['perplexity']:.4g} as weights go, to {own[-1]['remaining, %']:.1f} % remaining.")  # fmt: skip
    if differences:
        told = [
            f"{row['difference']:+.4f} nat {row['95 % interval']} at {row['remaining, %']:.1f} %" for row in differences
        ]
        answer.append(
            f"Held-out loss at equal remaining weights, larger rate − smaller rate: {listed(told)} (each interval for itself)."
        )
    tables = [Table("perplexity", "validation perplexity of the network trained under each mask: median over runs, and the range", rows),
              Table("perplexity_differences", "held-out loss, first arm − second arm at equal remaining weights, in nats, and the interval of typical values", differences),
              Table("perplexity_points", "the same in each network", points)]  # fmt: skip
    label, caption = "validation perplexity, log scale", "The line is the median over runs, a dot one run."
    costs = charts.lines("cost", rows, each, "perplexity", label, caption, log=True)
    label = "held-out loss, first arm − second arm, nat"
    apart = charts.strip("cost_differences", points, "difference", label, charts.APART, by="at", reference=0)
    remark = "Every round trains again from where it rewinds to. In trainings so short that the loss still falls with every step, fewer weights can mean a lower loss; such networks say little of what pruning costs a trained one."
    return Section.of("perplexity", "What does pruning cost?", answer, tables, [costs, apart], remark)
