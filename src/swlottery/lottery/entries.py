"""Few entries of large matrices, read together: on a GPU every number read by itself makes the host wait for all work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor

Place = tuple[int, int | None]
"""(layer, expert): one down-projection matrix."""


def read(matrices: Mapping[Place, Tensor], coordinates: Sequence[Coordinate]) -> list[Any]:
    """The entries at the coordinates of matrices ``[out, in]`` of one type, as Python's numbers."""
    import torch

    if not coordinates:
        return []
    entries: list[Any] = torch.stack([matrices[c.layer, c.expert][c.out, c.in_] for c in coordinates]).tolist()
    return entries


def read_alive(masks: Mapping[Place, Tensor], coordinates: Sequence[Coordinate], elsewhere: bool) -> list[bool]:
    """Whether the coordinates remain; ``elsewhere``: what holds of a matrix that is out of scope and has no mask."""
    masked = [c for c in coordinates if (c.layer, c.expert) in masks]
    found = dict(zip(masked, read(masks, masked), strict=True))
    return [found.get(c, elsewhere) for c in coordinates]


def read_together(parts: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """1-D tensors of a device, of any types, by name; in float64, which holds floats and counts exactly."""
    import torch

    numbers = iter(torch.cat([part.double() for part in parts.values()]).tolist())
    return {name: list(islice(numbers, len(part))) for name, part in parts.items()}
