"""A coordinate, and taking weights out of a model for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

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
