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
    count,
    duration,
    key,
    named,
    number,
    one_line,
    percent,
    perplexity,
    place,
    share,
    table,
    threshold,
)

Event = Mapping[str, Any]

GROUPS = {
    "model": "model revision start init tokenizer vocabulary freeze_biases seed",
    "data": "data data_tokens context first_token micro_batch grad_accum data_order data_seed",
    "training": "steps lr lr_schedule warmup weight_decay beta1 beta2 clip dtype device compile threads",
    "pruning": "rounds prune_rate schedule one_shot prune_at_start scope criterion rewind rewind_step from_round_1 "
    "protect force_prune",
    "tracking": "super_weights allow_foreign follow trace eval_steps eval_sequences",
    "running": "",
}
"""The groups of settings in the header. A setting that none of them names is one of ``running``."""
ENOUGH = 2_100_000_000
"""Tokens before which GPT-2 124M has next to no massive activations (docs/method.md, section 17)."""
ZERO_GAINS = (
    "all norms' gains start at zero (--init xavier-zero-gains): the first step trains the last norm's gain alone"
)


def settings_lines(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Every setting, by group, in columns; a dot behind what has its default value."""
    indent, column = 11, 36
    left = dict(settings)
    lines = []
    for group, names in GROUPS.items():
        inside = {name: left.pop(name) for name in names.split() or list(left) if name in left}
        line = group.ljust(indent)
        for name, value in inside.items():
            mark = " ·" if name in defaults and defaults[name] == value else ""
            cell = f"{name.replace('_', '-')} {_setting(value)}{mark}"
            if len(line) > indent and len(line) + len(cell) > WIDTH:
                lines.append(line.rstrip())
                line = " " * indent
            line += cell + " " * (-(len(cell) + 2) % column + 2)
        if inside:
            lines.append(line.rstrip())
    return lines


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else one_line(value)


def header(settings: Mapping[str, Any], start: Event) -> dict[str, str]:
    """What is trained, on what, where: names and texts for the top of the log."""
    data, steps, tokens, gpu = start["data"], start["steps"], start["tokens_per_step"], start.get("gpu")
    text = (
        f"{one_line(data['name'])}: {data['train_tokens']:,} training, {data['validation_tokens']:,} validation tokens"
    )
    if settings.get("data_tokens") == "auto" and start.get("data_tokens"):
        text += f" (--data-tokens auto: {start['data_tokens']:,} to train on, as many as the rounds can read)"
    in_scope = share(start["total"], start["parameters"])
    return {
        "model": one_line(start["model"]),
        "begins as": start["note"],
        "warning": ZERO_GAINS if settings.get("init") == "xavier-zero-gains" else "",
        "θ_0": f"sha256 {start['lineage']}",
        "in scope": f"{start['total']:,} of {start['parameters']:,} parameters ({in_scope}), "
        f"in {count(start['matrices'], 'tensor')}: {start['scope']}",
        "text": text + (f"\nsha256 {data['sha256']}" if data["sha256"] else ""),
        "a round": f"{steps:,} steps of {tokens:,} tokens = {steps * tokens / data['train_tokens']:.3g} times the text"
        + (_in_all(steps * tokens) if settings.get("start") == "scratch" else ""),
        "trace": _trace(start["trace"], steps * tokens) if "trace" in start else "",
        "round 1": f"branches from {one_line(start['from_round_1'])}" if start.get("from_round_1") else "",
        "device": start["device"]
        + (f" ({gpu['name']}, CUDA {gpu['cuda']})" if gpu else "")
        + f", {count(start['threads'], 'CPU thread')}",
        "precision": f"{start['dtype']} ({start['why']})" if start.get("dtype") else "",
        "versions": ", ".join(f"{name} {version}" for name, version in start["versions"].items()),
    }


def _in_all(tokens: int) -> str:
    """How many tokens a round has from scratch, and whether super weights are known to form within so many."""
    few = "; so few are not known to be enough for a super weight to form (docs/method.md, section 17)"
    return f"\n{tokens:,} tokens in all{few if tokens < ENOUGH else ''}"


def _trace(cost: Event, tokens: int) -> str:
    """What --trace log will take at most."""
    return (
        f"after {len(cost['steps'])} of round 1's steps (1, 2, 4, … and the last): at most {cost['forward_tokens']:,} "
        f"forward tokens, {percent(cost['forward_tokens'] / tokens)} of those of the round (whose backward passes "
        f"come on top), and {cost['bytes'] / 1e6:,.0f} MB on disk until round 1 ends"
    )


def plan(start: Event) -> list[str]:
    """What every prune will leave: rows 0 (the mask that round 1 trains under) to R."""
    counts, total = start["counts"], start["total"]
    rows = [
        [str(r), f"{was - left:,}", share(was - left, was), f"{left:,}", share(left, total), share(total - left, total)]
        for r, (was, left) in enumerate(pairwise([total, *counts]))
    ]
    return table(["prune", "removed", "of what remains", "remaining", "remaining %", "sparsity"], rows)


EVALUATION = "{:>8}{:>13}{:>13}{:>14}{:>13}{:>16}"
EVALUATIONS = EVALUATION.format("step", "train loss", "val loss", "perplexity", "tokens/s", "time left")
"""The heading of a round's table."""


def evaluation(event: Event) -> str:
    """A line of a round's table."""
    losses = number(event["train_loss"]), number(event["val_loss"]), perplexity(event["val_perplexity"])
    pace = number(event.get("tokens_per_second"), 0), duration(event.get("seconds_left"))
    return EVALUATION.format(event["step"], *losses, *pace)


def found(event: Event) -> list[str]:
    """What the finder says of the trained network, and whether it still finds the tracked weights."""
    leads = event["kind"] == "leader"
    of = "its channel's output" if leads else "its spike"
    weights = []
    for weight in event["weights"]:
        lacks = f": {'; '.join(weight['lacks'])}" if leads and weight.get("lacks") else ""
        share = f"{100 * weight['share']:.0f} % of {of}"
        weights.append(f"{place(key(weight))} (ratio {weight['ratio']:.1f}, {share}){lacks}")
    if not weights:
        line = "no super weight"
    elif leads:
        line = f"no super weight; leader {', '.join(weights)}"
    else:
        line = f"super weight{'s' * (len(weights) > 1)} {', '.join(weights)}"
    now = {
        "kept": [place(at) for at in event["kept"]],
        "moved": [f"{place(move['from'])} to {place(move['to'])}" for move in event["moved"]],
        "lost": [place(at) for at in event["lost"]],
    }
    compared = "; ".join(f"{word} {', '.join(places)}" for word, places in now.items() if places)
    return [f"finder: {line}", *([f"finder, of the tracked weights: {compared}"] if compared else [])]


def rounds_table(rows: Sequence[Event], alive: Mapping[int, str]) -> list[str]:
    """One row a mask: the prune that made it, and the losses of the network trained under it."""
    heads = "mask, remaining, rem. %, sparsity, pruned, threshold, train, val, perplex., alive, time"
    cells = [
        [
            str(row["round"]),
            number(row["remaining"], 0),
            percent(row["remaining_fraction"]),
            percent(row["sparsity"]),
            number(row["pruned"], 0),
            threshold(row["threshold"]),
            number(row["train_loss"]),
            number(row["val_loss"]),
            perplexity(row["val_perplexity"]),
            alive.get(row["round"], NOTHING),
            duration(row.get("seconds")),
        ]
        for row in rows
    ]
    return table(heads.split(", "), cells)


def outcome(weight: Event, rounds: int, settings: Mapping[str, Any]) -> str:
    """What became of a tracked weight: in which round, at which sparsity, and what else was kept there."""
    gone = weight["pruned_in"]
    if gone is None:
        protected = settings.get("protect") not in (None, "", "none", False)
        what = f"kept through round {rounds}" if rounds else "kept by the prune at the start"
        what += f", protected (--protect {settings.get('protect')})" * protected
    elif gone == 0 and settings.get("prune_at_start"):
        what = "pruned at the start"
    elif gone == 0:
        what = f"taken out before round 1 (--force-prune {settings.get('force_prune')})"
    else:
        what = f"pruned in round {gone}"
    controls = weight["control_keep_rates"] if gone != 1 else []  # they were chosen among what prune 1 kept
    kept = ", ".join(f"{CONTROLS[row['kind']][0]} {row['kept']}/{row['count']}" for row in controls)
    name = named(weight)
    return (
        f"{name[0].upper()}{name[1:]} was {what}, at {percent(weight['sparsity'])} sparsity "
        f"({percent(weight['remaining_fraction'])} remaining). Kept there: {percent(weight['matrix_keep_rate'])} "
        f"of its matrix (the chance level)" + (f"; controls: {kept}." if kept else ".")
    )


def caveats(event: Event, settings: Mapping[str, Any]) -> list[str]:
    """What the chance level means for weights of these kinds."""
    kinds = {weight["kind"] for weight in event["weights"]}
    chosen = " or a ".join(KINDS[kind] for kind in ("super_weight", "leader") if kind in kinds)
    said = []
    if "foreign" in kinds:
        said.append(
            "A foreign weight is a coordinate of another network, fixed beforehand. Here it is an ordinary weight, and "
            "the keep rate of its matrix is its exact chance level."
        )
    if chosen:
        said.append(
            f"A {chosen} was chosen because it is large in a trained network. The keep rate of its matrix is the "
            "chance level of a coordinate fixed beforehand, which it is not: compare it with its controls."
        )
    if chosen and settings.get("super_weights") == "discover":
        said.append("It was found in the network of round 1: whether prune 1 keeps it is reported, never tested.")
    if any(weight["control_keep_rates"] for weight in event["weights"]):
        said.append("All controls were chosen among the weights that prune 1 kept: they say nothing about prune 1.")
    return said
