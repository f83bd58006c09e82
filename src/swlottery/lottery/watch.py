"""The watch: what stands in ``watch.csv`` about every followed weight at one evaluation.

Percentiles are mid-ranks in percent: 100 · (smaller + equal/2) / all. What each column compares with:

- ``percentile_matrix``: |w| among all entries of its matrix, masked ones included as zeros.
- ``percentile_remaining``: |w| among all remaining weights in scope.
- ``gradient_percentile``: |gradient| of the last step, complete and masked, before clipping, among the remaining
  weights of its matrix. ``moment_percentile``: AdamW's second moment (an average over 1/(1−β2) steps), likewise.
- ``update_percentile``: |w − w at the last evaluation|, that is the mean update since, likewise. AdamW divides the
  gradient's scale away, so this is the honest one.
- ``gradient``, ``update``: what the first and the last of these rank. Percentiles cannot say that all became smaller.

``over_threshold``: |w| over the threshold that pruning now would give (the last round's rate stands for the final
ticket, which is not pruned any more). A masked weight has no percentiles but the first; before the first step of a
round there is no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swlottery.find.coordinates import Coordinate
from swlottery.lottery.controls import Controls, Place

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Followed:
    """One weight that is followed. kind: super_weight, leader, foreign, or a kind of control, then ``of`` whom."""

    kind: str
    coordinate: Coordinate
    of: Coordinate | None = None

    @property
    def is_control(self) -> bool:
        """Whether it is an ordinary weight."""
        return self.of is not None


@dataclass
class Moment:
    """The network at one evaluation. All matrices are ``[out, in]``, by (layer, expert).

    thresholds: what pruning now would give, by matrix; None under a criterion that does not look at magnitudes.
    since: the weights at the last evaluation. gradients, moments, since: None before a round's first step.
    everything: (weights, mask) of each tensor in scope.
    """

    round: int
    step: int
    weights: Mapping[Place, Tensor]
    initial: Mapping[Place, Tensor]
    masks: Mapping[Place, Tensor]
    thresholds: Mapping[Place, float] | None
    gradients: Mapping[Place, Tensor] | None
    moments: Mapping[Place, Tensor] | None
    since: Mapping[Place, Tensor] | None
    everything: Sequence[tuple[Tensor, Tensor]] = field(default_factory=list)


def percentiles(values: Sequence[float], populations: Iterable[Tensor]) -> list[float]:
    """The mid-rank percentile of each value among all entries of the populations, in percent.

    Counts by sorting the few values, never the many entries.
    """
    import torch

    bounds, inverse = torch.unique(torch.tensor(values, dtype=torch.float32), return_inverse=True)
    below = torch.zeros(len(bounds) + 1, dtype=torch.int64)
    below_or_equal = torch.zeros(len(bounds) + 1, dtype=torch.int64)
    count = 0
    for population in populations:
        for part in torch.split(population.flatten(), 1 << 22):
            on_device = bounds.to(part.device)
            count += len(part)
            below += torch.bincount(torch.bucketize(part, on_device, right=True), minlength=len(below)).cpu()
            below_or_equal += torch.bincount(torch.bucketize(part, on_device), minlength=len(below)).cpu()
    ranks = (below.cumsum(0) + below_or_equal.cumsum(0))[:-1] / 2
    return [100.0 * float(ranks[nth]) / max(count, 1) for nth in inverse.tolist()]


def rows(followed: Sequence[Followed], now: Moment, alive: Mapping[Place, Tensor]) -> list[dict[str, Any]]:
    """The rows of watch.csv at one evaluation, in the order of ``followed``.

    alive: the masks that say what is alive: at a round's last step already the new ones.
    """
    coordinates = list(dict.fromkeys(one.coordinate for one in followed))
    numbers = _numbers(coordinates, now)
    found = []
    for one in followed:
        c = one.coordinate
        place = (c.layer, c.expert)
        found.append(
            {
                "round": now.round, "step": now.step, "kind": one.kind, "layer": c.layer, "out": c.out, "in": c.in_,
                **numbers[c],
                "alive": bool(alive[place][c.out, c.in_]) if place in alive else True,
                "expert": c.expert,
                "of": None if one.of is None else ":".join(map(str, one.of[:3])),
            }
        )  # fmt: skip
    return found


def _numbers(coordinates: Sequence[Coordinate], now: Moment) -> dict[Coordinate, dict[str, Any]]:
    by_place: dict[Place, list[Coordinate]] = {}
    for c in coordinates:
        by_place.setdefault((c.layer, c.expert), []).append(c)
    found: dict[Coordinate, dict[str, Any]] = {}
    for place, here in by_place.items():
        weights, initial = now.weights[place], now.initial[place]
        mask = now.masks.get(place)
        size = weights.abs()
        columns: dict[str, list[float | None]] = {"percentile_matrix": list(_of(here, size, None))}
        moved = None if now.since is None else {place: weights - now.since[place]}
        for name, tensors in (("gradient", now.gradients), ("moment", now.moments), ("update", moved)):
            ranks: list[float | None] = [None] * len(here)
            sizes: list[float | None] = [None] * len(here)
            if tensors is not None:
                ranks = _living(here, mask, _of(here, tensors[place].abs(), mask))
                sizes = _living(here, mask, [abs(float(tensors[place][c.out, c.in_])) for c in here])
            columns[f"{name}_percentile"] = ranks
            if name != "moment":
                columns[name] = sizes
        threshold = None if now.thresholds is None else now.thresholds[place]
        for nth, c in enumerate(here):
            value, theta0 = float(weights[c.out, c.in_]), float(initial[c.out, c.in_])
            found[c] = {
                "value": value,
                "theta0": theta0,
                "displacement": value - theta0,
                "over_threshold": abs(value) / threshold if threshold else None,
                **{name: column[nth] for name, column in columns.items()},
            }
    living = [c for c in coordinates if _alive(c, now.masks.get((c.layer, c.expert)))]
    values = [abs(found[c]["value"]) for c in living]
    places = percentiles(values, (w.abs()[m] for w, m in now.everything)) if living else []
    for c in coordinates:
        found[c]["percentile_remaining"] = None
    for c, percentile in zip(living, places, strict=True):
        found[c]["percentile_remaining"] = percentile
    return found


def _of(here: Sequence[Coordinate], sizes: Tensor, mask: Tensor | None) -> list[float]:
    values = [float(sizes[c.out, c.in_]) for c in here]
    return percentiles(values, [sizes if mask is None else sizes[mask]])


def _living(here: list[Coordinate], mask: Tensor | None, values: list[float]) -> list[float | None]:
    return [value if _alive(c, mask) else None for c, value in zip(here, values, strict=True)]


def _alive(c: Coordinate, mask: Tensor | None) -> bool:
    return mask is None or bool(mask[c.out, c.in_])


def as_followed(chosen: Iterable[Controls]) -> list[Followed]:
    """The followed weights that a choice of controls adds."""
    return [Followed(one.kind, coordinate, one.of) for one in chosen for coordinate in one.coordinates]


def box(weights: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """The numbers of a boxplot of a matrix's remaining weights; whiskers reach to 1.5 interquartile ranges."""
    import numpy as np

    values = (weights if mask is None else weights[mask]).flatten().float().cpu().numpy()
    if not len(values):
        return {"count": 0, **dict.fromkeys(("minimum", "low", "q1", "median", "q3", "high", "maximum"))}
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    reach = 1.5 * (q3 - q1)
    low, high = min(values[values >= q1 - reach].min(), q1), max(values[values <= q3 + reach].max(), q3)
    ends = {"minimum": values.min(), "maximum": values.max()}
    numbers = ends | {"low": low, "q1": q1, "median": median, "q3": q3, "high": high}
    return {"count": len(values), **{name: float(number) for name, number in numbers.items()}}
