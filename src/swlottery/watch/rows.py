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

from swlottery.lottery.entries import Place, read_together
from swlottery.models.coordinates import Coordinate
from swlottery.watch.controls import Controls

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


Population = tuple["Tensor", "Tensor | None"]
"""Numbers, and a mask of the same shape that says which of them count; None: all."""

_SORTED = 1 << 24
"""Entries that are sorted at once on a GPU: what that takes beside them is a few hundred megabytes."""


def percentiles(values: Tensor, populations: Iterable[Population]) -> list[float]:
    """The mid-rank percentile of each of ``values[n]`` among all entries of the populations, in percent."""
    return _percentiles(_double_ranks(values, populations).tolist())


def _percentiles(double_ranks: Sequence[float]) -> list[float]:
    import torch

    *doubled, count = double_ranks
    return [100.0 * rank / max(count, 1) for rank in (torch.tensor(doubled, dtype=torch.int64) / 2).tolist()]


def _double_ranks(values: Tensor, populations: Iterable[Population]) -> Tensor:
    """Of each of ``values[n]`` how many entries are smaller plus how many are not larger; and how many there are at all:
    int64 ``[n + 1]`` on the values' device. On a GPU nothing is read, so that the host need not wait."""
    import torch

    counting = _double_ranks_by_bounds if values.device.type == "cpu" else _double_ranks_by_sorting
    total = torch.zeros(len(values) + 1, dtype=torch.int64, device=values.device)
    for population in populations:
        total += counting(values, population)
    return total


def _double_ranks_by_bounds(values: Tensor, population: Population) -> Tensor:
    """Sorts the few values, never the many entries."""
    import torch

    numbers, mask = population
    bounds, inverse = torch.unique(values, return_inverse=True)
    counts = torch.zeros(len(bounds) + 1, dtype=torch.int64)
    entries = numbers.flatten() if mask is None else numbers[mask]
    for part in torch.split(entries, 1 << 22):
        for right in (True, False):
            counts += torch.bincount(torch.bucketize(part, bounds, right=right), minlength=len(counts))
    return torch.cat([counts.cumsum(0)[inverse], torch.tensor([len(entries)])])


def _double_ranks_by_sorting(values: Tensor, population: Population) -> Tensor:
    """Sorts the many entries, which a GPU does fast; those that do not count are moved behind all others."""
    import torch

    numbers, mask = population
    remaining = numbers if mask is None else numbers.masked_fill(~mask, torch.inf)
    count = torch.full((1,), numbers.numel(), device=values.device) if mask is None else mask.sum().view(1)
    doubled = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    for part in torch.split(remaining.flatten(), _SORTED):  # type: ignore[no-untyped-call]
        ordered = part.sort().values
        for right in (True, False):
            doubled += torch.searchsorted(ordered, values, right=right)
    return torch.cat([doubled, count])


def rows(followed: Sequence[Followed], now: Moment, alive: Mapping[Place, Tensor]) -> list[dict[str, Any]]:
    """The rows of watch.csv at one evaluation, in the order of ``followed``.

    alive: the masks that say what is alive: at a round's last step already the new ones.
    """
    numbers = _numbers(list(dict.fromkeys(one.coordinate for one in followed)), now, alive)
    found = []
    for one in followed:
        c = one.coordinate
        found.append(
            {
                "round": now.round, "step": now.step, "kind": one.kind, "layer": c.layer, "out": c.out, "in": c.in_,
                **numbers[c],
                "expert": c.expert,
                "of": None if one.of is None else ":".join(map(str, one.of[:3])),
            }
        )  # fmt: skip
    return found


def _numbers(
    coordinates: Sequence[Coordinate], now: Moment, alive: Mapping[Place, Tensor]
) -> dict[Coordinate, dict[str, Any]]:
    import torch

    by_place: dict[Place, list[Coordinate]] = {}
    for c in coordinates:
        by_place.setdefault((c.layer, c.expert), []).append(c)
    in_turn = [(c.out, c.in_) for here in by_place.values() for c in here]
    device = next(iter(now.weights.values())).device
    at = torch.tensor(in_turn, dtype=torch.int64).view(-1, 2).to(device)  # one upload for all matrices
    found: dict[Coordinate, dict[str, Any]] = {}
    remain: dict[Coordinate, bool] = {}
    start = 0
    for place, here in by_place.items():
        columns, remains = _of_matrix(place, at[start : start + len(here)], now, alive)
        start += len(here)
        for nth, c in enumerate(here):
            found[c] = {name: column[nth] for name, column in columns.items()}
            remain[c] = remains[nth]
    living = [c for c in coordinates if remain[c]]
    values = torch.tensor([abs(found[c]["value"]) for c in living], dtype=torch.float32).to(device)
    ranked = percentiles(values, ((w.abs(), m) for w, m in now.everything)) if living else []
    placed = dict(zip(living, ranked, strict=True))
    for c in coordinates:
        found[c]["percentile_remaining"] = placed.get(c)
    return found


def _of_matrix(
    place: Place, at: Tensor, now: Moment, alive: Mapping[Place, Tensor]
) -> tuple[dict[str, Sequence[Any]], list[bool]]:
    """The columns of the entries ``at[n, (out, in)]`` of one matrix; and which of them the present mask leaves."""
    import torch

    outs, ins = at.unbind(1)
    weights, mask = now.weights[place], now.masks.get(place)
    size = weights.abs()
    everywhere = torch.ones(len(at), dtype=torch.bool, device=at.device)
    parts = {
        "value": weights[outs, ins],
        "theta0": now.initial[place][outs, ins],
        "remains": everywhere if mask is None else mask[outs, ins],
        "alive": alive[place][outs, ins] if place in alive else everywhere,
        "matrix": _double_ranks(size[outs, ins], [(size, None)]),
    }
    moved = None if now.since is None else {place: weights - now.since[place]}
    tensors = {"gradient": now.gradients, "moment": now.moments, "update": moved}
    for name, by_place in tensors.items():
        if by_place is not None:
            sizes = by_place[place].abs()
            parts[name] = sizes[outs, ins]
            parts[f"{name} ranks"] = _double_ranks(parts[name], [(sizes, mask)])
    numbers = read_together(parts)
    values, initial = numbers["value"], numbers["theta0"]
    remains = [bool(number) for number in numbers["remains"]]
    threshold = None if now.thresholds is None else now.thresholds[place]
    columns: dict[str, Sequence[Any]] = {
        "value": values,
        "theta0": initial,
        "displacement": [value - theta0 for value, theta0 in zip(values, initial, strict=True)],
        "over_threshold": [abs(value) / threshold if threshold else None for value in values],
        "percentile_matrix": _percentiles(numbers["matrix"]),
        "alive": [bool(number) for number in numbers["alive"]],
    }
    for name in tensors:
        known = name in numbers
        percentile = _percentiles(numbers[f"{name} ranks"]) if known else [None] * len(at)
        columns[f"{name}_percentile"] = _living(percentile, remains)
        if name != "moment":
            columns[name] = _living(numbers[name] if known else [None] * len(at), remains)
    return columns, remains


def _living(numbers: Sequence[float | None], remains: Sequence[bool]) -> list[float | None]:
    return [number if left else None for number, left in zip(numbers, remains, strict=True)]


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
