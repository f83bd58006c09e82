"""A coordinate, and changing weights of a model for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from swlottery.errors import BadInput
from swlottery.models.architectures import DownProjection

if TYPE_CHECKING:
    from torch import Tensor


class Coordinate(NamedTuple):
    """One scalar of one down-projection, 0-based; ``expert`` is None where there are no experts."""

    layer: int
    out: int
    in_: int
    expert: int | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Coordinate:
        """The coordinate in an entry of a record or of an event."""
        return cls(entry["layer"], entry["out"], entry["in"], entry["expert"])

    def entry(self) -> dict[str, Any]:
        """As the keys of a record."""
        return {"layer": self.layer, "expert": self.expert, "out": self.out, "in": self.in_}

    def __str__(self) -> str:
        expert = "" if self.expert is None else f", expert {self.expert}"
        return f"({self.layer}, {self.out}, {self.in_}{expert})"


def check_place(downs: Sequence[DownProjection], coordinate: Coordinate, model: str) -> None:
    """Raise `BadInput` for a coordinate that the ``model`` with these down-projections does not have."""
    layer, out, in_, expert = coordinate
    if layer < len(downs):
        with suppress(IndexError):
            shape = downs[layer].shape(expert)
            if out < shape[0] and in_ < shape[1]:
                return
    last = downs[min(layer, len(downs) - 1)]
    of = "" if last.experts is None else f", each of {last.experts} experts (LAYER,OUT,IN,EXPERT)"
    raise BadInput(f"{model} has no weight {coordinate}: it has {len(downs)} layers of {last.parts[0].shape}{of}")


def rank_of(size: Tensor, out: int, in_: int) -> int:
    """The rank of an entry among all of ``size``, the |w| of its matrix: the largest has 1."""
    return 1 + int((size > size[out, in_]).sum())


def same_channel(downs: Sequence[DownProjection], coordinate: Coordinate) -> list[Coordinate]:
    """The weights that feed the same output channel: the row of the matrix that this one is in."""
    width = downs[coordinate.layer].shape(coordinate.expert)[1]
    return [coordinate._replace(in_=in_) for in_ in range(width)]


@contextmanager
def scaled(downs: Sequence[DownProjection], coordinates: Iterable[Coordinate], factor: float = 0.0) -> Iterator[None]:
    """Multiply weights by ``factor`` inside a ``with`` block; by default they are set to zero.

    Afterwards, whatever happened, they are bit for bit as before.
    """
    import torch

    places: dict[tuple[int, int | None], tuple[list[int], list[int]]] = {}
    for layer, out, in_, expert in dict.fromkeys(coordinates):
        outs, ins = places.setdefault((layer, expert), ([], []))
        outs.append(out)
        ins.append(in_)
    with ExitStack() as stack:
        for (layer, expert), place in places.items():
            values = downs[layer].matrix(expert)[place]
            values = values * factor if factor else torch.zeros_like(values)
            stack.enter_context(downs[layer].part(expert).changed(expert, place, values))
        yield
