"""Matched controls: which ordinary weights a super weight is compared with.

A weight found in a trained network is large there by construction, so random weights are no fair comparison. Four
kinds, each of `COUNT` (19: with the weight itself twenty, so that its rank among them is a test at 5 %):

- ``control_rank``: nearest in rank of |θ_T1|, same matrix. The primary kind.
- ``control_sigma``: nearest in |θ_T1|/σ, one after the other from the other down-projections. For a weight of rank 1,
  which no weight of its own matrix brackets.
- ``control_initial``: nearest in rank of |θ_0|, same matrix.
- ``control_both``: nearest in both ranks at once (the larger of the two distances), same matrix.

All are alive after the prune that follows their choice, and none is itself a tracked weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.lottery.entries import Place, place_of, read
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor

COUNT = 19
KINDS = ("control_rank", "control_sigma", "control_initial", "control_both")


@dataclass(frozen=True)
class Controls:
    """The controls of one kind of one weight. gap: |w| over the largest control's, at the time of the choice."""

    of: Coordinate
    kind: str
    coordinates: list[Coordinate]
    gap: float | None

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Controls:
        """From JSON."""
        chosen = [Coordinate(*c) for c in content["coordinates"]]
        return cls(Coordinate(*content["of"]), content["kind"], chosen, content["gap"])


def choose(
    of: Coordinate,
    kind: str,
    trained: Mapping[Place, Tensor],
    initial: Mapping[Place, Tensor],
    alive: Mapping[Place, Tensor],
    taken: set[Coordinate],
) -> Controls:
    """The controls of one kind.

    Args:
        trained, initial: |θ_T1| and |θ_0| of every down-projection, ``[out, in]``.
        alive: which weights remain, ``[out, in]``; empty where everything may be chosen.
        taken: coordinates of tracked weights, which are no controls.
    """
    place = place_of(of)
    if kind == "control_sigma":
        found = _at_equal_sigma(of, trained, alive, taken)
    else:
        distance = {
            "control_rank": lambda: _rank_distance(trained[place], of),
            "control_initial": lambda: _rank_distance(initial[place], of),
            "control_both": lambda: _rank_distance(trained[place], of).maximum(_rank_distance(initial[place], of)),
        }[kind]()
        found = _nearest(distance, place, alive, taken, COUNT)
    reference = initial if kind == "control_initial" else trained
    own, *others = read(reference, [of, *found])
    largest = max(others, default=0.0)
    return Controls(of, kind, found, own / largest if largest > 0 else None)


def _rank_distance(size: Tensor, of: Coordinate) -> Tensor:
    """How many ranks every entry of ``size[out, in]`` is from the given one. Equal entries are ranked by position."""
    import torch

    order = size.flatten().argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.view(size.shape)
    return (rank - rank[of.out, of.in_]).abs()


def _nearest(
    distance: Tensor, place: Place, alive: Mapping[Place, Tensor], taken: set[Coordinate], count: int
) -> list[Coordinate]:
    import torch

    flat = distance.flatten().to(torch.float64)
    if alive:
        flat = flat.masked_fill(~alive[place].flatten(), torch.inf)
    farthest = flat.topk(min(count + len(taken), len(flat)), largest=False).values[-1]
    # topk does not say which of equal ones it takes: look at all that are as near as its last.
    places = ((flat <= farthest) & flat.isfinite()).nonzero().flatten()
    near = sorted(torch.stack([flat[places], places.to(flat.dtype)], 1).tolist())
    columns = distance.shape[1]
    found = [Coordinate(place[0], int(at) // columns, int(at) % columns, place[1]) for _, at in near]
    return [coordinate for coordinate in found if coordinate not in taken][:count]


def _at_equal_sigma(
    of: Coordinate, trained: Mapping[Place, Tensor], alive: Mapping[Place, Tensor], taken: set[Coordinate]
) -> list[Coordinate]:
    """In turn from every other matrix, its nearest in |w|/σ first."""
    own = trained[place_of(of)]
    wanted = own[of.out, of.in_] / _sigma(own)
    others = [place for place in trained if place != place_of(of)]
    each = -(-COUNT // max(1, len(others)))
    near = [
        _nearest((trained[place] / _sigma(trained[place]) - wanted).abs(), place, alive, taken, each)
        for place in others
    ]
    in_turn = [found[nth] for nth in range(each) for found in near if nth < len(found)]
    return in_turn[:COUNT]


def _sigma(size: Tensor) -> Tensor:
    """σ of a matrix from its magnitudes, about zero."""
    return size.pow(2).mean().sqrt().clamp_min(1e-30)
