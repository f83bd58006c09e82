"""d to g. The gradient, pruning without magnitudes, rewinding, weights that a model cannot do without; and what pruning costs."""

from __future__ import annotations

import math

import numpy as np

from swlottery import inference
from swlottery.report import words
from swlottery.report.answers.arms import Arm, Study
from swlottery.report.answers.kept import falls, paired, rates
from swlottery.report.answers.sections import Row, Section, Table, corrected, interval, listed, p_value

SEEN = {"gradient_percentile": "|gradient|", "moment_percentile": "second moment", "update_percentile": "update"}
FIVE_ROUNDS = 67.23
"""The sparsity, in percent, that five rounds at 20 % reach."""
MADE_UP = 0.05
"""A gap in held-out loss, in nats, that counts as none."""


def gradient(study: Study) -> Section | None:
    """Does the weight see less gradient at the smaller rate?"""
    rows: list[Row] = []
    for arm in study.arms:
        for column, name in SEEN.items():
            seen = [study.at(run, 2, column) for run in study.units(arm).values() if study.own(run)]
            there = [(mine, list(others.values())) for mine, others in seen if mine is not None and others]
            if there:
                found = inference.rank_test([mine for mine, _ in there], [others for _, others in there])
                rows.append({"arm": study.title(arm), "of": name, "networks": len(there), "followed, mean percentile": float(np.mean([mine for mine, _ in there])),
                             "controls, mean percentile": float(np.mean([np.mean(others) for _, others in there])), "mean rank among controls": found.mean, "p": found.p})  # fmt: skip
    if not rows:
        return None
    contrasts: list[Row] = []
    answer = []
    for coarse, fine in rates(study):
        own = [row for column in ("gradient", "update") if (row := _sizes(study, coarse, fine, column))]
        corrected(own)
        contrasts += own
        if len(own) == 2 and own[0]["networks"] > 1:
            smaller = [row["p (Holm)"] < 0.05 and row["shift against controls"] < 0 for row in own]
            one = "gradient" if smaller[0] else "update"
            told = (
                "both are"
                if all(smaller)
                else f"only the {one} was found smaller"
                if any(smaller)
                else "neither was found smaller"
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
        )
    ]
    if contrasts:
        tables.append(
            Table(
                "gradient_contrast",
                "log of the absolute size in the second arm over that in the first, round 2: of the followed weight, and how far that stands from its controls'",
                contrasts,
            )
        )
    remark = "AdamW divides the gradient's scale away: a weight that sees less gradient need not move less, so the update is the honest one. Percentiles cannot show that everything became smaller; the log ratios can."
    return Section("gradient", "Does it see less gradient?", answer, tables, remark=remark)


def _sizes(study: Study, coarse: Arm, fine: Arm, column: str) -> Row | None:
    own, others = [], []
    for run, other in study.pairs(coarse, fine):
        (a, controls_a), (b, controls_b) = study.at(run, 2, column), study.at(other, 2, column)
        common = [w for w in controls_a if controls_b.get(w) and controls_a[w]]
        if a and b and common:
            own.append(math.log(b / a))
            others.append([math.log(controls_b[w] / controls_a[w]) for w in common])
    if not own:
        return None
    found = inference.rank_test(own, others)
    return {"first arm": study.title(coarse), "second arm": study.title(fine), "of": f"|{column}|", "networks": len(own), "log ratio": float(np.mean(own)),
            "shift against controls": found.shift, "95 % interval": interval(*found.interval), "p": found.p, "p (Holm)": None}  # fmt: skip


