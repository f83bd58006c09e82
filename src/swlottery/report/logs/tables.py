"""The tables and sentences of the log of ``swlottery train``: events in, lines out, nothing printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from swlottery.report.words import (
    CONTROLS,
    KINDS,
    NOTHING,
    WIDTH,
    duration,
    key,
    named,
    number,
    percent,
    perplexity,
    place,
    share,
    table,
    threshold,
)

Event = Mapping[str, Any]

GROUPS = {
    "model": ("model", "revision", "start", "init", "tokenizer", "vocabulary", "freeze_biases", "seed"),
    "data": ("data", "data_tokens", "context", "micro_batch", "grad_accum", "data_order", "data_seed"),
    "training": (
        "steps", "lr", "lr_schedule", "warmup", "weight_decay", "beta1", "beta2", "clip", "dtype", "device", "compile",
        "threads",
    ),
    "pruning": (
        "rounds", "prune_rate", "schedule", "one_shot", "scope", "criterion", "rewind", "rewind_step", "from_round_1",
        "protect", "force_prune",
    ),
    "following": ("super_weights", "allow_foreign", "follow", "eval_steps", "eval_sequences"),
    "running": (),
}  # fmt: skip
"""The groups of the header. A setting that none of them names is one of ``running``."""


def settings_lines(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Every setting, by group, in columns; a dot behind what stands at its default."""
    grouped = {name for names in GROUPS.values() for name in names}
    indent, column = 11, 36
    lines = []
    for group, names in GROUPS.items():
        inside = [name for name in names if name in settings]
        inside += [name for name in settings if name not in grouped] if group == "running" else []
        line = group.ljust(indent)
        for name in inside:
            default = name in defaults and defaults[name] == settings[name]
            cell = f"{name.replace('_', '-')} {_setting(settings[name])}{' ·' * default}"
            if len(line) > indent and len(line) + len(cell) > WIDTH:
                lines.append(line)
                line = " " * indent
            line += cell + " " * (-(len(cell) + 2) % column + 2)
        if inside:
            lines.append(line)
    return [line.rstrip() for line in lines]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_setting, value)) or "none"
    return "none" if value is None or value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def device(start: Event) -> str:
    """The device, with its name where it is a GPU."""
    gpu = start.get("gpu")
    return f"{start['device']} ({gpu['name']}, CUDA {gpu['cuda']})" if gpu else str(start["device"])


def limit(settings: Mapping[str, Any], start: Event) -> str:
    """Why a text is not read whole, where nobody named a number of tokens."""
    number = start.get("data_tokens")
    if settings.get("data_tokens") != "auto" or not number:
        return ""
    return f" (--data-tokens auto: {number:,} to train on, as many as the rounds can read)"


def plan(start: Event) -> list[str]:
    """What every prune will leave: rows 0 (the mask that round 1 trains under) to R."""
    counts, total = start["counts"], start["total"]
    pruned = [total - counts[0], *(before - after for before, after in pairwise(counts))]
    rows = [
        [str(r), f"{gone:,}", share(gone, count + gone), f"{count:,}", share(count, total), share(total - count, total)]
        for r, (count, gone) in enumerate(zip(counts, pruned, strict=True))
    ]
    return table(["prune", "removed", "of what remains", "remaining", "remaining %", "sparsity"], rows)


EVALUATION = ("step", "train loss", "val loss", "perplexity", "tokens/s", "time left")


def evaluation(event: Event | None) -> str:
    """A line of a round's table; its heading without an event."""
    cells: Sequence[str] = EVALUATION
    if event is not None:
        speed = event.get("tokens_per_second")
        cells = (
            str(event["step"]), number(event["train_loss"]), number(event["val_loss"]),
            perplexity(event["val_perplexity"]), number(speed, 0), duration(event.get("seconds_left")),
        )  # fmt: skip
    return "".join(cell.rjust(width) for cell, width in zip(cells, (8, 13, 13, 14, 13, 16), strict=True))


