"""``swlottery prepare``: makes the tokens of a run and nothing else; ``swlottery train`` makes them the same way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.outputs import check_temporary
from swlottery.config import TrainSettings
from swlottery.errors import DONE, STOPPED
from swlottery.report.logs.prepare import PrepareLog
from swlottery.report.words import percent
from swlottery.runtime import stop
from swlottery.runtime.stop import Asked, Stopped, never

if TYPE_CHECKING:
    from swlottery.data.tokens import Tokens


def prepare_only(settings: TrainSettings, asked: Asked = never, cores: int = 0) -> int:
    """Make the tokens that a run with these settings reads. Returns the exit code: 0 done, 75 stopped.

    The model's weights are not loaded, and no GPU is used.

    asked: whether to stop; the same command then continues from what is made. cores: how many may be used; 0: all that
    this process may use.

    Raises:
        BadInput: settings that contradict each other or the model; text that cannot be read; a full disk.
    """
    settings.check()
    check_temporary()
    from swlottery.lottery.start import tokenizer_and_context

    tokenizer, context = tokenizer_and_context(settings)
    try:
        stop.raise_if_asked(asked)
        tokens = prepare(settings, tokenizer, context, _limit(settings, context), asked, cores)
    except Stopped:
        print("asked to stop: the tokens that are made are kept; the same command goes on from there")
        return STOPPED
    print(f"{tokens.name}: {len(tokens.train):,} tokens to train on, {len(tokens.validation):,} for validation")
    print(f"tokens   {tokens.folder}")
    return DONE


def _limit(settings: TrainSettings, context: int) -> int | None:
    """How many tokens the run takes: as many as the run that it branches from, where there is one; None: all."""
    from swlottery.data.tokens import token_limit
    from swlottery.lottery import branch, resolved

    parent = branch.find_parent(Path(settings.from_round_1), settings) if settings.from_round_1 else None
    before = resolved.stored(parent) if parent else None
    return (before.data_tokens or None) if before else token_limit(settings, context)


def prepare(
    settings: TrainSettings, tokenizer: Any, context: int, limit: int | None, asked: Asked = never, cores: int = 0
) -> Tokens:
    """The tokens that a run reads, made where they are missing. limit: how many; None: all.

    Raises `Stopped` where ``asked`` says so.
    """
    from swlottery.data import tokens as data

    with PrepareLog(bars=sys.stderr.isatty()) as log:

        def progress(done: int, total: int | None) -> None:
            stop.raise_if_asked(asked)
            log.progress(done, total)

        tokens = data.prepare(settings.data, tokenizer, limit, progress, say=print, cores=cores)
    if share := tokens.require_known(tokenizer):
        print(f"note: {percent(share)} of the tokens of {tokens.name} are unknown to the tokenizer")
    tokens.require(context, settings.micro_batch * settings.grad_accum, settings.eval_sequences)
    return tokens