def matrices(study: Study) -> Section | None:
    """What each way of pruning leaves of the c_proj matrices, and of the followed weight."""
    facts = study.facts["fixed"]
    rows: list[Row] = []
    for arm in study.arms:
        units = list(study.units(arm).values())
        for prune, now in facts[facts["run"].isin(units)].groupby("round"):
            each = [100 * float(one["matrix_kept"].sum() / one["size"].sum()) for _, one in now.groupby("run")]
            sums = now.groupby("matrix", sort=False)[["matrix_kept", "size"]].sum()
            by_matrix = 100 * sums["matrix_kept"] / sums["size"]
            alive = [
                bool(table[table["round"] == prune]["alive"].iloc[0])
                for run in units
                if (table := study.kept(run))["round"].eq(prune).any()
            ]
            rows.append({"arm": study.title(arm), "prune": int(str(prune)), "of all, %": study.left(now["run"], int(str(prune))), "networks": len(each), "of c_proj, %": float(np.mean(each)),
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
    return Section("matrices", "Which initialisation and criterion keep c_proj?", answer, [table], remark=remark)


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
                found = inference.rank_test(
                    [mine for mine, _ in there.values()], [list(controls.values()) for _, controls in there.values()]
                )
                own.append({"arm": study.title(arm), "against": study.title(base), "networks": len(there), "mean rank of d": found.mean, "shift of d": found.shift,
                            "95 % interval": interval(*found.interval), "p": found.p, "p (Holm)": None})  # fmt: skip
                points += [
                    {"arm": study.title(arm), "run": run, "rank of d": rank}
                    for run, rank in zip(there, found.by_network, strict=True)
                ]
        corrected(own)
        rows += own
    if not rows:
        return None
    answer = [
        f"{row['arm']} " + ("changes" if row["p (Holm)"] < 0.05 else "shows no effect on") + " how near the followed weight comes to its fall, against its controls "
        f"(shift of d {row['shift of d']:+.3f} {row['95 % interval']}, {p_value(row['p (Holm)'])} by Holm, {row['networks']} networks)." for row in rows if row["networks"] > 1
    ]  # fmt: skip
    tables = [Table("rewinding", "d = log q(arm) − log q(plain arm) after round 2: the followed weight among its controls", rows),
              Table("rewinding_points", "the rank of d in each network", points)]  # fmt: skip
    remark = (
        "Without rewinding a network has trained r·T steps after round r: perplexities of the two are not comparable."
    )
    return Section("rewinding", "Does rewinding matter?", answer, tables, remark=remark)


def critical(study: Study) -> Section | None:
    """Super weights: at which sparsity they would fall, and what a ticket does without them."""
    weights = study.facts["weights"]
    own = weights[weights["kind"] == "super_weight"]
    if own.empty:
        return None
    rows: list[Row] = []
    for (run, weight), rounds in own.groupby(["run", "weight"], sort=False):
        left = study.remaining(str(run))
        at = [
            100 * (1 - (1 - p / 100) * left[int(r) - 1])
            for r, p in zip(rounds["round"], rounds["percentile_remaining"], strict=True)
            if p == p and int(r) - 1 in left
        ]
        if at:
            rows.append({"run": str(run), "weight": str(weight), "falls at sparsity, % (after round 1)": at[0], "least over all rounds": min(at), "rounds": int(rounds["round"].max()),
                         "alive at the end": bool(rounds["alive"].iloc[-1])})  # fmt: skip
    least: dict[tuple[str, str], float] = {}
    for row in rows:
        one = (study.lineage[row["run"]], row["weight"])
        least[one] = min(least.get(one, 100.0), row["least over all rounds"])
    threatened = sorted(weight for (_, weight), sparsity in least.items() if sparsity < FIVE_ROUNDS)
    answer = [f"Of {words.count(len(least), 'super weight')} {listed(threatened) if threatened else 'none'} would fall to global magnitude pruning below a sparsity of {FIVE_ROUNDS} %, which five rounds at 20 % reach; "
              f"the first to fall would do so at {min(least.values()):.2f} %."] if least else []  # fmt: skip
    tables = (
        [
            Table(
                "critical",
                "the sparsity at which each super weight would fall: in the network of round 1, and in the round in which it was least",
                rows,
            )
        ]
        if rows
        else []
    )
    costs = [
        row
        for arms in study.setups.values()
        for arm in arms
        if "force-prune sw" in arm.name
        for row in _without(study, arm, arms)
    ]
    if costs:
        tables.append(
            Table(
                "without",
                "held-out loss of the ticket under each mask, in nats: super weights left alone, pruned before the first step, and as many matched controls pruned instead",
                costs,
            )
        )
        ends = [
            row["gap to controls"]
            for row in costs
            if row["gap to controls"] is not None
            and study.state[row["run"]] == "finished"
            and row["mask"] == max(study.remaining(row["run"]))
        ]
        if ends:
            told = (
                "training makes up for them"
                if max(ends) <= MADE_UP
                else "training does not make up for them in this many steps"
            )
            answer.append(
                f"Pruned before the first step, the super weights cost {min(ends):+.3f} to {max(ends):+.3f} nat at the final ticket, over as many controls pruned instead ({words.count(len(ends), 'run')}): {told}."
            )
    remark = "All that the finder found, or its record holds; whether a model needs each of them, its record says. One network in several orders of the data is one network: no p-value is given."
    return Section(
        "critical",
        "Super weights: where they would fall, and life without them",
        answer,
        tables,
        remark=remark,
        leads=True,
    )


def _without(study: Study, forced: Arm, arms: list[Arm]) -> list[Row]:
    """Runs that differ in what is pruned first, mask by mask."""
    named = {arm.name: arm for arm in arms}
    alone, controls = (
        named.get(forced.name.replace(", force-prune sw", "")),
        named.get(forced.name.replace("force-prune sw", "force-prune controls")),
    )
    rows: list[Row] = []
    for run in forced.runs:
        twin, instead = (_like(study, arm, run) for arm in (alone, controls))
        for row in study.rounds(run).dropna(subset=["val_loss"]).itertuples():
            other = study.loss(instead, int(row.round))
            rows.append({"run": run, "mask": int(row.round), "remaining, %": 100 * float(row.remaining_fraction), "left alone": study.loss(twin, int(row.round)),
                         "super weights pruned first": float(row.val_loss), "controls pruned first": other, "gap to controls": None if other is None else float(row.val_loss) - other})  # fmt: skip
    return rows


def _like(study: Study, arm: Arm | None, run: str) -> str | None:
    """The run of an arm with the seeds of this one."""
    seeds = [study.settings[run][key] for key in ("seed", "data_seed")]
    return next(
        (
            one
            for one in (arm.runs if arm else ())
            if [study.settings[one][key] for key in ("seed", "data_seed")] == seeds
        ),
        None,
    )


def cost(study: Study) -> Section | None:
    """Perplexity against remaining weights."""
    facts = study.facts["rounds"]
    rows: list[Row] = []
    for arm in study.arms:
        for mask, now in facts[facts["run"].isin(arm.runs)].groupby("round"):
            found = now["val_perplexity"].dropna()
            if len(found):
                rows.append({"arm": study.title(arm), "mask": int(str(mask)), "remaining, %": 100 * float(now["remaining_fraction"].mean()), "runs": len(found),
                             "perplexity": float(found.median()), "least": float(found.min()), "most": float(found.max())})  # fmt: skip
    if not rows:
        return None
    differences = paired(study, study.loss)
    answer = []
    if differences:
        told = [
            f"{row['difference']:+.4f} nat {row['95 % interval']} at {row['remaining, %']:.1f} %" for row in differences
        ]
        answer.append(f"Held-out loss at matched masks, larger rate − smaller rate: {listed(told)} remaining.")
    tables = [Table("perplexity", "validation perplexity of the network trained under each mask: median over runs, and the range", rows),
              Table("perplexity_differences", "held-out loss, first arm − second arm at matched masks, in nats, and the interval of typical values", differences)]  # fmt: skip
    return Section("perplexity", "What does pruning cost?", answer, [table for table in tables if table.rows])
