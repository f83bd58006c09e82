"""e and f. Pruning without magnitudes, rewinding, and what pruning costs."""

from __future__ import annotations

import numpy as np

from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, listed, p_value
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.ranks import family, powered, tested
from swlottery.report.page.rate import falls, in_words, paired


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
    short = []
    for arms in study.setups.values():
        third = _third(study, arms, rows)
        ordered, verdict = _ordered(third), _on_xavier(study, arms, third)
        short += verdict or ordered[-1:]
        answer += [*ordered, *verdict]
    remark = "GPT-2 initialises c_proj, which writes into the residual stream, smaller by √(2·layers), so a global threshold takes more of it from the start; a threshold for each tensor, and random pruning, keep its share by construction."
    table = Table(
        "matrices", "what remains of the c_proj matrices, by arm and prune: mean over networks, and its range", rows
    )
    label, caption = "c_proj weights remaining, %", "The line is the mean over networks, a dot one network."
    picture = charts.lines("c_proj", rows, points, "of c_proj, %", label, caption, x="of all, %")
    title = "Which initialisation and criterion keep c_proj?"
    return Section.of("matrices", title, answer, [table], [picture], remark, " ".join(short))


def _third(study: Study, arms: list[Arm], rows: list[Row]) -> list[Row]:
    """The arms of a set-up after their third prune, those that have pruned as much as most of them."""
    titles = {study.title(arm) for arm in arms}
    third = [row for row in rows if row["arm"] in titles and row["prune"] == 3]
    lefts = [round(row["of all, %"], 1) for row in third]
    return [row for row in third if round(row["of all, %"], 1) == max(set(lefts), key=lefts.count)]


def _ordered(third: list[Row]) -> list[str]:
    """What became of the followed weight and of c_proj in arms that are compared."""
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
    return told


def _on_xavier(study: Study, arms: list[Arm], third: list[Row]) -> list[str]:
    """Whether it takes Xavier to keep c_proj, and the followed weight."""
    settings = {study.title(arm): study.settings[arm.runs[0]] for arm in arms}
    xavier = [row for row in third if settings[row["arm"]]["init"] == "xavier"]
    others = [row for row in third if row not in xavier]
    if not xavier or not others:
        return []
    most, least = max(row["of c_proj, %"] for row in xavier), min(row["least"] for row in xavier)
    under = [row for row in others if settings[row["arm"]]["criterion"] == "global-magnitude"]
    if least > max(row["most"] for row in others):
        verdict = "Xavier keeps more of c_proj than every other arm, in every network."
    elif most > max(row["of c_proj, %"] for row in others):
        verdict = "Xavier keeps most of c_proj, but not in every network."
    else:
        known = max(others, key=lambda row: row["of c_proj, %"])["arm"]
        is_first = under and most > max(row["of c_proj, %"] for row in under)
        among = "; among arms with a global threshold it does keep most" if is_first else ""
        verdict = f"That only Xavier keeps c_proj is not so: {known} keeps at least as much{among}."
    without = [f"{row['followed kept']} networks under {row['arm']}" for row in under if row["followed kept"]]
    return [verdict, *(f"Without Xavier the followed weight was kept in {one}." for one in without[:1])]


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
    return Section.of(
        "rewinding", "Does rewinding matter?", answer, tables, [picture], remark, _rewinding_in_short(rows)
    )


def _rewinding_in_short(rows: list[Row]) -> str:
    judged = [row for row in rows if row["networks"] > 1]
    told = [row["arm"] for row in judged if row["p (Holm)"] < 0.05]
    if told:
        return f"{listed(told)} {'changes' if len(told) == 1 else 'change'} how near the followed weight comes to its fall."
    return f"Not shown: no change in how near the followed weight comes to its fall was found under {listed([row['arm'] for row in judged])}." if judged else ""  # fmt: skip


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
    answer, short = [], []
    for arm in study.rated:
        own = [row for row in rows if row["arm"] == study.title(arm)]
        if len(own) > 1:
            way = "falls" if own[-1]["perplexity"] < own[0]["perplexity"] else "rises"
            answer.append(f"At {study.title(arm)} perplexity {way} from {own[0]['perplexity']:.4g} to {own[-1]['perplexity']:.4g} as weights go, to {own[-1]['remaining, %']:.1f} % remaining.")  # fmt: skip
            short.append(f"{way} from {own[0]['perplexity']:.4g} to {own[-1]['perplexity']:.4g} at {study.title(arm)}")
    if differences:
        told = in_words(differences, 4, " nat")
        answer.append(f"Held-out loss at equal remaining weights, larger rate − smaller rate: {told}.")
    tables = [Table("perplexity", "validation perplexity of the network trained under each mask: median over runs, and the range", rows),
              Table("perplexity_differences", "held-out loss, first arm − second arm at equal remaining weights, in nats, and the interval of typical values", differences),
              Table("perplexity_points", "the same in each network", points)]  # fmt: skip
    label, caption = "validation perplexity, log scale", "The line is the median over runs, a dot one run."
    costs = charts.lines("cost", rows, each, "perplexity", label, caption, log=True)
    label = "held-out loss, first arm − second arm, nat"
    apart = charts.strip("cost_differences", points, "difference", label, charts.APART, by="at", reference=0)
    remark = "Every round trains again from where it rewinds to. In trainings so short that the loss still falls with every step, fewer weights can mean a lower loss; such networks say little of what pruning costs a trained one."
    brief = f"Held-out perplexity {listed(short)}." if short else ""
    return Section.of("perplexity", "What does pruning cost?", answer, tables, [costs, apart], remark, brief)
