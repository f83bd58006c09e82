"""What a run wants of a store, and how it is split: the tokens to train on, and those held out for validation."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from swlottery.data import store as stores
from swlottery.data.shards import Joined, Shard
from swlottery.data.sources import Source, Stream
from swlottery.data.store import Store
from swlottery.data.tokenize import Counted, Encoder
from swlottery.data.workers import Here, Shared
from swlottery.runtime import files

MIN_VALIDATION = 16_384  # tokens, as long as they are no more than a fifth of all
HASHED = 1 << 30  # bytes; of more tokens only the files' sizes are checked: a hash would take many seconds at a start
CHARACTERS_A_TOKEN = 4.5  # about; says only whether a text is worth several processes

Progress = Callable[[int, int | None], None]
Say = Callable[[str], None]


class Preparation:
    """What is wanted of a store: the first tokens of a source, and those held out."""

    def __init__(self, store: Store, source: Source, limit: int | None) -> None:
        self.store, self.source, self.limit = store, source, limit

    def there(self) -> tuple[Joined, Joined] | None:
        """The tokens to train on and those held out; None where some are missing, or not whole."""
        own, whole = self._own()
        train, enough = self.store.shards("train", self._wanted)
        revisions = {one.about["revision"] for one in (*own, *train)}
        if not (whole and enough) or len(revisions) > 1 or self._damaged([*own, *train]):
            return None
        total = sum(map(len, train))
        if not self.source.on_hub:
            total = min(total, self.limit or total)
            start = split(train, total)
            return Joined(train, 0, start), Joined(train, start, total)
        held_out = 0 if own else head(train[0])
        stop = total if self.limit is None else min(total, held_out + self.limit)
        return Joined(train, held_out, stop), Joined(own, 0, len(own[0])) if own else Joined(train, 0, held_out)

    def make(self, tokenizer: Any, tell: Progress, talk: Say, cores: int) -> None:
        """Make what is missing. Its lock is held."""
        parts = (self._own()[0], self.store.shards("train", self._wanted)[0])
        for path in (*(one.path for one in self._damaged([*parts[0], *parts[1]])), *self.store.unreadable()):
            talk(f"{path} is damaged: it is made again")
            path.unlink(missing_ok=True)
        opened = self.source.open(self.store.revision())
        for path in self.store.of_others(opened.revision):
            talk(f"{path} is of another version of {self.source.name}: it is made again")
            path.unlink(missing_ok=True)
        encoder = Encoder(tokenizer)
        about = {"revision": opened.revision}
        self.store.remove_leftovers()
        if self.source.on_hub:
            held_out = opened.validation or Stream(lambda: iter(()))
            stop = lambda _: tell(0, None)  # noqa: E731
            self.store.extend("validation", held_out, Here(encoder), _one_shard, stop, about)
        there = sum(map(len, self.store.shards("train", self._wanted)[0]))
        total: int | None = None

        def told(all_: Counted) -> None:
            nonlocal total
            ends = round(all_.tokens * opened.bytes / all_.bytes) if opened.bytes and all_.bytes else None
            limit = self._wanted(self.store.shard("train", 0)) if self.limit is not None else None
            total = min((one for one in (ends, limit) if one is not None), default=None)
            tell(all_.tokens if total is None else min(all_.tokens, total), total)

        characters = math.inf if self.limit is None else (self.limit - there) * CHARACTERS_A_TOKEN
        makers = Shared(encoder, math.ceil(min(characters / stores.SMALL, cores)))
        try:
            self.store.extend("train", opened.train, makers, self._wanted, told, about)
        finally:
            makers.close()

    def _own(self) -> tuple[list[Shard], bool]:
        """The set's own validation documents, none if it has none; and whether that is known already."""
        if not self.source.on_hub:
            return [], True
        shards, known = self.store.shards("validation", _one_shard)
        return [one for one in shards if len(one)], known

    def _wanted(self, first: Shard | None) -> int | None:
        """How many of the source's tokens to train on are wanted in all, with those held out of them."""
        if self.limit is None or not self.source.on_hub or first is None or self._own()[0]:
            return self.limit
        return self.limit + head(first)

    def _damaged(self, shards: list[Shard]) -> list[Shard]:
        """Those whose tokens have another hash than when they were written; of very many tokens that is not looked at."""
        if sum(len(one) * one.dtype.itemsize for one in shards) > HASHED:
            return []
        return [one for one in shards if not one.is_intact()]


