"""Tokens to train on: prepared once and kept on disk; a batch of them is a pure function of (seed, step).

A prepared source is a folder: ``tokens.bin``, the tokens to train on and behind them those held out for validation; and
``manifest.json``, what they are and by what they are known to be whole. The folder's name ends in a hash of all that
decides the tokens, and it appears under that name when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swlottery.builtin import cache_folder
from swlottery.documents import Source, find_source
from swlottery.encode import Written, fingerprint, token_type, vocabulary_size, write_tokens
from swlottery.errors import BadInput
from swlottery.runtime.once import make_once
from swlottery.text import evenly

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # goes up whenever a change makes other tokens, or another manifest, of the same source and tokenizer
MIN_VALIDATION = 16_384  # tokens, as long as they are no more than a fifth of all
HASHED = 1 << 30  # bytes; of a larger file only the size is checked at a start: a hash of it would take many seconds

Progress = Callable[[int, int | None], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a source, in memory-mapped arrays (1-D, uint16 or uint32) that cannot be written to."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    manifest: dict[str, Any]

    def require(self, context: int, sequences: int = 1, windows: int = 1) -> None:
        """Raise `BadInput` where there is too little for a batch of ``sequences``, or for ``windows`` of validation."""
        needs = (
            ("to train on", self.train, sequences, "a step", "--context, --micro-batch or --grad-accum"),
            ("for validation", self.validation, windows, "an evaluation", "--context"),
        )
        for purpose, tokens, count, reader, flags in needs:
            if len(tokens) < count * (context + 1):
                raise BadInput(
                    f"{self.name} has {len(tokens)} tokens {purpose}, but {reader} on {count} × {context + 1} tokens "
                    f"needs {count * (context + 1)}: give more text, or set {flags} lower"
                )


def prepare(
    source: str,
    tokenizer: Any,
    tokens: int | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
    say: Say | None = None,
) -> Tokens:
    """The tokens of ``source`` (see `swlottery.documents.find_source`), made at first use and then found on disk.

    tokens: take so many in all, the held-out ones among them; None: every one there is.
    progress: called with the tokens written so far, and with how many there will be (an estimate; None: unknown); also
        while another job writes them. An exception from it ends it all.
    folder: where prepared sources are kept: `cache_folder` / tokens, if none is given.
    say: called with a line on what is out of the ordinary: waiting for another job, a damaged copy.

    Held out is the data set's validation split where it has one. Else it is the last twentieth of the tokens, at least
    `MIN_VALIDATION` of them as long as that is no more than a fifth of all; from the start of a document, except where
    that would hold out more than twice as much. Several jobs may prepare the same at once: one does, the others wait.

    Raises `BadInput` for a source that cannot be read or holds no text, and where the tokens cannot be written.
    """
    if tokens is not None and tokens < 1:
        raise BadInput(f"{tokens} tokens of {source}: give at least 1")
    found = find_source(source)
    key = {"format": FORMAT, "source": found.identity, "tokenizer": fingerprint(tokenizer), "limit": tokens}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name or "data").strip("-")[:40]
    place = (folder or cache_folder() / "tokens") / f"{stem or 'data'}-{digest[:16]}"
    manifest = _whole(place, key)
    if manifest is None:
        tell, talk = progress or (lambda done, total: None), say or (lambda line: None)
        try:
            make_once(
                place,
                lambda: _whole(place, key) is not None,
                lambda unfinished: _write(unfinished, key, found, tokenizer, tell),
                talk,
                lambda: tell(0, None),
            )
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise BadInput(
                f"{'no space for' if full else 'cannot write'} the tokens of {found.name} in {place.parent} "
                f"({error.strerror or error}): {'free some there' if full else 'see to its permissions'}, or set "
                f"SWLOTTERY_CACHE to another folder"
            ) from error
        manifest = _whole(place, key)
    if manifest is None:
        raise BadInput(f"{place} does not hold what was written there: set SWLOTTERY_CACHE to a folder on another disk")
    stored = np.memmap(place / "tokens.bin", dtype=manifest["dtype"], mode="r").view(np.ndarray)
    return Tokens(found.name, stored[: manifest["train_tokens"]], stored[manifest["train_tokens"] :], manifest)


def batch(
    tokens: np.ndarray, context: int, size: int, seed: int, step: int, rows: slice | Sequence[int] | None = None
) -> Tensor:
    """The batch of step ``step``: a LongTensor (size, context + 1) of stretches drawn with replacement.

    rows: only these of it, in their order.

    Inputs are [:, :-1] and targets [:, 1:]. A stretch may run over the end of a document. Step and seed are counter and
    key of a Philox generator (Salmon et al. 2011), so every batch can be drawn without those before it, and as it is
    the batch of all processes together, of which each takes its rows, their number changes nothing. Raw numbers are
    reduced here, since numpy promises their stream for all its versions, not that of ``integers``.

    Raises `BadInput` for data shorter than a sequence.
    """
    import torch

    starts = len(tokens) - context
    if starts < 1:
        raise BadInput(f"the data has {len(tokens)} tokens, but a sequence needs {context + 1}: give more text")
    numbers = np.random.Philox(key=seed, counter=step << 64).random_raw(size)
    offsets = (numbers % np.uint64(starts)).astype(np.int64)  # off uniform by less than starts / 2⁶⁴
    chosen = offsets if rows is None else offsets[rows]
    return torch.from_numpy(_stretches(tokens, chosen.tolist(), context + 1))


def validation_windows(tokens: np.ndarray, context: int, count: int) -> Tensor:
    """The same stretches at every evaluation: a LongTensor (count, context + 1), evenly spread and without overlap.

    Raises `BadInput` where there are not so many.
    """
    import torch

    if len(tokens) < count * (context + 1):
        raise BadInput(
            f"the data has {len(tokens)} tokens for validation, but {count} windows of {context + 1} need "
            f"{count * (context + 1)}: give more text"
        )
    return torch.from_numpy(_stretches(tokens, evenly(len(tokens), context + 1, count), context + 1))


def _stretches(tokens: np.ndarray, offsets: Sequence[int], length: int) -> np.ndarray:
    return np.stack([tokens[offset : offset + length] for offset in offsets]).astype(np.int64)


def _whole(place: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of the copy at ``place``; None where there is no such copy, or a damaged one."""
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        size = (place / "tokens.bin").stat().st_size
        items = size // np.dtype(manifest["dtype"]).itemsize
        good = manifest["key"] == key and manifest["bytes"] == size
        good = good and manifest["train_tokens"] + manifest["validation_tokens"] == items > 0
        if not good or (size <= HASHED and _sha256(place / "tokens.bin") != manifest["sha256"]):
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return dict(manifest)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(folder: Path, key: dict[str, Any], source: Source, tokenizer: Any, progress: Progress) -> None:
    """Write ``tokens.bin`` and ``manifest.json``."""
    from importlib.metadata import version
    from platform import python_version

    opened, limit = source.open(), key["limit"]
    vocabulary = vocabulary_size(tokenizer)
    dtype = token_type(vocabulary)

    def estimate(written: Written) -> None:
        total = round(written.tokens * opened.bytes / written.bytes) if opened.bytes else limit
        progress(written.tokens, total if limit is None or total is None else min(total, limit))

    digest = hashlib.sha256()
    with (folder / "tokens.bin").open("wb") as file:

        def write(content: bytes) -> None:
            digest.update(content)
            file.write(content)

        of_train = limit if limit is None or opened.validation is None else limit - _held_out(limit)
        train = write_tokens(write, opened.train, tokenizer, dtype, of_train, estimate)
        own = Written()
        if opened.validation is not None:
            of_own = None if limit is None else _held_out(limit)
            own = write_tokens(write, opened.validation, tokenizer, dtype, of_own, lambda _: None)
    total = train.tokens + own.tokens
    if not train.tokens:
        raise BadInput(f"{source.name} holds no text: give another file, folder or data set, or 'builtin'")
    progress(total, total)
    train_tokens = train.tokens if own.tokens else _split(train.ends, train.tokens)
    libraries = ("numpy", "tokenizers", "transformers", "datasets")
    manifest = {
        "name": source.name,
        "key": key,
        "documents": train.documents + own.documents,
        "characters": train.characters + own.characters,
        "tokens": total,
        "train_tokens": train_tokens,
        "validation_tokens": total - train_tokens,
        "validation": "the data set's own" if own.tokens else "the last tokens",
        "vocabulary": vocabulary,
        "dtype": dtype.name,
        "bytes": total * dtype.itemsize,
        "sha256": digest.hexdigest(),
        "versions": {"python": python_version(), **{library: version(library) for library in libraries}},
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _held_out(total: int) -> int:
    return max(total // 20, min(MIN_VALIDATION, total // 5))


def _split(ends: Sequence[int], total: int) -> int:
    """Where validation starts: with a document if one starts not long before `_held_out`."""
    held_out = _held_out(total)
    documents = bisect_right(ends, total - held_out)
    start = ends[documents - 1] if documents else 0
    return start if total - start <= 2 * held_out else total - held_out
