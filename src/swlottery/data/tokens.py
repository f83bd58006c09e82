"""The tokens of a source: made at first use and then kept on disk.

They are in a `swlottery.data.store`. Its folder's name ends in a hash of what decides the tokens. The number of tokens
is not part of that: a run reads the first ones, and makes more where it needs more.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swlottery.config import TrainSettings
from swlottery.data import store as stores
from swlottery.data.preparation import Preparation, Progress, Say, manifest
from swlottery.data.shards import Joined
from swlottery.data.sources import find_source, is_on_hub
from swlottery.data.tokenize import end_tokens, fingerprint, vocabulary_size
from swlottery.data.vocabulary import check_rows, unknown_share
from swlottery.errors import BadInput
from swlottery.runtime import environment
from swlottery.runtime.files import cache_folder, lock

SAMPLE = 1 << 22  # tokens to train on, and as many for validation, in which unknown ones are counted
FORMAT = 2  # goes up whenever a change makes other tokens, or other shards, of the same source and tokenizer


@dataclass(frozen=True)
class Tokens:
    """The tokens of a source, memory-mapped and read-only, and the folder that they are in."""

    name: str
    train: Joined
    validation: Joined
    manifest: dict[str, Any]
    folder: Path

    def require(self, context: int, sequences: int = 1, windows: int = 1) -> None:
        """Raise `BadInput` where there are too few for a batch of ``sequences``, or for ``windows`` of validation."""
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

    def require_known(self, tokenizer: Any) -> float:
        """The fraction of the first tokens that the tokenizer does not know. `BadInput` where it knows nothing."""
        first = np.concatenate([self.train[:SAMPLE], self.validation[:SAMPLE]])
        if (share := unknown_share(first, tokenizer, end_tokens(tokenizer))) == 1:
            raise BadInput(f"the tokenizer knows nothing of {self.name}: give --data a text that it knows")
        return share

    def require_rows(self, rows: int, tokenizer: Any) -> None:
        """Raise `BadInput` for a token that an embedding of so many ``rows`` has no row for."""
        if self.manifest["vocabulary"] > rows:
            parts = [shard.tokens[a:b] for joined in (self.train, self.validation) for shard, a, b in joined.parts()]
            check_rows(int(max(part.max() for part in parts)), rows, tokenizer, self.name)


def token_limit(settings: TrainSettings, context: int) -> int | None:
    """``--data-tokens`` for `prepare`: a number, or None for all.

    auto: of a data set on the hub, as many as all rounds can read: those of every batch, for every training where each
    reads fresh ones.
    """
    given = settings.token_count()
    if given != "auto":
        return given
    trainings = settings.rounds + (not settings.prune_at_start) if settings.data_order == "fresh" else 1
    needed = settings.steps * settings.micro_batch * settings.grad_accum * (context + 1) * trainings
    return needed if is_on_hub(settings.data) else None


def prepare(
    source: str,
    tokenizer: Any,
    tokens: int | None = None,
    progress: Progress = lambda done, total: None,
    folder: Path | None = None,
    say: Say = lambda line: None,
    cores: int = 0,
) -> Tokens:
    """The tokens of ``source`` (see `swlottery.data.sources.find_source`), made at first use and then found on disk.

    tokens: of the built-in text, a file or a folder, how many to take in all; of a data set on the hub, how many to
        train on; None: all.
    progress: called with the number of tokens so far and an estimate of the total (None: unknown), also while another
        job makes them. An exception from it ends the work; what is made stays, and is continued by the next call.
    folder: where prepared sources are kept; `cache_folder`/tokens if None.
    say: called with a line on anything unusual: waiting for another job, a damaged file.
    cores: how many processes share the work, if it is worth it; 0: as many as this process has cores.

    Validation tokens of a data set on the hub are those of its own validation split (of a long split, its first
    documents), else those of the first documents: they are the same for any number of tokens. Of a local source they
    are the last twentieth, at least `MIN_VALIDATION` if that is no more than a fifth of all; from the start of a
    document, unless that would hold out more than twice as much.

    Several jobs may prepare the same source at once: one makes the tokens, the others wait.

    Raises `BadInput` for a source that cannot be read or has no text, and where the tokens cannot be written.
    """
    if tokens is not None and tokens < 1:
        raise BadInput(f"{tokens} tokens of {source}: give at least 1")
    found = find_source(source)
    if found.note:
        say(f"left out: {found.note}")
    key: dict[str, Any] = {"format": FORMAT, "source": found.identity, "tokenizer": fingerprint(tokenizer)}
    key |= {"vocabulary": vocabulary_size(tokenizer), "cut": [stores.SMALL, stores.LARGE, stores.FEW]}
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name or "data").strip("-")[:40] or "data"
    wanted = Preparation(folder or cache_folder() / "tokens", stem, found, key, tokens)
    if (parts := wanted.find()) is None:
        parts = _make(wanted, tokenizer, progress, say, cores or environment.cores())
    return Tokens(found.name, *parts, manifest(wanted, *parts), wanted.store.folder)


def _make(wanted: Preparation, tokenizer: Any, progress: Progress, say: Say, cores: int) -> tuple[Joined, Joined]:
    place = wanted.store.folder
    try:
        with lock(place, say, lambda: progress(0, None)):
            if (parts := wanted.find()) is None:  # else another job has made them meanwhile
                wanted.make(tokenizer, progress, say, cores)
                if (parts := wanted.find()) is not None:
                    total = sum(map(len, parts))
                    progress(total, total)
                    manifest(wanted, *parts)  # the jobs that wait find it then
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BadInput(
            f"{'no space for' if full else 'cannot write'} the tokens of {wanted.source.name} in {place.parent} "
            f"({error.strerror or error}): {'free some there' if full else 'see to its permissions'}, or set "
            f"SWLOTTERY_CACHE to another folder"
        ) from error
    if parts is None:
        raise BadInput(f"{place} does not hold what was written there: set SWLOTTERY_CACHE to a folder on another disk")
    return parts
