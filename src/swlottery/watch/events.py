"""The events of a run's history: each is one function of values. Their keys are those of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.data.tokens import Tokens
from swlottery.lottery import masks as masking
from swlottery.lottery.entries import Layout, Place, place_of, read
from swlottery.lottery.matching import Controls
from swlottery.lottery.progress import Position
from swlottery.lottery.recorder import Snapshot, Start
from swlottery.lottery.start import Network
from swlottery.lottery.trace import cost_of
from swlottery.models.coordinates import Coordinate
from swlottery.watch import rows
from swlottery.watch.outcomes import Survivors, entry, mask_size
from swlottery.watch.tracked import Tracked

if TYPE_CHECKING:
    from torch import Tensor

Event = dict[str, Any]


def start(
    start: Start,
    network: Network,
    data: Tokens,
    settings: TrainSettings,
    environment: Mapping[str, Any],
    layout: Layout,
    tracked: Sequence[Tracked],
) -> Event:
    """What is trained on what, and how many weights will remain."""
    remaining = [masking.remaining(start.masks)]
    for count in start.counts:
        remaining.append(remaining[-1] - count)
    traces = settings.trace == "log" and not settings.from_round_1
    left = [masking.total(start.masks)] * settings.prune_at_start + remaining
    rates = [str(1 - left[1] / left[0])] if settings.one_shot else [str(rate) for rate in settings.rates()]
    return {
        "event": "start",
        "model": network.name,
        "note": network.note,
        "lineage": network.lineage,
        "parameters": sum(p.numel() for p in network.parameters.values()),
        "scope": settings.scope,
        "total": masking.total(start.masks),
        "matrices": len(start.masks),
        "context": network.context,
        "device": start.device,
        "gpu": environment.get("gpu"),
        "dtype": start.dtype,
        "why": environment.get("why"),
        "data_tokens": environment.get("data_tokens"),
        "threads": environment["threads"],
        "versions": environment["versions"],
        "tokens_per_step": tokens_per_step(settings, network),
        "steps": settings.steps,
        "prunes": len(start.counts),
        "counts": remaining,
        "rates": rates,
        "data": {
            "name": data.name,
            "train_tokens": len(data.train),
            "validation_tokens": len(data.validation),
            "sha256": data.manifest.get("sha256"),
        },
        "downs": list(layout.names.values()),
        "in_out": network.roles.row.in_out,
        "from_round_1": settings.from_round_1,
        "followed": [entry(one) for one in tracked],
        **({"trace": cost_of(network, settings.steps, settings.eval_sequences)} if traces else {}),
    }


def tokens_per_step(settings: TrainSettings, network: Network) -> int:
    """How many tokens one training step reads."""
    return settings.micro_batch * settings.grad_accum * network.context


def evaluation(now: Snapshot, tokens: int) -> Event:
    """The losses, and the threshold that a prune now would give. tokens: of a step."""
    pace = now.seconds_per_step
    return {
        "event": "evaluation",
        "round": now.round,
        "step": now.step,
        "steps": now.steps,
        "train_loss": now.train_loss,
        "val_loss": now.val_loss,
        "val_perplexity": math.exp(min(now.val_loss, 700.0)),
        "gradient_norm": now.norm,
        "threshold": now.threshold,
        "tokens_per_second": tokens / pace if pace else None,
        "seconds_left": now.steps_left * pace if pace else None,
    }


def trained(now: Snapshot, losses: Event, position: Position, seconds: float) -> dict[str, Any]:
    """The row of rounds.csv: a mask, the prune that made it, and the network trained under it."""
    return {
        "round": now.round - 1,
        **mask_size(now.masks),
        "pruned": position.pruned,
        "threshold": position.threshold,
        **{name: losses[name] for name in ("train_loss", "val_loss", "val_perplexity")},
        "seconds": seconds,
    }


def boxes(
    round: int,
    when: str,
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    layout: Layout,
    tracked: Sequence[Tracked],
) -> list[Event]:
    """The boxplot of every matrix that holds a tracked weight, ``before`` or ``after`` a round's training."""
    matrices, remaining = layout.matrices(weights), layout.matrices(masks)
    by_place: dict[Place, list[Tracked]] = {}
    for one in tracked:
        by_place.setdefault(place_of(one.coordinate), []).append(one)
    found = []
    for place, here in by_place.items():
        coordinates = [one.coordinate for one in here]
        values, alive = read(matrices, coordinates), read(remaining, coordinates)
        found.append(
            {
                "event": "box",
                "round": round,
                "when": when,
                "layer": place[0],
                "expert": place[1],
                "path": layout.names[place[0]],
                **rows.box(matrices[place], remaining[place]),
                "weights": [
                    {**entry(one), "value": value, "alive": remains}
                    for one, value, remains in zip(here, values, alive, strict=True)
                ],
            }
        )
    return found


