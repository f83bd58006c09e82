"""Documents become tokens in a file: what a tokenizer is known by, and how its tokens are written."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swlottery.documents import Piece
from swlottery.text import BLANK_LINE

BATCH = 1 << 20  # characters that are tokenised at once: some 250,000 tokens, and 100 MB of memory


@dataclass
class Written:
    """What has been written of a stream of documents."""

    documents: int = 0
    characters: int = 0  # of what was read for these tokens: a limit may cut the last document short
    bytes: int = 0  # the same in UTF-8
    tokens: int = 0
    ends: array[int] = field(default_factory=lambda: array("Q"))  # of documents, in tokens


def end_tokens(tokenizer: Any) -> list[int]:
    """What stands behind each document: the end-of-text token; a blank line where the tokenizer has none."""
    if tokenizer.eos_token_id is not None:
        return [int(tokenizer.eos_token_id)]
    return list(tokenizer(BLANK_LINE, add_special_tokens=False)["input_ids"])


def fingerprint(tokenizer: Any) -> str:
    """The hash of all of a tokenizer that decides the tokens of a document."""
    content: dict[str, Any] = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Special tokens around a text, its cutting and padding take no part, and the last two change with every call.
        inner = json.loads(backend.to_str())
        content = {name: inner[name] for name in inner.keys() - {"post_processor", "truncation", "padding"}}
    content["end"] = end_tokens(tokenizer)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest token there is."""
    return 1 + max(0, *map(int, tokenizer.get_vocab().values()), *end_tokens(tokenizer))


def token_type(vocabulary: int) -> np.dtype[Any]:
    """The smallest type that holds every token, little-endian whatever the machine."""
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def write_tokens(
    write: Callable[[bytes], object],
    pieces: Iterable[Piece],
    tokenizer: Any,
    dtype: np.dtype[Any],
    limit: int | None,
    progress: Callable[[Written], None],
) -> Written:
    """Write the tokens of all documents, or the first ``limit`` of them, with `end_tokens` behind each document.

    ``progress`` is called after each batch of documents. Raises `BadInput` where the documents cannot be read.
    """
    written, end, between = Written(), end_tokens(tokenizer), True
    for batch in _batches(pieces):
        texts = [text for text, _ in batch]
        # verbose=False: without the warning that a text is longer than the model's context.
        encoded = tokenizer(
            texts, add_special_tokens=False, verbose=False, return_attention_mask=False, return_token_type_ids=False
        )
        for (text, ends), ids in zip(batch, encoded["input_ids"], strict=True):
            if written.tokens == limit:
                return written
            tokens = np.array([*ids, *end] if ends else ids, dtype=dtype)
            tokens = tokens if limit is None else tokens[: limit - written.tokens]
            write(tokens.tobytes())
            written.documents += between
            written.characters += len(text)
            written.bytes += len(text.encode())
            written.tokens += len(tokens)
            if ends:
                written.ends.append(written.tokens)
            between = ends
        progress(written)
    return written


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
