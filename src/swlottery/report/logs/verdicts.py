"""What a record says of its weights, and how it differs from an earlier record, in tables and sentences."""

from __future__ import annotations

from typing import Any

from swlottery.find.effects import CRITICAL, INERT
from swlottery.find.record import Record, not_found
from swlottery.models.coordinates import Coordinate
from swlottery.report.words import NOTHING, count, looked_at, percent, table

MEANING = {
    "critical": f"critical: alone, its interval is above {CRITICAL} nat and it costs more than any control",
    "jointly critical": "jointly critical: not critical alone, but needed in a set that is",
    "weak": "weak: its interval is above 0",
    "inert": f"inert: its interval is inside ±{INERT} nat",
    "undetermined": "undetermined: its interval is too wide to say",
}


EFFECT = ("perplexity", "ΔNLL", "interval", "documents")
"""The heads of `effect_cells`."""


def effect_cells(ablation: Record) -> list[str]:
    """What an ablation costs, as it stands in all tables; without a number where none was measured."""
    if ablation["nll_difference"] is None:
        return [NOTHING] * len(EFFECT)
    low, high = ablation["nll_difference_interval"]
    difference = f"{ablation['nll_difference']:+.3f}", f"{low:+.3f} to {high:+.3f}"
    return [f"× {ablation['perplexity_ratio']:.4g}", *difference, looked_at([ablation]) or NOTHING]


def verdict_table(record: Record) -> list[str]:
    """The super weights with their verdicts, and what those mean. recovered: of the loss, with the spike put back."""
    weights = [*record["super_weights"], *not_found(record)]
    if not weights:
        return []
    cells = []
    for weight in weights:
        lost, restored, recovered = _lost(weight), weight["restored"], NOTHING
        if restored and lost["nll_difference_interval"][0] > 0:
            recovered = f"{1 - restored['nll_difference'] / lost['nll_difference']:.0%}"
        row, repeated = weight.get("row"), weight.get("generation")
        whole = f"× {row['perplexity_ratio']:.4g}" if row else NOTHING
        repeats = percent(repeated["repeated_4grams"]) if repeated else NOTHING
        cells.append([_named(weight), weight["verdict"], *effect_cells(weight), recovered, whole, repeats])
    heads = ["without the weight", "verdict", *EFFECT, "recovered", "its row", "repeats"]
    verdicts = {weight["verdict"] for weight in weights}
    legend = [text for verdict, text in MEANING.items() if verdict in verdicts]
    legend.append("documents: how many were looked at, and the level of the interval")
    described = looked_at([one for weight in weights for one in (weight["restored"], weight.get("row")) if one])
    on = f"; documents of both: {described}" if described else ""
    legend.append(
        "recovered: how much of the loss, with the weight's spike alone put back, if these documents show one"
    )
    legend.append(f"its row: perplexity with its whole output channel at zero{on}")
    if written := record.get("generation"):
        intact, joint = (percent(written[name]["repeated_4grams"]) for name in ("intact", "joint"))
        legend.append(f"repeats: repeated 4-grams of what it writes; intact {intact}, without all {joint}")
    return [*table(heads, cells, left=2), *(f"  {text}" for text in legend)]


def _lost(weight: Record) -> Record:
    """What a weight alone costs on the documents of its row with the spike put back; in schema 1 these are all."""
    return next((dose for dose in weight.get("dose", []) if dose["factor"] == 0), weight)


def dose_table(record: Record) -> list[str]:
    """The perplexity with each weight made smaller by steps."""
    weights = [weight for weight in [*record["super_weights"], *not_found(record)] if weight.get("dose")]
    if not weights:
        return []
    heads = ["perplexity with the weight", *(f"× {dose['factor']:g}" for dose in weights[0]["dose"]), "documents"]
    cells = [
        [_named(weight), *(f"× {dose['perplexity_ratio']:.4g}" for dose in weight["dose"]), looked_at(weight["dose"])]
        for weight in weights
    ]
    return ["", *table(heads, cells)]


