"""Shards: files with the tokens of consecutive parts of a text.

A shard is a safetensors file with ``tokens`` (uint16 or uint32), ``ends`` (uint32: after which tokens documents end)
and metadata that describe it. It has the same bytes whoever makes it, and whenever.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from swlottery.runtime import files, sums

LARGEST_HEADER = 1 << 20  # bytes
HASHED = 1 << 30  # bytes; of more tokens only the files' sizes are checked: a hash would take many seconds at a start


def write_shard(path: Path, tokens: np.ndarray, ends: np.ndarray, about: dict[str, Any]) -> None:
    """Write a shard. about: its metadata; the counts, the type and the hashes are added."""
    from safetensors.numpy import save_file

    content = {**about, "tokens": len(tokens), "documents": len(ends)}
    content |= {"dtype": tokens.dtype.name, "sha256": hashlib.sha256(tokens.data).hexdigest()}
    content["ends_sha256"] = hashlib.sha256(ends.data).hexdigest()
    metadata = {"about": json.dumps(sums.sealed(dict(sorted(content.items()))))}
    files.write(path, lambda unfinished: save_file({"tokens": tokens, "ends": ends}, unfinished, metadata))


class Shard:
    """A shard on disk. about: its metadata. Its arrays are memory-mapped (safetensors itself would copy them).

    Raises `ValueError` for a file that is no complete shard, `OSError` for one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"{path} is no shard")
            header = files.parse_json(file.read(length))
            size = file.seek(0, 2)
        self._start = 8 + length
        try:
            self.about: dict[str, Any] = sums.unsealed(files.parse_json(header["__metadata__"]["about"]))
            self.dtype: np.dtype[Any] = np.dtype(self.about["dtype"]).newbyteorder("<")
            self._at = {name: header[name]["data_offsets"] for name in ("tokens", "ends")}
            first, stop = self._at["tokens"]
            complete = stop - first == len(self) * self.dtype.itemsize
            complete = complete and size == self._start + max(stop for _, stop in self._at.values())
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no shard") from error
        if not complete:
            raise ValueError(f"{path} is incomplete")

    def __len__(self) -> int:
        return int(self.about["tokens"])

    @cached_property
    def tokens(self) -> np.ndarray:
        """Its tokens, memory-mapped, read-only."""
        return self._array("tokens", self.dtype)

    @cached_property
    def ends(self) -> np.ndarray:
        """How many of its tokens there are up to the end of each document, in increasing order."""
        return self._array("ends", np.dtype("<u4"))

    def _array(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        start, stop = self._at[name]
        if start == stop:  # an empty file cannot be mapped
            return np.empty(0, dtype)
        count = (stop - start) // dtype.itemsize
        return np.memmap(self.path, dtype, "r", self._start + start, (count,)).view(np.ndarray)

    def is_intact(self, whole: bool = True) -> bool:
        """Whether its arrays have the hashes in the metadata. whole: also the tokens; reads them all."""
        hashes = {"ends_sha256": self.ends} | ({"sha256": self.tokens} if whole else {})
        return all(
            hashlib.sha256(array.data).hexdigest() == self.about[name]
            for name, array in hashes.items()
            if name in self.about  # one of an earlier version lacks that of its ends
        )


class Joined:
    """The tokens of consecutive shards, from ``start`` to ``stop``. Only what is asked for is read."""

    def __init__(self, shards: Sequence[Shard], start: int, stop: int) -> None:
        self.shards = list(shards)
        self.bounds = [0, *accumulate(map(len, self.shards))]
        self.start, self.stop = start, min(stop, self.bounds[-1])
        self.dtype = self.shards[0].dtype if self.shards else np.dtype("<u2")

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __getitem__(self, some: slice) -> np.ndarray:
        """A slice as an array: within one shard a view of the file."""
        first, last, step = some.indices(len(self))
        assert step == 1, "tokens that follow each other"
        parts = [shard.tokens[a:b] for shard, a, b in self.parts(first, last)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self.dtype), *parts])

    def parts(self, first: int = 0, last: int | None = None) -> Iterator[tuple[Shard, int, int]]:
        """Each shard with tokens from ``first`` to ``last`` of these, and where they begin and end in it."""
        first, last = self.start + first, self.stop if last is None else self.start + last
        number = bisect_right(self.bounds, first) - 1
        while first < last:
            begin, end = self.bounds[number], self.bounds[number + 1]
            if begin < end:  # a shard may be empty
                yield self.shards[number], first - begin, min(last, end) - begin
            first, number = end, number + 1
