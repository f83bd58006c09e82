"""Which weights go: exactly so many of the lowest scores, without a copy of all scores.

Every weight has a key (score, hash of its position), and no two keys are equal: the hash is a permutation of the 64-bit
numbers. So "the lowest ``count`` keys" is one well-defined set, whatever the chunks, threads, devices and processes,
however many scores are equal. It is found in one pass:

1. A sample of the keys gives a bracket [low, high] that holds the key of rank ``count`` all but surely.
2. The pass removes what is below the bracket, keeps what is above, and gathers the few keys inside.
3. Among these the exact one is found. Were its rank outside the bracket, all is done again with a wider one.

Mass ties (quantised checkpoints, zeros, the random criterion) need no case of their own: the bracket then is one of
hashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from swlottery.lottery.criteria import CRITERIA, Criterion
from swlottery.lottery.keys import HIGHEST, LOWEST, Key, Keys, chunks, key_of_rank, nth_lowest, position_hash

if TYPE_CHECKING:
    from torch import Tensor

SIGMAS = 4.0
"""Half the bracket's width in standard deviations of a sampled rank: it misses once in 16,000 times."""


def select(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    count: int,
    seed: int,
    criterion: Criterion = CRITERIA["global-magnitude"],
    protected: Mapping[str, Tensor | Sequence[int]] | None = None,
) -> dict[str, Tensor]:
    """New masks, with ``count`` weights less: those with the lowest scores are gone, equal ones by a seeded hash.

    Args:
        weights: tensors of any shape and strides.
        masks: True = remains, in the shapes of the weights. Their order numbers the tensors for the hash.
        criterion: its scores decide; with ``per_tensor`` each tensor gives its share of ``count``.
        protected: by tensor, flat positions (row-major) that are never removed; ``count`` others still are.

    Raises:
        BadInput: the score of a remaining weight is NaN or infinite.
        ValueError: ``count`` is negative or more than may be removed, or a mask has another shape than its weights.
    """
    import torch

    protected = protected or {}
    with torch.no_grad():
        ranked = [_Ranked(i, name, weights[name], masks[name], protected.get(name, ())) for i, name in enumerate(masks)]
        free = _left(ranked)
        if not 0 <= count <= sum(free):
            raise ValueError(f"{count} weights are to go, and {sum(free)} may")
        keys = Keys(criterion, seed, {one.name: one.weights for one in ranked})
        if criterion.per_tensor:
            for one, size, part in zip(ranked, free, shares(free, count), strict=True):
                _remove_lowest([one], size, part, keys)
        else:
            _remove_lowest(ranked, sum(free), count, keys)
        return {one.name: one.finished() for one in ranked}