def _named(weight: Record) -> str:
    return f"{Coordinate.of(weight)}{'' if 'removal' in weight else ' (not found)'}"


def sentences(record: Record) -> list[str]:
    """What the table of verdicts does not say: undetermined weights, sets, cancellers, controls."""
    weights, asked = record["super_weights"], not_found(record)
    said = []
    for weight in [*weights, *asked]:
        if weight["verdict"] == "undetermined":
            tokens = weight["tokens_to_decide"]
            needed = (
                f"about {tokens:,} tokens would decide" if tokens else "if anything, the model is better without it"
            )
            said.append(f"{Coordinate.of(weight)} is undetermined: {needed}.")
    sets = [(weights, joint) for joint in record["joint"]]
    sets += [(record["ablated"], joint) for joint in record.get("ablated_joint", [])]
    for among, joint in sets:
        if joint["critical"]:
            members = ", ".join(str(Coordinate.of(among[member])) for member in joint["members"])
            said.append(f"Critical together, none of them idle: {members}: {_effect(joint)}.")
    for canceller in record["cancellers"]:
        spike = f"layer {canceller['layer']}, out {canceller['out']}"
        said.append(f"Canceller, {spike}: without its largest weight {Coordinate.of(canceller)}: {_effect(canceller)}.")
    for name, whose in (("controls", "controls"), ("ablated_controls", "controls of the weights not found")):
        ordinary = [row["perplexity_ratio"] for row in record.get(name, []) if row["kind"] == "control"]
        if ordinary:
            said.append(f"The {len(ordinary)} {whose}: perplexity × {min(ordinary):.4f} to {max(ordinary):.4f}.")
    if not weights:
        said.append("No super weight" + ("." if asked else ": nothing to verify."))
    if record["note"]:
        said.append(f"All this is about {record['note']}.")
    return said


def _effect(ablation: Record) -> str:
    return f"perplexity × {ablation['perplexity_ratio']:.4g} (ΔNLL {ablation['nll_difference']:+.3f} nat)"


def differences(record: Record, before: Record) -> list[str]:
    """How the super weights differ from those of ``before``, an earlier record at the same path, and why."""
    if before["weights_sha256"] != record["weights_sha256"]:
        return ["The earlier record was made from other weights. It is replaced."]
    changed = [
        f"{name} {_short(before[name])} → {_short(record[name])}"
        for name in ("prompts", "bos", "dtype", "kappa")
        if before[name] != record[name]
    ]
    settings = "; ".join(changed) or "the same settings"
    new, old = ({Coordinate.of(weight): weight for weight in one["super_weights"]} for one in (record, before))
    if new.keys() == old.keys():
        return [f"The same {count(len(new), 'super weight')} as in the earlier record ({settings})."]
    new_only = [
        _difference("new", new[at], before, "before", record["kappa"]) for at in sorted(new.keys() - old.keys())
    ]
    old_only = [_difference("gone", old[at], record, "now", record["kappa"]) for at in sorted(old.keys() - new.keys())]
    return [f"Not the super weights of the earlier record ({settings}):", *new_only, *old_only]


def _difference(word: str, weight: Record, other: Record, when: str, kappa: float) -> str:
    """A super weight of one record only, and how near its channel comes to the bar in the ``other``."""
    near = {(spike["layer"], spike["out"]): spike["ratio"] for spike in other["near_misses"]}
    ratio = near.get((weight["layer"], weight["out"]))
    level = f"its channel is at {ratio / kappa:.2f} of it" if ratio else "it is well below"
    return f"  {word}: {Coordinate.of(weight)}, at {weight['ratio'] / kappa:.2f} of the bar; {when} {level}"


def _short(value: Any) -> str:
    return f"{len(value)} prompts" if isinstance(value, list) and len(value) > 2 else str(value)
