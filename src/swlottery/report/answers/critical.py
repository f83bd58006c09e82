"""g. Super weights: at which sparsity they would fall, and what a ticket does without them."""

from __future__ import annotations

from swlottery.report import words
from swlottery.report.answers import charts
from swlottery.report.answers.arms import Arm, Study
from swlottery.report.answers.sections import Row, Section, Table, listed

FIVE_ROUNDS = 67.23
"""The sparsity, in percent, that five rounds at 20 % reach."""
MADE_UP = 0.05
"""A gap in held-out loss, in nats, that counts as none."""


def section(study: Study) -> Section | None:
    """Super weights: at which sparsity they would fall, and what a ticket does without them."""
    weights = study.facts["weights"]
    own = weights[weights["kind"] == "super_weight"]
    if own.empty:
        return None
    rows: list[Row] = []
    for (run, weight), rounds in own.groupby(["run", "weight"], sort=False):
        left = study.remaining(str(run))
        scope = float(study.rows("rounds", [str(run)])["remaining"].max())
        at = [
            100 * (1 - (1 - p / 100) * left[int(r) - 1])
            for r, p in zip(rounds["round"], rounds["percentile_remaining"], strict=True)
            if p == p and int(r) - 1 in left
        ]
        if at:
            rows.append({"run": str(run), "weight": str(weight), "falls at sparsity, % (after round 1)": at[0], "least over all rounds": min(at), "weights in scope larger than it then": round(scope * (1 - min(at) / 100)), "rounds": int(rounds["round"].max()),
                         "alive at the end": bool(rounds["alive"].iloc[-1])})  # fmt: skip
    least: dict[tuple[str, str], float] = {}
    for row in rows:
        one = (study.lineage[row["run"]], row["weight"])
        least[one] = min(least.get(one, 100.0), row["least over all rounds"])
    threatened = sorted(weight for (_, weight), sparsity in least.items() if sparsity < FIVE_ROUNDS)
    answer = [f"Of {words.count(len(least), 'super weight')} {listed(threatened) if threatened else 'none'} would fall to global magnitude pruning below a sparsity of {FIVE_ROUNDS} %, which five rounds at 20 % reach; "
              f"the first to fall would do so at {min(least.values()):.2f} %."] if least else []  # fmt: skip
    costs = [
        row
        for arms in study.setups.values()
        for arm in arms
        if "force-prune sw" in arm.name
        for row in _without(study, arm, arms)
    ]
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
    tables = [
        Table(
            "critical",
            "the sparsity at which each super weight would fall: in the network of round 1, and in the round in which it was least",
            rows,
        ),
        Table(
            "without",
            "held-out loss of the ticket under each mask, in nats: super weights left alone, pruned before the first step, and as many matched controls pruned instead",
            costs,
        ),
    ]
    picture = charts.strip(
        "falls", rows, "least over all rounds", "would fall at sparsity, %",
        "One circle a run; dashed: what five rounds at 20 % reach.", by="weight", reference=FIVE_ROUNDS,
    )  # fmt: skip
    remark = "All that the finder found, or its record holds; whether a model needs each of them, its record says. One network in several orders of the data is one network: no p-value is given."
    title = "Super weights: where they would fall, and life without them"
    return Section.of("critical", title, answer, tables, [picture], remark, leads=True)


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
        for row in study.rows("rounds", [run]).dropna(subset=["val_loss"]).itertuples():
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
