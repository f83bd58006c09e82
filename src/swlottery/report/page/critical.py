"""Super weights: at which sparsity pruning would take them, and whether training makes up for their loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas
from pandas import DataFrame

from swlottery.report import words
from swlottery.report.page import charts
from swlottery.report.page.answer import Answer, Row, Table
from swlottery.report.page.arms import Arm, Study
from swlottery.report.page.networks import verdict, verdicts_on

FIVE_ROUNDS = 67.23
"""The sparsity, in percent, that five rounds at 20 % reach."""
AT_ONCE, LEAST = "falls at sparsity, % (after round 1)", "least over all rounds"
REPLACED = 0.05
"""A gap in held-out loss, in nats, that counts as none."""
WAYS = ("left alone", "super weights pruned first", "controls pruned first")
GAP, DAMAGE, RECOVERED = "gap to controls", "damage before training", "recovered, %"
LOSSES = ("run", "tracks", "mask", "remaining, %", *WAYS, GAP, DAMAGE, RECOVERED)
METHOD = (
    "Taken: by one prune of the network that a round has trained; the least sparsity over the rounds of the plain arms "
    "(of all arms where no plain one has the weight). One network in several orders of the data is one network: no "
    "p-value is given. Damage: the loss at the first step of a round over that of the network left alone; recovered: "
    "what the round's training makes up for; neither is given where a round begins with random weights. Replaced: no "
    "final gap to the controls is above 0.05 nat. Of several networks, the plan's question on what is pruned first "
    "says whether they are replaced."
)


def answer(study: Study) -> Answer | None:
    """The distance of each super weight to pruning, and tickets without them."""
    rows = _pruned_at(study)
    if not rows:
        return None
    costs = _without(study)
    found = _found_last(study)
    finished = costs[(costs["run"].map(study.state) == "finished") & (costs["tracks"] == "super weight")]
    gaps = list(finished.groupby("run").tail(1)[GAP].dropna())
    plain = {arm.title for arm in study.arms if arm.plain}
    least: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: (row["arm"] not in plain, row[LEAST])):
        least.setdefault((study.lineage[row["run"]], row["weight"]), row)
    below = sum(row[LEAST] < FIVE_ROUNDS for row in least.values())
    networks = len({network for network, _ in least})
    replaced = f"; {'not ' * (max(gaps) > REPLACED)}replaced by training" if gaps and networks == 1 else ""
    taken = "the sparsity at which global magnitude pruning would take each super weight"
    without = "held-out loss, nat: super weights kept, pruned first, or controls pruned first"
    drawn = [row for row in rows if row["arm"] in plain] or rows
    label = "sparsity at which it would be pruned, % (dashed: five rounds at 20 %)"
    caption = (
        "A line for each super weight of a network, with the first run of that network; one circle for each of its "
        "runs in a plain arm."
    )
    mean = "The line is the mean over runs, a dot one run."
    first = min(least.values(), key=lambda row: float(row[LEAST]))
    return Answer(
        "critical",
        "Would pruning take super weights, and can training replace them?",
        f"{below} of {len(least)} pruned below {FIVE_ROUNDS} % sparsity{replaced}",
        number=f"the first at {first[LEAST]:.2f} % sparsity{f'; {_range(gaps)} nat' if gaps else ''}",
        networks=networks,
        sentence=_sentence(first, min(float(row[AT_ONCE]) for row in rows), costs, gaps, _found_again(study, found)),
        tables=[
            Table("critical", taken, rows),
            Table("without", without, costs.to_dict("records")),
            Table("found_last", "what the finder found in the last network that each run has trained", found),
        ],
        pictures=[
            charts.strip("critical", _named(study, drawn), LEAST, label, caption, "at", FIVE_ROUNDS),
            charts.lines("without", *_by_way(costs), "loss", "held-out loss, nat", mean),
        ],
        method=METHOD,
    )


def _pruned_at(study: Study) -> list[Row]:
    """Each super weight of each run, and what would have to go before it."""
    rows: list[Row] = []
    titles = {run: arm.title for arm in study.arms for run in arm.runs}
    for run, title in titles.items():
        weights = study.rows("weights", run)
        for weight, rounds in weights[weights["kind"] == "super_weight"].groupby("weight", sort=False):
            at = 100 * (1 - rounds["q"].dropna())
            if len(at):
                scope = float(study.rows("rounds", run)["remaining"].max())
                rows.append(
                    {
                        "arm": title,
                        "run": run,
                        "weight": str(weight),
                        AT_ONCE: float(at.iloc[0]),
                        LEAST: float(at.min()),
                        "weights in scope larger than it then": round(scope * (1 - float(at.min()) / 100)),
                        "rounds": int(rounds["round"].max()),
                        "alive at the end": bool(rounds["alive"].iloc[-1]),
                    }
                )
    return rows


def _named(study: Study, rows: Sequence[Row]) -> list[Row]:
    """The same with what the figure calls each: a weight of one network has one name in all runs."""
    first: dict[str, str] = {}
    runs = (first.setdefault(study.lineage[row["run"]] or row["run"], row["run"]) for row in rows)
    return [row | {"at": f"{run}: {row['weight']}"} for run, row in zip(runs, rows, strict=True)]


def _without(study: Study) -> DataFrame:
    """Tickets whose super weights were pruned first, mask by mask, beside those left alone or without controls."""
    parts = [pandas.DataFrame(columns=LOSSES)]
    for arms in study.setups:
        for forced in (arm for arm in arms if "force-prune sw" in arm.name):
            parts += [_losses(study, arms, forced.name, run) for run in forced.runs]
    return pandas.concat(parts[1:] or parts)


def _losses(study: Study, arms: list[Arm], forced: str, run: str) -> DataFrame:
    """Of one run, by mask."""
    own = study.rows("rounds", run).set_index("round").dropna(subset=["val_loss"])
    alone = _like(study, arms, forced.replace(", force-prune sw", ""), run)
    controls = _like(study, arms, forced.replace("force-prune sw", "force-prune controls"), run)
    loss, damage = own["val_loss"], own["start_loss"] - alone["start_loss"]
    if study.settings[run]["start"] == "scratch" and study.settings[run]["rewind"] != "none":
        damage = damage * math.nan
    recovered = (100 * (1 - (loss - alone["val_loss"]) / damage)).where(damage != 0)
    losses = (alone["val_loss"], loss, controls["val_loss"], loss - controls["val_loss"])
    columns = (run, study.kind(run), own.index, 100 * own["remaining_fraction"], *losses, damage, recovered)
    return pandas.DataFrame(dict(zip(LOSSES, columns, strict=True)), index=own.index)


def _like(study: Study, arms: list[Arm], name: str, run: str) -> DataFrame:
    """By mask, the losses of the run with the same seeds in the arm of this name."""
    like = [one for arm in arms if arm.name == name for one in arm.runs if study.seeds(one) == study.seeds(run)]
    return study.rows("rounds", *like[:1]).set_index("round")


def _by_way(costs: DataFrame) -> tuple[DataFrame, DataFrame]:
    """The same losses as lines of a figure: the mean of each way under each mask, and each run's."""
    points = costs.melt(["mask", "remaining, %"], list(WAYS), "arm", "loss").dropna()
    means = points.groupby(["arm", "mask"], sort=False, as_index=False).mean()
    return means, points


