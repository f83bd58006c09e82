"""A coordinate, and taking weights out of a model for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from swlottery.errors import BadInput
from swlottery.models.architectures import DownProjection


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
        experts, shape = downs[layer].experts, downs[layer].shape
        fits = expert is None if experts is None else expert is not None and expert < experts
        if fits and out < shape[0] and in_ < shape[1]:
            return
    last = downs[min(layer, len(downs) - 1)]
    of = "" if last.experts is None else f", each of {last.experts} experts (LAYER,OUT,IN,EXPERT)"
    raise BadInput(f"{model} has no weight {coordinate}: it has {len(downs)} layers of {last.shape}{of}")


@contextmanager
def zeroed(downs: Sequence[DownProjection], coordinates: Iterable[Coordinate]) -> Iterator[None]:
    """Set weights to zero inside a ``with`` block; afterwards, whatever happened, they are bit for bit as before."""
    entries = [(downs[c.layer].matrix(c.expert), c.out, c.in_) for c in dict.fromkeys(coordinates)]
    before = [matrix[out, in_].clone() for matrix, out, in_ in entries]
    try:
        for matrix, out, in_ in entries:
            matrix[out, in_] = 0
        yield
    finally:
        for (matrix, out, in_), value in zip(entries, before, strict=True):
            matrix[out, in_] = value
