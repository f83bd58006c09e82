"""Tokens to train on: prepared once and kept on disk; a batch of them is a pure function of (seed, step).

The tokens of a source stand in a `swlottery.data.store`, whose folder's name ends in a hash of all that decides them. How many
of them are used takes no part in that: a run reads the first ones, and makes more where it needs more.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swlottery.config import TrainSettings
from swlottery.data import store as stores
from swlottery.data.builtin import cache_folder
from swlottery.data.evaluation import evenly
from swlottery.data.preparation import Preparation, Progress, Say, describe
from swlottery.data.shards import Joined
from swlottery.data.sources import find_source, is_on_hub
from swlottery.data.store import Store
from swlottery.data.tokenize import fingerprint, vocabulary_size
from swlottery.errors import BadInput
from swlottery.runtime import environment
from swlottery.runtime.lock import lock

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # goes up whenever a change makes other tokens, or other shards, of the same source and tokenizer
TokenArray = np.ndarray | Joined
"""Tokens, 1-D: what a slice of is an array of uint16 or uint32."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a source, memory-mapped, read-only; and the folder that they stand in."""

    name: str
    train: Joined
    validation: Joined
    manifest: dict[str, Any]
    folder: Path

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


def tokens_needed(settings: TrainSettings, context: int) -> int:
    """As many tokens as all the rounds can read: those of every batch, of every training where each has fresh ones."""
    trainings = settings.rounds + 1 if settings.data_order == "fresh" else 1
    return settings.steps * settings.micro_batch * settings.grad_accum * (context + 1) * trainings


def token_limit(settings: TrainSettings, context: int) -> int | None:
    """``--data-tokens`` as `prepare` takes it: a number, or None for all. auto: of a set on the hub `tokens_needed`."""
    given = settings.data_tokens_given()
    if given == "auto":
        return tokens_needed(settings, context) if is_on_hub(settings.data) else None
    return given


def prepare(
    source: str,
    tokenizer: Any,
    tokens: int | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
    say: Say | None = None,
    cores: int | None = None,
) -> Tokens:
    """The tokens of ``source`` (see `swlottery.data.sources.find_source`), made at first use and then found on disk.

    tokens: of the built-in text, a file or a folder, take so many in all; of a set on the hub so many to train on; None:
        all there are.
    progress: called with the tokens there so far, and with how many there will be (an estimate; None: unknown); also
        while another job makes them. An exception from it ends it all; what is made by then stays, and is gone on from.
    folder: where prepared sources are kept: `cache_folder` / tokens, if none is given.
    say: called with a line on what is out of the ordinary: waiting for another job, a damaged file.
    cores: so many processes share the work, if it is worth it; None: as many as this process may use cores.

    Held out of a set on the hub are its own validation documents (of a very long split the first ones) where it has some,
    else the first documents of all: they are the same however many tokens are taken. Of a local source it is the last
    twentieth of the tokens, at least `swlottery.data.preparation.MIN_VALIDATION` of them as long as that is no more than a fifth of all; from the
    start of a document, except where that would hold out more than twice as much.

    Several jobs may prepare the same at once: one does, the others wait.

    Raises `BadInput` for a source that cannot be read or holds no text, and where the tokens cannot be written.
    """
    if tokens is not None and tokens < 1:
        raise BadInput(f"{tokens} tokens of {source}: give at least 1")
    found = find_source(source)
    key: dict[str, Any] = {"format": FORMAT, "source": found.identity, "tokenizer": fingerprint(tokenizer)}
    key |= {"vocabulary": vocabulary_size(tokenizer), "cut": [stores.SMALL, stores.LARGE, stores.FEW]}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name or "data").strip("-")[:40]
    place = (folder or cache_folder() / "tokens") / f"{stem or 'data'}-{digest[:16]}"
    wanted = Preparation(Store(place, digest, found.name), found, tokens)
    if (parts := wanted.there()) is None:
        tell, talk = progress or (lambda done, total: None), say or (lambda line: None)
        try:
            with lock(place, talk, lambda: tell(0, None)):
                if (parts := wanted.there()) is None:  # else another job has made it meanwhile
                    wanted.make(tokenizer, tell, talk, environment.cores() if cores is None else cores)
                    if (parts := wanted.there()) is not None:
                        tell(*[sum(map(len, parts))] * 2)
                        describe(place, key, found.name, tokens, *parts)  # the others find it then
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise BadInput(
                f"{'no space for' if full else 'cannot write'} the tokens of {found.name} in {place.parent} "
                f"({error.strerror or error}): {'free some there' if full else 'see to its permissions'}, or set "
                f"SWLOTTERY_CACHE to another folder"
            ) from error
    if parts is None:
        raise BadInput(f"{place} does not hold what was written there: set SWLOTTERY_CACHE to a folder on another disk")
    return Tokens(found.name, *parts, describe(place, key, found.name, tokens, *parts), place)


def batch(
    tokens: TokenArray, context: int, size: int, seed: int, step: int, rows: slice | Sequence[int] | None = None
) -> Tensor:
    """The batch of step ``step``: a LongTensor (size, context + 1) of stretches drawn with replacement.

    rows: only these of it, in their order.

    Inputs are [:, :-1] and targets [:, 1:]. A stretch may run over the end of a document. Step and seed are counter and
    key of a Philox generator (Salmon et al. 2011), so every batch can be drawn without those before it, and as it is
    the batch of all processes together, of which each takes its rows, their number changes nothing. Raw numbers are
    reduced here, since numpy promises their stream for all its versions, not that of ``integers``.

    rows: only these of its rows, in this order; the tokens of no others are read.

    Raises `BadInput` for data shorter than a sequence.
    """
    import torch

    starts = len(tokens) - context
    if starts < 1:
        raise BadInput(f"the data has {len(tokens)} tokens, but a sequence needs {context + 1}: give more text")
    numbers = np.random.Philox(key=seed, counter=step << 64).random_raw(size)
    offsets = (numbers % np.uint64(starts)).astype(np.int64)  # off uniform by less than starts / 2⁶⁴
    chosen = offsets if rows is None else offsets[rows if isinstance(rows, slice) else np.asarray(rows, np.int64)]
    return torch.from_numpy(_stretches(tokens, chosen.tolist(), context + 1))


def validation_windows(tokens: TokenArray, context: int, count: int) -> Tensor:
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


def _stretches(tokens: TokenArray, offsets: Sequence[int], length: int) -> np.ndarray:
    stretches = np.empty((len(offsets), length), np.int64)
    for row, offset in zip(stretches, offsets, strict=True):
        row[:] = tokens[offset : offset + length]
    return stretches
