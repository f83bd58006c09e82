"""The manifest of prepared tokens: what they are, and the hash that identifies them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np

from swlottery.data import shards
from swlottery.data.preparation import Preparation, last_end
from swlottery.data.shards import Joined
from swlottery.runtime import files


def manifest(wanted: Preparation, train: Joined, validation: Joined) -> dict[str, Any]:
    """The manifest of what `Preparation.find` found. It is kept beside the shards, because the hash may take long."""
    key, name = wanted.key, wanted.source.name
    of = _hash_of_parts(train, validation)
    path: Path = wanted.store.folder / f"manifest-{wanted.limit or 'all'}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] == of and kept["key"] == key and kept["name"] == name:
            return dict(kept)
    made = {"name": name, "key": key, **_contents(wanted, train, validation), "of": of}
    with contextlib.suppress(OSError):  # a store that may only be read
        files.write_json(path, made)
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
    return hashlib.sha256(json.dumps([part.parts() for part in parts]).encode()).hexdigest()


def _hash(*parts: Joined) -> str:
    digest = hashlib.sha256()
    for part in parts:
        for block in part.blocks():
            digest.update(block.data)
    return digest.hexdigest()


def _documents(tokens: Joined) -> int:
    """How many documents begin before the end of these tokens, counted from the first shard's start."""
    ended = 0
    for begin, shard in zip(tokens.bounds, tokens.shards, strict=False):
        ended += int(np.searchsorted(shard.ends, max(tokens.stop - begin, 0), "right"))
    return ended + (last_end(tokens.shards, tokens.stop) != tokens.stop)
