"""What a run wants of a store: the first tokens of a source to train on, and those held out for validation."""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swlottery.data import shards
from swlottery.data import store as stores
from swlottery.data.extend import Extension
from swlottery.data.shards import Joined, Shard
from swlottery.data.sources import Source, Stream
from swlottery.data.store import Store
from swlottery.data.tokenize import Counted, Encoder

MIN_VALIDATION = 16_384  # tokens, as long as they are no more than a fifth of all
CHARACTERS_A_TOKEN = 4.5  # about; only decides whether a text is worth several processes

Progress = Callable[[int, int | None], None]
"""Takes the number of tokens made so far, and how many there will be (None: unknown)."""
Say = Callable[[str], None]


class Preparation:
    """The tokens that a run wants of a source. folder, stem: the store is ``folder``/``stem``-HASH.

    key: what decides the tokens, and by its hash the store. limit: how many tokens; None: all.
    """

    def __init__(self, folder: Path, stem: str, source: Source, key: dict[str, Any], limit: int | None) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.store = Store(folder / f"{stem}-{digest[:16]}", digest, source.name)
        self.source, self.key, self.limit = source, key, limit

    def find(self) -> tuple[Joined, Joined] | None:
        """The tokens to train on, and those held out; None where some are missing or damaged."""
        own, known = self._own_validation()
        train, enough = self.store.shards("train", self._wanted)
        revisions = {one.about["revision"] for one in (*own, *train)}
        if not (known and enough) or len(revisions) > 1 or _damaged([*own, *train]):
            return None
        total = sum(map(len, train))
        if not self.source.on_hub:
            total = min(total, self.limit or total)
            start = validation_start(train, total)
            return Joined(train, 0, start), Joined(train, start, total)
        start = 0 if own else held_out_first(train[0])
        stop = total if self.limit is None else min(total, start + self.limit)
        return Joined(train, start, stop), Joined(own, 0, len(own[0])) if own else Joined(train, 0, start)

    def make(self, tokenizer: Any, progress: Progress, say: Say, cores: int) -> None:
        """Make what is missing. The caller holds the store's lock."""
        there = [*self._own_validation()[0], *self.store.shards("train", self._wanted)[0]]
        for path in (*(one.path for one in _damaged(there)), *self.store.unreadable()):
            say(f"{path} is damaged: it is made again")
            path.unlink(missing_ok=True)
        opened = self.source.open(self.store.revision())
        for path in self.store.of_others(opened.revision):
            say(f"{path} is of another version of {self.source.name}: it is made again")
            path.unlink(missing_ok=True)
        self.store.remove_leftovers()
        encoder, about = Encoder(tokenizer), {"revision": opened.revision}
        if self.source.on_hub:
            validation = opened.validation or Stream(lambda: iter(()))
            extension = Extension(self.store, "validation", _one_shard, about)
            extension.run(validation, encoder, 1, lambda _: progress(0, None))

        def show(made: Counted) -> None:
            ends = round(made.tokens * opened.bytes / made.bytes) if opened.bytes and made.bytes else None
            limit = self._wanted(self.store.shard("train", 0))
            total = min((one for one in (ends, limit) if one is not None), default=None)
            progress(made.tokens if total is None else min(made.tokens, total), total)

        extension = Extension(self.store, "train", self._wanted, about)
        characters = math.inf
        if self.limit is not None:
            characters = (self.limit - extension.made.tokens) * CHARACTERS_A_TOKEN
        extension.run(opened.train, encoder, math.ceil(min(characters / stores.SMALL, cores)), show)

    def _own_validation(self) -> tuple[list[Shard], bool]:
        """The data set's own validation documents, none if it has none; and whether that is known yet."""
        if not self.source.on_hub:
            return [], True
        found, known = self.store.shards("validation", _one_shard)
        return [one for one in found if len(one)], known

    def _wanted(self, first: Shard | None) -> int | None:
        """How many tokens of the train part are wanted, with those held out of it."""
        if self.limit is None or not self.source.on_hub or first is None or self._own_validation()[0]:
            return self.limit
        return self.limit + held_out_first(first)


def _one_shard(first: Shard | None) -> int:
    return 0 if first is not None else 1


def _damaged(found: list[Shard]) -> list[Shard]:
    """Shards whose tokens have not the hash they were written with; not checked for more bytes than `shards.HASHED`."""
    if sum(len(one) * one.dtype.itemsize for one in found) > shards.HASHED:
        return []
    return [one for one in found if not one.is_intact()]


def _held_out(total: int) -> int:
    """How many of a source's tokens are held out, about."""
    return max(total // 20, min(MIN_VALIDATION, total // 5))


def validation_start(found: Sequence[Shard], total: int) -> int:
    """Where the validation tokens of local text start: with a document, if that holds out at most twice as much."""
    wanted = _held_out(total)
    start = last_end(found, total - wanted)
    return start if total - start <= 2 * wanted else total - wanted


def held_out_first(first: Shard) -> int:
    """How many tokens are held out at the start of a data set: whole documents, or a part of a very long one.

    A fifth of the first shard, some 400,000 tokens; an evaluation never needs more. Of a data set that ends there, as
    much as of a file.
    """
    total = len(first)
    wanted = _held_out(total) if first.about["last"] else total // 5
    after = first.ends[np.searchsorted(first.ends, wanted) :]
    return int(after[0]) if len(after) and after[0] <= 2 * wanted else wanted


def last_end(found: Sequence[Shard], position: int) -> int:
    """The last end of a document at or before a position; 0 if there is none."""
    bounds = Joined(found, 0, 0).bounds
    for number in range(min(bisect_right(bounds, position), len(found)) - 1, -1, -1):
        count = int(np.searchsorted(found[number].ends, position - bounds[number], "right"))
        if count:
            return bounds[number] + int(found[number].ends[count - 1])
    return 0
