"""g. Super weights: at which sparsity they would fall, and what a ticket does without them."""

from __future__ import annotations

from swlottery.report import words
from swlottery.report.page import charts
from swlottery.report.page.answer import Row, Section, Table, listed, span
from swlottery.report.page.arms import Arm, Study

FIVE_ROUNDS = 67.23
"""The sparsity, in percent, that five rounds at 20 % reach."""
MADE_UP = 0.05
"""A gap in held-out loss, in nats, that counts as none."""


def section(study: Study) -> Section | None:
    """Super weights: at which sparsity they would fall, and what a ticket does without them."""
    rows = _falls(study)
    if not rows:
        return None
    costs = [
        row
        for arms in study.setups.values()
        for arm in arms
        if "force-prune sw" in arm.name
        for row in _without(study, arm, arms)
    ]
    found = _found_last(study) if costs else []
    threatened, damage, missed = _threatened(study, rows), _damage(costs), _missed(study, costs)
    answer = [threatened, *damage, *missed, *_afterwards(found)]
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
        Table("found_last", "what the finder found in the last network that each run has trained", found),
    ]
    picture = charts.strip(
        "falls", rows, "least over all rounds", "would fall at sparsity, %",
        "One circle a run; dashed: what five rounds at 20 % reach.", by="weight", reference=FIVE_ROUNDS,
    )  # fmt: skip
    lines, points = _ways(costs)
    losses = charts.lines(
        "without", lines, points, "loss", "held-out loss, nat", "The line is the mean over runs, a dot one run."
    )
    remark = (
        "All that the finder found, or its record holds; whether a model needs each of them, its record says. One network in several orders of the data is one network: no p-value is given. Damage: the loss at the first step of a "
        "round over that of the network left alone; recovered: how much of it the round's training makes up for."
    )
    title = "Super weights: where they would fall, and life without them"
    return Section.of(
        "critical", title, answer, tables, [picture, losses], remark, short=" ".join([threatened, *missed])
    )


def _ways(costs: list[Row]) -> tuple[list[Row], list[Row]]:
    """The same losses as lines of a figure: the mean of each way under each mask, and each run's."""
    points = [
        {"arm": way, "remaining, %": row["remaining, %"], "loss": row[way], "mask": row["mask"]}
        for way in ("left alone", "super weights pruned first", "controls pruned first")
        for row in costs
        if row[way] is not None
    ]
    groups: dict[tuple[str, int], list[Row]] = {}
    for one in points:
        groups.setdefault((one["arm"], one["mask"]), []).append(one)
    lines = [{**group[0], "loss": sum(one["loss"] for one in group) / len(group)} for group in groups.values()]
    return lines, points


def _falls(study: Study) -> list[Row]:
    """Each super weight of each run, and what would have to go before it."""
    weights = study.facts["weights"]
    rows: list[Row] = []
    for (run, weight), rounds in weights[weights["kind"] == "super_weight"].groupby(["run", "weight"], sort=False):
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
    return rows


def _threatened(study: Study, rows: list[Row]) -> str:
    least: dict[tuple[str, str], float] = {}
    for row in rows:
        one = (study.lineage[row["run"]], row["weight"])
        least[one] = min(least.get(one, 100.0), row["least over all rounds"])
    threatened = sorted(weight for (_, weight), sparsity in least.items() if sparsity < FIVE_ROUNDS)
    return (f"Of {words.count(len(least), 'super weight')} {listed(threatened) if threatened else 'none'} would fall to global magnitude pruning below a sparsity of {FIVE_ROUNDS} %, which five rounds at 20 % reach; "
            f"the first to fall would do so at {min(least.values()):.2f} %.")  # fmt: skip


def _damage(costs: list[Row]) -> list[str]:
    """What the first training makes up for."""
    first = [row for row in costs if row["mask"] == 0 and row["recovered, %"] is not None]
    if not first:
        return []
    low, high = (pick(row["recovered, %"] for row in first) for pick in (min, max))
    worst, mildest = (pick(row["damage before training"] for row in first) for pick in (max, min))
    return [
        f"Taken out of the network before the first step, they raise the loss by {span(mildest, worst, '.2f')} nat; the first training makes up for {span(low, high, '.0f')} % of that."
    ]


def _missed(study: Study, costs: list[Row]) -> list[str]:
    """What the final ticket lacks without them."""
    ends = [
        row["gap to controls"]
        for row in costs
        if row["gap to controls"] is not None
        and study.state[row["run"]] == "finished"
        and row["mask"] == max(study.remaining(row["run"]))
    ]
    if not ends:
        return []
    verdict = "makes up for them" if max(ends) <= MADE_UP else "does not make up for them in this many steps"
    return [
        f"Pruned first, they cost the final ticket {span(min(ends), max(ends), '+.3f')} nat over as many controls pruned instead ({words.count(len(ends), 'run')}): training {verdict}."
    ]


def _afterwards(found: list[Row]) -> list[str]:
    """What takes the place of super weights that were pruned first, if anything does."""
    forced = [
        row["found"].split("; ") for row in found if "force-prune sw" in row["arm"] and row["kind"] == "super weight"
    ]
    without = sum("force-prune sw" in row["arm"] for row in found)
    other = {weight for row in found if "force-prune sw" not in row["arm"] for weight in row["found"].split("; ")}
    if not without:
        return []
    if not forced:
        return [
            f"Where they were pruned first, the finder found no super weight in the last network ({words.count(without, 'run')})."
        ]
    new = {weight for weights in forced for weight in weights} - other
    numbers = [len(weights) for weights in forced]
    return [f"Where they were pruned first, the finder still found {span(min(numbers), max(numbers), 'd')} weight{'s' * (max(numbers) > 1)} in the last network of {len(forced)} of {words.count(without, 'run')}; "
            + (f"{words.count(len(new), 'weight')} of these it found in no last network that was not pruned so." if new else "all of these are found in the last networks that were not pruned so too: no sign that others took their place.")]  # fmt: skip


def _found_last(study: Study) -> list[Row]:
    rows = []
    for arm in study.arms:
        for run in arm.runs:
            found = study.rows("found", [run])
            if len(found):
                last = found.iloc[-1]
                kind = str(last["kind"]).replace("_", " ")
                rows.append({"arm": study.title(arm), "run": run, "round": int(last["round"]), "kind": kind, "found": last["weights"], "kept": last["kept"], "lost": last["lost"]})  # fmt: skip
    return rows


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
            alone_now, alone_begun = (study.loss(twin, int(row.round), column) for column in ("val_loss", "start_loss"))
            damage = None if alone_begun is None or row.start_loss != row.start_loss else row.start_loss - alone_begun
            left = None if alone_now is None else row.val_loss - alone_now
            rows.append({"run": run, "mask": int(row.round), "remaining, %": 100 * float(row.remaining_fraction), "left alone": alone_now,
                         "super weights pruned first": float(row.val_loss), "controls pruned first": other, "gap to controls": None if other is None else float(row.val_loss) - other,
                         "damage before training": damage, "recovered, %": None if not damage or left is None else 100 * (1 - left / damage)})  # fmt: skip
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