def found(event: Event) -> list[str]:
    """What the finder says of the trained network, and what became of what was found before."""
    of = "its channel's output" if event["kind"] == "leader" else "its spike"
    weights = [
        f"{place(key(weight))} (ratio {weight['ratio']:.1f}, {100 * weight['share']:.0f} % of {of})"
        for weight in event["weights"]
    ]
    if event["kind"] == "leader":
        lacks = [f": {'; '.join(weight['lacks'])}" if weight.get("lacks") else "" for weight in event["weights"]]
        leaders = ", ".join(weight + lack for weight, lack in zip(weights, lacks, strict=True))
        lines = ["finder: no super weight" + (f"; leader {leaders}" if leaders else "")]
    else:
        plural = "s" if len(weights) > 1 else ""
        lines = [f"finder: super weight{plural} {', '.join(weights)}" if weights else "finder: no super weight"]
    moved = [f"{place(move['from'])} to {place(move['to'])}" for move in event["moved"]]
    became = {"kept": list(map(place, event["kept"])), "moved": moved, "lost": list(map(place, event["lost"]))}
    if any(became.values()):
        fates = "; ".join(f"{word} {', '.join(places)}" for word, places in became.items() if places)
        lines.append(f"finder, of those before: {fates}")
    return lines


def rounds_table(rows: Sequence[Event], alive: Mapping[int, str]) -> list[str]:
    """One row a mask: the prune that made it, and the losses of the network trained under it."""
    cells = [
        [
            str(row["round"]), f"{row['remaining']:,}", percent(row["remaining_fraction"]), percent(row["sparsity"]),
            NOTHING if row["pruned"] is None else f"{row['pruned']:,}", threshold(row["threshold"]),
            number(row["train_loss"]), number(row["val_loss"]), perplexity(row["val_perplexity"]),
            alive.get(row["round"], NOTHING), duration(row.get("seconds")),
        ]
        for row in rows
    ]  # fmt: skip
    heads = [
        "mask", "remaining", "rem. %", "sparsity", "pruned", "threshold", "train", "val", "perplex.", "alive", "time",
    ]  # fmt: skip
    return table(heads, cells)


def sentence(weight: Event, rounds: int, settings: Mapping[str, Any]) -> str:
    """What became of a followed weight: in which round, at which sparsity, against which chance level."""
    gone = weight["pruned_in"]
    if gone is None:
        held = settings.get("protect") not in (None, "", "none", False)
        fate = f"was kept through round {rounds}" + (f", protected (--protect {settings['protect']})" if held else "")
    elif gone == 0:
        fate = f"was taken out before round 1 (--force-prune {settings.get('force_prune')})"
    else:
        fate = f"was pruned in round {gone}"
    against = [f"{percent(weight['matrix_keep_rate'])} of its matrix (the chance level)"]
    controls = weight["control_keep_rates"] if gone != 1 else []  # those were chosen among what prune 1 kept
    against += [
        f"{row['kept']} of {row['count']}{' controls' * (i == 0)} {CONTROLS[row['kind']][1]}"
        for i, row in enumerate(controls)
    ]
    kept = " and ".join([", ".join(against[:-1]), against[-1]] if len(against) > 1 else against)
    name = named(weight)
    return (
        f"{name[0].upper()}{name[1:]} {fate}, at {percent(weight['sparsity'])} sparsity "
        f"({percent(weight['remaining_fraction'])} remaining), where {kept} were kept."
    )


def caveats(event: Event, settings: Mapping[str, Any]) -> list[str]:
    """What the chance level means for weights of these kinds."""
    kinds = {weight["kind"] for weight in event["weights"]}
    said = []
    if "foreign" in kinds:
        said.append(
            "A foreign weight is a coordinate of another network: here it is an ordinary weight, fixed beforehand, "
            "and the keep rate of its matrix is its exact chance level."
        )
    if kinds & {"super_weight", "leader"}:
        said.append(
            "The keep rate of the matrix is the exact chance level of a coordinate that is fixed beforehand. A "
            f"{' or a '.join(KINDS[kind] for kind in ('super_weight', 'leader') if kind in kinds)} was chosen in a "
            "trained network and is large there: compare it with its controls."
        )
    if settings.get("super_weights") == "discover" and kinds & {"super_weight", "leader"}:
        said.append("It was found in the network of round 1: whether it outlives prune 1 is reported, never tested.")
    if any(weight["control_keep_rates"] for weight in event["weights"]):
        said.append("All controls were chosen among the weights that prune 1 kept: they tell of the later prunes only.")
    return said