def shares(free: Sequence[int], count: int) -> list[int]:
    """``count`` divided in proportion to ``free``: floors, and the missing ones by largest remainder, the first of
    equal ones first. No share is more than there is."""
    total = max(1, sum(free))
    parts = [count * size // total for size in free]
    by_remainder = sorted(range(len(free)), key=lambda i: -(count * free[i] % total))
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts


class _Ranked:
    """One tensor of those ranked. ``address``: that of its first weight. ``left``: its new mask in the making, flat and
    without the ``spared`` places: what may be removed, then what is left of that."""

    def __init__(
        self, number: int, name: str, weights: Tensor, mask: Tensor, protected: Tensor | Sequence[int]
    ) -> None:
        import torch

        if weights.shape != mask.shape:
            raise ValueError(f"the mask of {name} has shape {tuple(mask.shape)}, its weights {tuple(weights.shape)}")
        self.address, self.name, self.weights, self.mask = number << 40, name, weights.detach(), mask
        self.left = torch.empty(mask.numel(), dtype=torch.bool, device=mask.device)
        self.spared = torch.empty(0, dtype=torch.int64, device=mask.device)
        if len(protected):
            places = torch.as_tensor(protected, dtype=torch.int64, device=mask.device)
            self.spared = places[mask.take(places)]
        self.reset()

    def reset(self) -> None:
        """Nothing is removed yet."""
        self.left.view(self.mask.shape).copy_(self.mask)
        self.left[self.spared] = False

    def finished(self) -> Tensor:
        """The new mask, in the weights' shape."""
        self.left[self.spared] = True
        return self.left.view(self.mask.shape)


def _left(ranked: Sequence[_Ranked]) -> list[int]:
    """How many weights of each tensor may be removed, or are left of those."""
    import torch

    return torch.stack([one.left.count_nonzero() for one in ranked]).tolist() if ranked else []


class _Inside:
    """The scores inside the bracket, and their places (int32), by chunk."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chunks: list[tuple[int, Tensor, Tensor, Tensor]] = []

    def add(self, address: int, left: Tensor, scores: Tensor, places: Tensor) -> None:
        """Add those of a chunk: its first ``address``, and ``left``, its part of a mask."""
        self.chunks.append((address, left, scores, places.int()))

    def __len__(self) -> int:
        return sum(len(places) for _, _, _, places in self.chunks)

    def remove_lowest(self, count: int) -> None:
        """Remove the ``count`` lowest of these keys."""
        import torch

        scores = torch.cat([scores for _, _, scores, _ in self.chunks])
        score = nth_lowest(scores, count)
        hashes = torch.cat([position_hash(places.long() + at, self.seed) for at, _, _, places in self.chunks])
        hashes.masked_fill_(scores != score, HIGHEST.hash)  # only those of equal scores decide
        last = nth_lowest(hashes, count - int((scores < score).count_nonzero()))
        kept = ~((scores < score) | ((scores == score) & (hashes <= last)))
        parts = torch.split(kept, [len(places) for *_, places in self.chunks])
        for (_, left, _, places), here in zip(self.chunks, parts, strict=True):
            left.index_copy_(0, places.long(), here)


def _remove_lowest(ranked: Sequence[_Ranked], total: int, count: int, keys: Keys) -> None:
    """Remove the ``count`` lowest keys of the ``total`` left."""
    if count == 0:
        return
    sigmas = SIGMAS
    while True:
        low, high = _bracket(ranked, count / total, keys, sigmas)
        inside = _Inside(keys.seed)
        for one in ranked:
            _scan(one, low, high, keys, inside)
        keys.check()
        missing = count - (total - sum(_left(ranked)))
        if 0 < missing <= len(inside):
            inside.remove_lowest(missing)
            return
        for one in ranked:
            one.reset()
        sigmas *= 4


def _bracket(ranked: Sequence[_Ranked], share: float, keys: Keys, sigmas: float) -> tuple[Key, Key]:
    """Two keys between which that one is, but for bad luck, that has this share of all below it."""
    scores, hashes = _sample(ranked, keys)
    drawn = len(scores)
    margin = sigmas * (1 + math.sqrt(drawn * share * (1 - share)))
    first, last = math.floor(drawn * share - margin), math.ceil(drawn * share + margin)
    low = key_of_rank(scores, hashes, first) if first >= 1 else LOWEST
    high = key_of_rank(scores, hashes, last) if last <= drawn else HIGHEST
    return low, high


def _sample(ranked: Sequence[_Ranked], keys: Keys) -> tuple[Tensor, Tensor]:
    """Scores and hashes of one weight at random of every ∛n/2, of those that may be removed.

    So few that they take no more memory than what is gathered between them, and so many that this is little.
    """
    import torch

    sizes = [one.left.numel() for one in ranked]
    step = max(1, round(sum(sizes) ** (1 / 3) / 2))
    scores, hashes = [], []
    for one, size in zip(ranked, sizes, strict=True):
        first = torch.arange(0, size, step, device=keys.device)
        places = first + position_hash(first + one.address, keys.seed) % step
        places = places[(places < size) & one.left[places.clamp_max(size - 1)]]
        scores.append(keys.scores(one.name, one.weights.take(places)))
        hashes.append(position_hash(places + one.address, keys.seed))
    keys.check()
    return torch.cat(scores), torch.cat(hashes)


def _scan(one: _Ranked, low: Key, high: Key, keys: Keys, inside: _Inside) -> None:
    """Remove the keys below ``low``; gather those from ``low`` to ``high``."""
    for start, weights in chunks(one.weights):
        address, left = one.address + start, one.left[start : start + len(weights)]
        scores = keys.scores(one.name, weights, left)
        left &= scores >= low.score
        places = ((scores <= high.score) & left).nonzero().flatten()
        scores, hashes = scores[places], position_hash(places + address, keys.seed)
        below = (scores == low.score) & (hashes < low.hash)
        above = (scores == high.score) & (hashes > high.hash)
        left.index_copy_(0, places, ~below)
        between = (~(below | above)).nonzero().flatten()
        inside.add(address, left, scores[between], places[between])