def found(round: int, kind: str, weights: list[dict[str, Any]], tracked: Sequence[Tracked]) -> Event:
    """What the finder sees now, and which of the tracked super weights, or the leader, it finds again (kept).

    *Moved*: another weight that is not tracked now feeds the same spike channel (layer, out); the leader, of which
    there is one, always moves. *Lost*: neither.
    """
    own = [one.coordinate for one in tracked if one.kind in ("super_weight", "leader")]
    now = [Coordinate.of(weight) for weight in weights]
    fresh = [c for c in now if c not in own]
    kept, moved, lost = [], [], []
    for c in own:
        heirs = fresh if kind == "leader" else [other for other in fresh if other[:2] == c[:2]]
        if c in now:
            kept.append(list(c[:3]))
        elif heirs:
            moved.append({"from": list(c[:3]), "to": list(heirs[0][:3])})
        else:
            lost.append(list(c[:3]))
    compared = {"kind": kind, "weights": weights, "kept": kept, "moved": moved, "lost": lost}
    return {"event": "found", "round": round, **compared}


def comparison(tracked: Sequence[Tracked], controls: Sequence[Controls], weights: Mapping[Place, Tensor]) -> Event:
    """All tracked weights, and how many controls of each kind they have. weights: after round 1, ``[out, in]``."""
    import torch

    coordinates = [one.coordinate for one in tracked]
    sizes = [weights[place_of(c)].abs() for c in coordinates]
    larger = [(size > size[c.out, c.in_]).sum() for size, c in zip(sizes, coordinates, strict=True)]
    ranks = torch.stack(larger).tolist() if larger else []
    values = read(weights, coordinates)
    return {
        "event": "followed",
        "round": 1,
        "weights": [
            {**entry(one), "value": value, "rank": 1 + rank, "matrix_size": size.numel()}
            for one, value, rank, size in zip(tracked, values, ranks, sizes, strict=True)
        ],
        "controls": [
            {"of": list(one.of[:3]), "kind": one.kind, "count": len(one.coordinates), "gap": one.gap}
            for one in controls
        ],
    }


def prune(
    now: Snapshot,
    layout: Layout,
    tracked: Sequence[Tracked],
    controls: Sequence[Controls],
    before: Survivors,
    after: Survivors,
) -> Event:
    """What a prune does: in all, to every tensor in scope, to the tracked weights, and to their controls."""
    had, have = masking.counts(now.masks), masking.counts(now.proposed)

    def left(of: Survivors, coordinates: Sequence[Coordinate]) -> int:
        return sum(of.alive[c] for c in coordinates)

    weights = []
    values = read(layout.matrices(now.weights), [one.coordinate for one in tracked])
    for one, value in zip(tracked, values, strict=True):
        c = one.coordinate
        level = None if now.thresholds is None else now.thresholds[layout.names[c.layer]]
        over = abs(value) / level if level else None
        was, is_ = before.alive[c], after.alive[c]
        weights.append({**entry(one), "value": value, "over_threshold": over, "alive_before": was, "alive": is_})
    return {
        "event": "prune",
        "round": now.round,
        **after.size,
        "pruned": before.size["remaining"] - after.size["remaining"],
        "threshold": now.threshold,
        "matrices": {name: {"before": had[name], "kept": have[name]} for name in had},
        "weights": weights,
        "controls": [
            {
                "of": list(one.of[:3]),
                "kind": one.kind,
                "count": len(one.coordinates),
                "before": left(before, one.coordinates),
                "kept": left(after, one.coordinates),
            }
            for one in controls
        ],
    }
