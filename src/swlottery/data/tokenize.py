"""Pieces of documents become the tokens of a shard; and what identifies a tokenizer.

The worker processes import this module, so it imports no more than tokenizing needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from swlottery.data.shards import write_shard
from swlottery.data.sources import BLANK_LINE, Piece
from swlottery.data.vocabulary import tokenizing
from swlottery.errors import BadInput

BATCH = 1 << 20  # characters that are tokenized at once: some 250,000 tokens, and 100 MB of memory
WORDS = 1 << 18  # words whose tokens a BPE caches; its default, ten thousand, is too few for a language
PROBE = ("Words of it,\n\n and\tmore: I'll  see 3.14159…", " é日本語 🙂 \u00a0\r\n", "", "<s></s><|endoftext|> [CLS]")


def end_tokens(tokenizer: Any) -> list[int]:
    """The tokens after each document: the end-of-text token; a blank line where the tokenizer has none."""
    if tokenizer.eos_token_id is not None:
        return [int(tokenizer.eos_token_id)]
    with tokenizing("the blank line that ends a document"):
        return list(tokenizer(BLANK_LINE, add_special_tokens=False)["input_ids"])


def fingerprint(tokenizer: Any) -> str:
    """The hash of everything in a tokenizer that decides the tokens of a document."""
    content: dict[str, Any] = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Special tokens around a text, truncation and padding have no effect; the last two change with every call.
        inner = json.loads(backend.to_str())
        content = {name: inner[name] for name in inner.keys() - {"post_processor", "truncation", "padding"}}
    content["end"] = end_tokens(tokenizer)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def vocabulary_size(tokenizer: Any) -> int:
    """The largest token plus one."""
    return 1 + max(0, *map(int, tokenizer.get_vocab().values()), *end_tokens(tokenizer))


class Encoder:
    """Texts to tokens, without special tokens around a text: the tokens of the tokenizer's own call, but faster.

    It can be pickled. Of a tokenizer of the library ``tokenizers`` it holds only the description, so that a worker
    process need not import transformers. If that gives other tokens for `PROBE`, it holds the tokenizer itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.end = end_tokens(tokenizer)
        self.dtype = "<u2" if vocabulary_size(tokenizer) <= 1 << 16 else "<u4"  # little-endian whatever the machine
        self.description, self.verbatim, self.tokenizer = "", False, None
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            self.description = backend.to_str()
            self.verbatim = bool(getattr(tokenizer, "split_special_tokens", False))
        same = False
        with contextlib.suppress(BadInput):  # it has no tokens for the probe: then they cannot be compared
            same = bool(self.description) and [*map(list, self(PROBE))] == _call(tokenizer, PROBE)
        if not same:
            self.description, self.tokenizer = "", tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fast"}

    def __call__(self, texts: Sequence[str]) -> list[Sequence[int]]:
        if not self.description:
            return _call(self.tokenizer, texts)
        with tokenizing("the text"):
            return [encoding.ids for encoding in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    @cached_property
    def _fast(self) -> Any:
        from tokenizers import Tokenizer

        fast = Tokenizer.from_str(self.description)
        fast.no_padding()
        fast.no_truncation()
        fast.encode_special_tokens = self.verbatim
        with contextlib.suppress(AttributeError):  # not every model has a cache, nor every version this method
            fast.model._resize_cache(WORDS)
        return fast


def _call(tokenizer: Any, texts: Sequence[str]) -> list[Sequence[int]]:
    # verbose=False: without the warning that a text is longer than the model's context.
    plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    with tokenizing("the text"):
        return list(tokenizer(list(texts), verbose=False, **plain)["input_ids"])


@dataclass(frozen=True)
class Counted:
    """An amount of text, and of its tokens."""

    tokens: int = 0
    characters: int = 0
    bytes: int = 0  # the same text in UTF-8

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.tokens + other.tokens, self.characters + other.characters, self.bytes + other.bytes)


@dataclass(frozen=True)
class Task:
    """A shard to be made: its number, its text, its file, and its metadata except for what it contains."""

    number: int
    pieces: list[Piece]
    path: Path
    about: dict[str, Any]


def make_shard(encoder: Encoder, task: Task) -> Iterator[Counted]:
    """Write the tokens of all pieces as a shard, with `end_tokens` after each document. Yields what a batch adds."""
    parts = [np.empty(0, encoder.dtype)]
    ends: list[int] = []
    made = Counted()
    for batch in _batches(task.pieces):
        lists: list[Sequence[int]] = []
        position = made.tokens
        for (_, is_last), ids in zip(batch, encoder([text for text, _ in batch]), strict=True):
            lists.append(ids)
            position += len(ids)
            if is_last:
                lists.append(encoder.end)
                position += len(encoder.end)
                ends.append(position)
        parts.append(np.fromiter(chain.from_iterable(lists), encoder.dtype))
        text = "".join(text for text, _ in batch)
        added = Counted(len(parts[-1]), len(text), len(text.encode()))
        made += added
        yield added
    about = task.about | {"characters": made.characters, "bytes": made.bytes}
    write_shard(task.path, np.concatenate(parts), np.array(ends, "<u4"), about)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[0])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
