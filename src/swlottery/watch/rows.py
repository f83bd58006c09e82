"""The rows of ``watch.csv``: what is recorded of every tracked weight at one evaluation.

Percentiles are mid-ranks in percent: 100 · (smaller + equal/2) / all. What each column compares with:

- ``percentile_matrix``: |w| among all entries of its matrix, masked ones included as zeros.
- ``percentile_remaining``: |w| among all remaining weights in scope, of all tensors. *Remaining*, here and below: in
  the mask that the network was trained under, also in the row of a prune. ``alive`` is read from the new mask there.
- ``gradient_percentile``: |gradient| of the last step, complete and masked, before clipping, among the remaining
  weights of its matrix. ``moment_percentile``: AdamW's second moment (an average over 1/(1−β2) steps), likewise.
- ``update_percentile``: |w − w at the last evaluation|, that is the mean update since, likewise. AdamW divides the
  gradient's scale away, so this is the honest one.
- ``gradient``, ``update``: what the first and the last of these rank. Percentiles cannot say that all became smaller.

``over_threshold``: |w| over the threshold that pruning now would give (the last round's rate is taken for the final
ticket, which is not pruned any more). A masked weight has no percentiles but the first; before the first step of a
round there is no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swlottery.lottery.entries import Layout, Place, place_of, read_together
from swlottery.lottery.recorder import Snapshot
from swlottery.models.coordinates import Coordinate
from swlottery.watch.tracked import Tracked

if TYPE_CHECKING:
    from torch import Tensor


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
    """Of each of ``values[n]`` how many entries are smaller plus how many are not larger; and how many there are:
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


def rows(
    tracked: Sequence[Tracked], now: Snapshot, layout: Layout, initial: Mapping[Place, Tensor]
) -> list[dict[str, Any]]:
    """The rows of watch.csv at one evaluation, in the order of ``tracked``.

    initial: the down-projections of θ_0.
    """
    numbers = _numbers(list(dict.fromkeys(one.coordinate for one in tracked)), now, layout, initial)
    return [
        {
            "round": now.round,
            "step": now.step,
            "kind": one.kind,
            "layer": one.coordinate.layer,
            "out": one.coordinate.out,
            "in": one.coordinate.in_,
            **numbers[one.coordinate],
            "expert": one.coordinate.expert,
            "of": None if one.of is None else ":".join(map(str, one.of[:3])),
        }
        for one in tracked
    ]


def _numbers(
    coordinates: Sequence[Coordinate], now: Snapshot, layout: Layout, initial: Mapping[Place, Tensor]
) -> dict[Coordinate, dict[str, Any]]:
    import torch

    sources: dict[str, Mapping[str, Tensor] | None] = {
        "weights": now.weights,
        "mask": now.masks,
        "alive": now.alive,
        "gradient": now.gradients,
        "moment": now.moments,
        "since": now.since,
    }
    matrices = {name: layout.matrices(tensors) for name, tensors in sources.items() if tensors is not None}
    matrices["initial"] = dict(initial)
    by_place: dict[Place, list[Coordinate]] = {}
    for c in coordinates:
        by_place.setdefault(place_of(c), []).append(c)
    in_turn = [(c.out, c.in_) for here in by_place.values() for c in here]
    device = next(iter(now.weights.values())).device
    at = torch.tensor(in_turn, dtype=torch.int64).view(-1, 2).to(device)  # one upload for all matrices
    found: dict[Coordinate, dict[str, Any]] = {}
    remaining_ones: list[Coordinate] = []
    for place, here in by_place.items():
        own, at = at[: len(here)], at[len(here) :]
        threshold = None if now.thresholds is None else now.thresholds[layout.names[place[0]]]
        columns, remains = _of_matrix(own, {name: of[place] for name, of in matrices.items()}, threshold)
        for nth, c in enumerate(here):
            found[c] = {name: column[nth] for name, column in columns.items()}
            found[c]["percentile_remaining"] = None
        remaining_ones += [c for c, remaining in zip(here, remains, strict=True) if remaining]
    values = torch.tensor([abs(found[c]["value"]) for c in remaining_ones], dtype=torch.float32).to(device)
    everything = ((weights.abs(), now.masks[name]) for name, weights in now.weights.items())
    for c, rank in zip(remaining_ones, percentiles(values, everything) if remaining_ones else [], strict=True):
        found[c]["percentile_remaining"] = rank
    return found


def _of_matrix(
    at: Tensor, of: Mapping[str, Tensor], threshold: float | None
) -> tuple[dict[str, Sequence[Any]], list[bool]]:
    """The columns of the entries ``at[n, (out, in)]`` of one matrix; and which of them its mask leaves.

    of: tensors ``[out, in]`` by name: weights, initial, mask, alive, and after the first step gradient, moment, since.
    """
    outs, ins = at.unbind(1)
    weights, mask = of["weights"], of["mask"]
    size = weights.abs()
    parts = {
        "value": weights[outs, ins],
        "theta0": of["initial"][outs, ins],
        "remains": mask[outs, ins],
        "alive": of["alive"][outs, ins],
        "matrix": _double_ranks(size[outs, ins], [(size, None)]),
    }
    for name in ("gradient", "moment", "update"):
        if "since" in of:
            sizes = (weights - of["since"] if name == "update" else of[name]).abs()
            parts[name] = sizes[outs, ins]
            parts[f"{name} ranks"] = _double_ranks(parts[name], [(sizes, mask)])
    numbers = read_together(parts)
    values, initial = numbers["value"], numbers["theta0"]
    remains = [bool(number) for number in numbers["remains"]]
    columns: dict[str, Sequence[Any]] = {
        "value": values,
        "theta0": initial,
        "displacement": [value - theta0 for value, theta0 in zip(values, initial, strict=True)],
        "over_threshold": [abs(value) / threshold if threshold else None for value in values],
        "percentile_matrix": _percentiles(numbers["matrix"]),
        "alive": [bool(number) for number in numbers["alive"]],
    }
    for name in ("gradient", "moment", "update"):
        known = name in numbers
        percentile = _percentiles(numbers[f"{name} ranks"]) if known else [None] * len(at)
        columns[f"{name}_percentile"] = _in_mask(percentile, remains)
        if name != "moment":
            columns[name] = _in_mask(numbers[name] if known else [None] * len(at), remains)
    return columns, remains


def _in_mask(numbers: Sequence[float | None], remains: Sequence[bool]) -> list[float | None]:
    return [number if left else None for number, left in zip(numbers, remains, strict=True)]


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
