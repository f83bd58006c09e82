"""What becomes of the tracked weights: which prune took each, or that all kept it; and its chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.lottery import masks as masking
from swlottery.lottery.entries import Layout, Place, place_of, read
from swlottery.lottery.matching import Controls
from swlottery.models.coordinates import Coordinate
from swlottery.watch.tracked import Tracked

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Survivors:
    """What masks leave. alive: whether each tracked weight and each control remains. keep_rates: of each matrix that
    holds a tracked weight the part that remains. size: see `mask_size`."""

    alive: Mapping[Coordinate, bool]
    keep_rates: Mapping[Place, float]
    size: Mapping[str, Any]


def survivors(
    masks: Mapping[str, Tensor], layout: Layout, tracked: Sequence[Tracked], controls: Sequence[Controls]
) -> Survivors:
    """Read what these masks leave."""
    matrices = layout.matrices(masks)
    own = [one.coordinate for one in tracked]
    coordinates = list(dict.fromkeys([*own, *(c for one in controls for c in one.coordinates)]))
    alive = dict(zip(coordinates, read(matrices, coordinates), strict=True))
    here = {place_of(c): matrices[place_of(c)] for c in own}
    rates = {place: count / here[place].numel() for place, count in masking.counts(here).items()}
    return Survivors(alive, rates, mask_size(masks))


def mask_size(masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """How much of the weights in scope remains, as rounds.csv has it."""
    total, remaining = masking.total(masks), masking.remaining(masks)
    fraction = remaining / total
    return {"total": total, "remaining": remaining, "remaining_fraction": fraction, "sparsity": 1 - fraction}


def entry(one: Tracked) -> dict[str, Any]:
    """How an event names a tracked weight."""
    return {"kind": one.kind, **one.coordinate.entry()}


def outcome(one: Tracked, pruned_in: int | None, after: Survivors, controls: Sequence[Controls]) -> dict[str, Any]:
    """What became of one tracked weight.

    pruned_in: the prune that took it; None: no prune did; 0: gone before the first step.
    after: what that prune left; or the last one, of a weight that all have kept. The chance level of a weight is the
    part of its matrix, and of its controls, that remains there.
    """
    return {
        **entry(one),
        "pruned_in": pruned_in,
        "sparsity": after.size["sparsity"],
        "remaining_fraction": after.size["remaining_fraction"],
        "matrix_keep_rate": after.keep_rates[place_of(one.coordinate)],
        "control_keep_rates": [
            {
                "kind": group.kind,
                "kept": sum(after.alive[c] for c in group.coordinates),
                "count": len(group.coordinates),
            }
            for group in controls
            if group.of == one.coordinate
        ],
    }
