"""The down-projections as matrices, and few of their entries read together.

On a GPU every number that is read by itself makes the host wait for all work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from swlottery.lottery.start import Network
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor

Place = tuple[int, int | None]
"""(layer, expert): one down-projection matrix."""


class Layout:
    """Where the down-projections of a network of one part a block are stored. names: the parameter's, by layer."""

    def __init__(self, network: Network) -> None:
        by_id = {id(p): name for name, p in network.parameters.items()}
        self.downs = network.roles.downs
        self.names = {down.layer: by_id[id(down.parts[0].weight)] for down in self.downs}

    def matrices(self, tensors: Mapping[str, Tensor]) -> dict[Place, Tensor]:
        """Of tensors by parameter name those of the down-projections: views ``[out, in]``, by place."""
        found: dict[Place, Tensor] = {}
        for down in self.downs:
            tensor = tensors[self.names[down.layer]].detach()
            for expert in down.numbers():
                found[down.layer, expert] = down.part(expert).view(tensor, expert)
        return found

    def position(self, c: Coordinate) -> int:
        """The flat position of a weight in its parameter."""
        down = self.downs[c.layer]
        matrix = down.matrix(c.expert)  # a view of the parameter
        offset = int(matrix.storage_offset() - down.parts[0].weight.data.storage_offset())
        return offset + c.out * matrix.stride(0) + c.in_ * matrix.stride(1)


def place_of(c: Coordinate) -> Place:
    """The matrix that a coordinate lies in."""
    return c.layer, c.expert


def read(matrices: Mapping[Place, Tensor], coordinates: Sequence[Coordinate]) -> list[Any]:
    """The entries at the coordinates of matrices ``[out, in]`` of one type, as Python's numbers."""
    import torch

    if not coordinates:
        return []
    entries: list[Any] = torch.stack([matrices[place_of(c)][c.out, c.in_] for c in coordinates]).tolist()
    return entries


def read_together(parts: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """1-D tensors of a device, of any types, by name; in float64, which holds floats and counts exactly."""
    import torch

    numbers = iter(torch.cat([part.double() for part in parts.values()]).tolist())
    return {name: list(islice(numbers, len(part))) for name, part in parts.items()}