def _one_shard(first: Shard | None) -> int:
    return 0 if first is not None else 1


def held_out(total: int) -> int:
    """How many of a source's tokens are held out."""
    return max(total // 20, min(MIN_VALIDATION, total // 5))


def split(shards: Sequence[Shard], total: int) -> int:
    """Where validation starts in a local source: with a document if one starts not long before `held_out`."""
    wanted = held_out(total)
    start = _last_end(shards, total - wanted)
    return start if total - start <= 2 * wanted else total - wanted


def head(first: Shard) -> int:
    """How many tokens are held out at the start of a set on the hub: whole documents, or part of a very long one.

    A fifth of the first shard, some 400,000, as more is never evaluated; of a set that ends there as of a local source.
    """
    total = len(first)
    wanted = held_out(total) if first.about["last"] else total // 5
    after = first.ends[np.searchsorted(first.ends, wanted) :]
    return int(after[0]) if len(after) and after[0] <= 2 * wanted else wanted


def _last_end(shards: Sequence[Shard], position: int) -> int:
    """The last end of a document at or before a position; 0 if there is none."""
    bounds = Joined(shards, 0, 0).bounds
    for number in range(min(bisect_right(bounds, position), len(shards)) - 1, -1, -1):
        count = int(np.searchsorted(shards[number].ends, position - bounds[number], "right"))
        if count:
            return bounds[number] + int(shards[number].ends[count - 1])
    return 0


def describe(
    place: Path, key: dict[str, Any], name: str, limit: int | None, train: Joined, validation: Joined
) -> dict[str, Any]:
    """What these tokens are, and by what they are known again; kept beside the shards, as the hash may take long."""
    parts = [train.parts(), validation.parts()]
    of = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    path = place / f"manifest-{limit or 'all'}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] == of and kept["key"] == key and kept["name"] == name:
            return dict(kept)
    made = _manifest(key, name, train, validation) | {"of": of}
    with contextlib.suppress(OSError):  # a store that may only be read
        files.write_json(path, made)
    return made


def _manifest(key: dict[str, Any], name: str, train: Joined, validation: Joined) -> dict[str, Any]:
    from importlib.metadata import version
    from importlib.util import find_spec
    from platform import python_version

    own = bool(validation.shards) and validation.shards[0].path != train.shards[0].path
    whole = [train, validation] if own else [Joined(train.shards, 0, max(train.stop, validation.stop))]
    on_hub = key["source"].startswith("hub ")
    total, first = len(train) + len(validation), train.shards[0]
    if on_hub and total * first.dtype.itemsize > HASHED:
        sha256 = hashlib.sha256(json.dumps([train.parts(), validation.parts()]).encode()).hexdigest()
    else:
        digest = hashlib.sha256()
        for part in (train, validation):
            for block in part.blocks():
                digest.update(block.data)
        sha256 = digest.hexdigest()
    # Local text is read without `datasets`, so a machine may lack it.
    libraries = [name for name in ("numpy", "tokenizers", "transformers", "datasets") if find_spec(name)]
    return {
        "name": name,
        "key": key,
        "revision": first.about["revision"],
        "documents": sum(map(_documents, whole)),
        "characters": sum(one.about["characters"] for part in whole for one in part.shards),  # of whole shards
        "tokens": total,
        "train_tokens": len(train),
        "validation_tokens": len(validation),
        "validation": "the data set's own" if own else "the first tokens" if on_hub else "the last tokens",
        "vocabulary": key["vocabulary"],
        "dtype": first.dtype.name,
        "bytes": total * first.dtype.itemsize,
        "sha256": sha256,
        "versions": {"python": python_version(), **{library: version(library) for library in libraries}},
    }


def _documents(tokens: Joined) -> int:
    """How many documents these tokens are of, from the first shard's start on; of the last maybe only the beginning."""
    within = 0
    for begin, shard in zip(tokens.bounds, tokens.shards, strict=False):
        within += int(np.searchsorted(shard.ends, max(tokens.stop - begin, 0), "right"))
    return within + (_last_end(tokens.shards, tokens.stop) != tokens.stop)
