"""The keys by which weights are ranked: (score, hash of the position), of which no two are equal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

from swlottery.errors import BadInput
from swlottery.lottery.criteria import Criterion

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 1 << 18
"""Weights looked at at once on a CPU: their scores fit a processor's second-level cache."""

LARGE_CHUNK = 1 << 26
"""The same on a GPU, where every chunk makes the host wait for the device twice: most tensors are one. It bounds what a
chunk takes beside its weights, half a gigabyte."""


def position_hash(addresses: Tensor, seed: int) -> Tensor:
    """A 64-bit hash (int64) of addresses (int64): 2⁴⁰ times a tensor's number, plus a flat position in it.

    Splitmix64 (Steele, Lea & Flood 2014) in wrapping int64 arithmetic: a permutation of the 64-bit numbers.
    """
    mixed = addresses + ((seed * 0x9E3779B97F4A7C15 + (1 << 63)) % (1 << 64) - (1 << 63))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed.bitwise_xor_(_shifted(mixed, shift)).mul_(factor - (1 << 64))
    return mixed.bitwise_xor_(_shifted(mixed, 31))


def _shifted(numbers: Tensor, shift: int) -> Tensor:
    """Shifted to the right with zeros from the left; int64's own shift repeats the sign."""
    return (numbers >> shift).bitwise_and_((1 << (64 - shift)) - 1)


def chunks(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first flat position, at most ``CHUNK`` entries) in row-major order, with never a copy of the whole."""
    import torch

    size, start = CHUNK if tensor.device.type == "cpu" else LARGE_CHUNK, 0
    parts: Iterable[Tensor]
    if tensor.is_contiguous() or tensor.dim() == 1:
        parts = torch.split(tensor.reshape(-1), size)
    elif rows := size // tensor[0].numel():
        parts = (part.reshape(-1) for part in torch.split(tensor, rows))
    else:
        parts = (chunk for row in tensor for _, chunk in chunks(row))
    for part in parts:
        if len(part):
            yield start, part
        start += len(part)


class Key(NamedTuple):
    """What weights are ordered by."""

    score: float
    hash: int


LOWEST, HIGHEST = Key(-math.inf, -(1 << 63)), Key(math.inf, (1 << 63) - 1)


class Keys:
    """What a key is made of. Scores are compared in the narrowest type that holds those of all tensors."""

    def __init__(self, criterion: Criterion, seed: int, weights: Mapping[str, Tensor]) -> None:
        import torch

        self.criterion, self.seed = criterion, seed
        types = (criterion.scores(tensor.new_empty(0)).dtype for tensor in weights.values())
        self.device = next((tensor.device for tensor in weights.values()), torch.device("cpu"))
        self.type = reduce(torch.promote_types, types, torch.bfloat16)
        self.unread: list[tuple[str, Tensor]] = []

    def scores(self, name: str, weights: Tensor, left: Tensor | None = None) -> Tensor:
        """The scores of some weights of the tensor ``name``. Where ``left`` is True they are finite, else `BadInput`:
        at once on a CPU; on a GPU, where looking makes the host wait, in `check`."""
        import torch

        scores = self.criterion.scores(weights).to(self.type)
        if scores.device.type != "cpu":
            finite = scores.isfinite()
            self.unread.append((name, (finite if left is None else finite.logical_or_(~left)).all()))
        elif not math.isfinite(float(scores.sum(dtype=torch.float32))):  # of finite scores too, where they overflow
            remaining = scores if left is None else scores[left]
            if not bool(remaining.isfinite().all()):
                raise self._refused(name)
        return scores

    def check(self) -> None:
        """Raise `BadInput` if any of the scores since the last check was not finite."""
        import torch

        finite = torch.stack([finite for _, finite in self.unread]).tolist() if self.unread else []
        for (name, _), fine in zip(self.unread, finite, strict=True):
            if not fine:
                raise self._refused(name)
        self.unread = []

    def _refused(self, name: str) -> BadInput:
        return BadInput(f"{name} has scores that are NaN or infinite: nothing can be pruned by them")


def key_of_rank(scores: Tensor, hashes: Tensor, rank: int) -> Key:
    """The key of this rank (1 = lowest) among those given."""
    score = nth_lowest(scores, rank)
    before = int((scores < score).count_nonzero())
    return Key(float(score), int(nth_lowest(hashes[scores == score], rank - before)))


def nth_lowest(numbers: Tensor, n: int) -> Tensor:
    """The n-th lowest. On a GPU `kthvalue` is refused where determinism is asked for, and a sort is fast there."""
    return numbers.kthvalue(n).values if numbers.device.type == "cpu" else numbers.sort().values[n - 1]
