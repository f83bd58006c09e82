"""Criteria: by what weights are ranked when some have to go. The lowest scores go first.

A criterion is one function, weights → scores, entry by entry: it is called with flat pieces of a tensor, never with all
of it. A new one is a function and a row in ``CRITERIA``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Criterion:
    """scores: weights ``[n]`` → scores ``[n]``; the lowest go first.

    per_tensor: every tensor gives its share, instead of all ranked together. by_magnitude: whether the scores are |w|,
    so that a prune has a threshold for it.
    """

    scores: Callable[[Tensor], Tensor]
    per_tensor: bool = False
    by_magnitude: bool = True


def magnitude(weights: Tensor) -> Tensor:
    """|w|."""
    return weights.abs()


def constant(weights: Tensor) -> Tensor:
    """All weights equal: the seeded hash of the position, which breaks ties, decides alone."""
    return weights.new_zeros(weights.shape)


CRITERIA = {
    "global-magnitude": Criterion(magnitude),
    "layer-magnitude": Criterion(magnitude, per_tensor=True),
    "random": Criterion(constant, by_magnitude=False),
}