def _found_last(study: Study) -> list[Row]:
    """Of the last network of each run: what the finder inside the run saw, and the verdict that `find` gave."""
    records = study.facts["records"].query("of == 'final'")
    return [
        {
            "arm": arm.title,
            "run": run,
            "round": int(last.round),
            "kind": last.kind.replace("_", " "),
            "found": last.weights,
            "kept": last.kept,
            "lost": last.lost,
            **(verdict(records[records["run"] == run]) if len(records) else {}),
        }
        for arm in study.arms
        for run in arm.runs
        for last in study.rows("found", run).tail(1).itertuples()
    ]


def _sentence(first: Row, at_once: float, costs: DataFrame, gaps: list[float], again: list[str]) -> str:
    parts = [
        f"Global magnitude pruning would take the first of them at {at_once:.2f} % sparsity in the networks of round 1",
    ]
    if first[LEAST] < at_once:
        parts.append(f"in those of all rounds at {first[LEAST]:.2f} % ({first['run']})")
    start = costs[costs["mask"] == 0].dropna(subset=[RECOVERED])
    if len(start):
        damage, recovered = _range(start[DAMAGE], ".2f"), _range(start[RECOVERED], ".0f")
        parts.append(f"pruned before the first step they cost {damage} nat, of which training recovers {recovered} %")
    if gaps:
        runs = words.count(len(gaps), "run")
        parts.append(f"the final ticket is {_range(gaps)} nat above that without as many controls ({runs})")
    return f"{'; '.join([*parts, *again])}."


def _found_again(study: Study, found: list[Row]) -> list[str]:
    """How many tickets have super weights although those of round 1 were pruned, how many are new, and the verdicts."""
    forced = [row for row in found if "force-prune sw" in row["arm"]]
    judged = [verdicts_on(found, "final tickets")] if any(row.get("verdict") for row in found) else []
    if not forced:
        return judged
    known = {(study.lineage[row["run"]], one) for row in found if row not in forced for one in row["found"].split("; ")}
    again = [row for row in forced if row["kind"] == "super weight"]
    there = {(study.lineage[row["run"]], one) for row in again for one in row["found"].split("; ")}
    tickets = words.count(len(forced), "final ticket")
    text = (
        f"the finder finds super weights in {len(again)} of {tickets} without them, {len(there - known)} of these new"
    )
    return [text, *judged]


def _range(values: Sequence[float], digits: str = "+.3f") -> str:
    """``0.10 to 0.30``, or one number where both are written alike."""
    return " to ".join(dict.fromkeys(f"{end:{digits}}" for end in (min(values), max(values))))
