"""What the candidates are compared with: ordinary weights of the same matrices."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor


def controls(
    downs: Sequence[DownProjection], found: Sequence[Coordinate], count: int, never: Collection[Coordinate] = ()
) -> list[Coordinate]:
    """For each found weight those of its matrix nearest to it in |w|, none of them found or in ``never``, none twice.

    ``count`` in all, shared evenly among the found weights and in their order. Where magnitudes tie, as they do in
    quantised checkpoints, the place in the matrix decides.
    """
    chosen: list[Coordinate] = []
    for nth, coordinate in enumerate(found):
        layer, out, in_, expert = coordinate
        size = downs[layer].matrix(expert).float().abs()
        wanted = count // len(found) + (nth < count % len(found))
        taken = {*found, *never, *chosen}
        places = nearest(size, size[out, in_], wanted + len(taken))
        near = (_at(place, size.shape[1], coordinate) for place in places)
        chosen += islice((other for other in near if other not in taken), wanted)
    return chosen


def nearest(sizes: Tensor, size: Tensor, count: int) -> list[int]:
    """The flat places of the ``count`` entries nearest to ``size``, nearest first, ties by place."""
    import torch

    distances = (sizes - size).abs().flatten()
    farthest = distances.topk(min(count, len(distances)), largest=False).values[-1]
    places = (distances <= farthest).nonzero().flatten()
    order: list[int] = places[torch.sort(distances[places], stable=True).indices][:count].tolist()
    return order


def random_set(
    downs: Sequence[DownProjection], found: Sequence[Coordinate], seed: int, never: Collection[Coordinate] = ()
) -> list[Coordinate]:
    """As many weights from the same matrices as ``found``, drawn uniformly, none of them found or in ``never``."""
    draw = random.Random(seed)
    drawn: list[Coordinate] = []
    for layer, _, _, expert in found:
        out, in_ = downs[layer].matrix(expert).shape
        other = None
        while other is None or other in (*found, *never, *drawn):
            other = Coordinate(layer, draw.randrange(out), draw.randrange(in_), expert)
        drawn.append(other)
    return drawn


def largest_others(
    downs: Sequence[DownProjection], found: Sequence[Coordinate], never: Collection[Coordinate] = ()
) -> list[Coordinate]:
    """As many weights as ``found``, from the same matrices: the largest in magnitude, none found or in ``never``."""
    largest: list[Coordinate] = []
    matrices: dict[tuple[int, int | None], list[Coordinate]] = {}
    for coordinate in found:
        matrices.setdefault((coordinate.layer, coordinate.expert), []).append(coordinate)
    for (layer, expert), members in matrices.items():
        matrix = downs[layer].matrix(expert)
        most = min(2 * len(members) + len(never), matrix.numel())
        order = matrix.float().abs().flatten().topk(most).indices.tolist()
        others = (_at(place, matrix.shape[1], members[0]) for place in order)
        largest += islice((other for other in others if other not in (*found, *never)), len(members))
    return largest


def _at(place: int, width: int, coordinate: Coordinate) -> Coordinate:
    """The weight at a flat place of the matrix that ``coordinate`` is in."""
    out, in_ = divmod(place, width)
    return coordinate._replace(out=out, in_=in_)
