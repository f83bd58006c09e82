"""What a run wants of a store: the first tokens to train on, those held out for validation, and their manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from swlottery.data import shards
from swlottery.data.shards import Joined, Shard
from swlottery.data.sources import Source
from swlottery.data.store import Extension, Store
from swlottery.data.tokenize import Counted, Encoder
from swlottery.runtime import files, sums

MIN_VALIDATION = 16_384  # tokens, as long as they are no more than a fifth of all

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

        def remove(path: Path, why: str) -> None:
            say(f"{path} is {why}: it is made again")
            path.unlink(missing_ok=True)

        there = [*self._own_validation()[0], *self.store.shards("train", self._wanted)[0]]
        damaged = {one.path for one in _damaged(there)}
        revision = None
        for path, shard in self.store.files():
            if shard is None or path in damaged:
                remove(path, "damaged")
            else:
                revision = revision or shard.about["revision"]
        opened = self.source.open(revision)
        for path, shard in self.store.files():
            if shard is None or shard.about["revision"] != opened.revision:
                remove(path, f"of another version of {self.source.name}")
        self.store.remove_leftovers()
        encoder, about = Encoder(tokenizer), {"revision": opened.revision}
        if opened.validation is not None:
            extension = Extension(self.store, "validation", lambda first: int(first is None), about)
            extension.run(opened.validation, encoder, cores, lambda _: progress(0, None))

        def show(made: Counted) -> None:
            ends = round(made.tokens * opened.bytes / made.bytes) if opened.bytes and made.bytes else None
            limit = self._wanted(self.store.shard("train", 0))
            total = min((one for one in (ends, limit) if one is not None), default=None)
            progress(made.tokens if total is None else min(made.tokens, total), total)

        Extension(self.store, "train", self._wanted, about).run(opened.train, encoder, cores, show)

    def _own_validation(self) -> tuple[list[Shard], bool]:
        """The data set's own validation documents, none if it has none; and whether that is known yet."""
        if not self.source.on_hub:
            return [], True
        first = self.store.shard("validation", 0)
        return [first] if first is not None and len(first) else [], first is not None

    def _wanted(self, first: Shard | None) -> int | None:
        """How many tokens of the train part are wanted, with those held out of it."""
        if self.limit is None or not self.source.on_hub or first is None or self._own_validation()[0]:
            return self.limit
        return self.limit + held_out_first(first)


def _damaged(found: list[Shard]) -> list[Shard]:
    """Shards that are not as they were written; of more bytes than `shards.HASHED` the tokens are not read for that."""
    few = sum(len(one) * one.dtype.itemsize for one in found) <= shards.HASHED
    return [one for one in found if not one.is_intact(whole=few)]


def _held_out(total: int) -> int:
    """How many of a source's tokens are held out, about."""
    return max(total // 20, min(MIN_VALIDATION, total // 5))


def validation_start(found: Sequence[Shard], total: int) -> int:
    """Where the validation tokens of local text start: with a document, if that holds out at most twice as much."""
    wanted = _held_out(total)
    _, start = ended(found, total - wanted)
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


def ended(found: Sequence[Shard], position: int) -> tuple[int, int]:
    """How many documents end at or before a position, and where the last of them ends; 0 if there is none."""
    count = last = begin = 0
    for shard in found:
        if begin > position:
            break
        if ends := int(np.searchsorted(shard.ends, position - begin, "right")):
            count, last = count + ends, begin + int(shard.ends[ends - 1])
        begin += len(shard)
    return count, last


def manifest(wanted: Preparation, train: Joined, validation: Joined) -> dict[str, Any]:
    """The manifest of what `Preparation.find` found. It is kept beside the shards, because the hash may take long."""
    key, name = wanted.key, wanted.source.name
    of = _hash_of_parts(train, validation)
    path: Path = wanted.store.folder / f"manifest-{wanted.limit or 'all'}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = sums.read_sealed(path)
        if kept["of"] == of and kept["key"] == key and kept["name"] == name:
            return kept
    made = {"name": name, "key": key, **_contents(wanted, train, validation), "of": of}
    with contextlib.suppress(OSError):  # a store that may only be read
        files.write_json(path, sums.sealed(made))
    return made


def _contents(wanted: Preparation, train: Joined, validation: Joined) -> dict[str, Any]:
    first, on_hub = train.shards[0], wanted.source.on_hub
    own = bool(validation.shards) and validation.shards[0].path != first.path
    parts = [train, validation] if own else [Joined(train.shards, 0, max(train.stop, validation.stop))]
    total = len(train) + len(validation)
    size = total * first.dtype.itemsize
    # Local text is read without `datasets`, so a machine may lack it.
    libraries = [name for name in ("numpy", "tokenizers", "transformers", "datasets") if find_spec(name)]
    return {
        "revision": first.about["revision"],
        "documents": sum(map(_documents, parts)),
        "characters": sum(shard.about["characters"] for part in parts for shard in part.shards),  # of whole shards
        "tokens": total,
        "train_tokens": len(train),
        "validation_tokens": len(validation),
        "validation": "the data set's own" if own else "the first tokens" if on_hub else "the last tokens",
        "vocabulary": wanted.key["vocabulary"],
        "dtype": first.dtype.name,
        "bytes": size,
        "sha256": _hash_of_parts(train, validation) if on_hub and size > shards.HASHED else _hash(train, validation),
        "versions": {"python": python_version(), **{library: version(library) for library in libraries}},
    }


def _hash_of_parts(*parts: Joined) -> str:
    content = [[(shard.about["sha256"], first, last) for shard, first, last in part.parts()] for part in parts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _hash(*parts: Joined) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for shard, first, last in part.parts():
            digest.update(shard.tokens[first:last].data)
    return digest.hexdigest()


def _documents(tokens: Joined) -> int:
    """How many documents begin before the end of these tokens, counted from the first shard's start."""
    count, last = ended(tokens.shards, tokens.stop)
    return count + (last != tokens.stop)
