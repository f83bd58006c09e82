"""Batches of tokens. A batch is a pure function of (seed, step): every step's can be drawn without those before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from swlottery.config import TrainSettings
from swlottery.data.evaluation import evenly
from swlottery.data.shards import Joined
from swlottery.errors import BadInput
from swlottery.runtime.ranks import Ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TokenArray = np.ndarray | Joined
"""Tokens, 1-D: a slice is an array of uint16 or uint32."""


def batch(
    tokens: TokenArray,
    context: int,
    size: int,
    seed: int,
    step: int,
    rows: Sequence[int] | None = None,
    prefix: Sequence[int] = (),
) -> Tensor:
    """The batch of a step: a LongTensor (size, context + 1) of windows drawn with replacement.

    Inputs are [:, :-1] and targets [:, 1:]. A window is ``prefix`` and then text. It may cross the end of a document.

    rows: only these rows, in this order; no other tokens are read. The batch is that of all processes together, and
    each takes its rows, so their number changes nothing.

    Step and seed are the counter and key of a Philox generator (Salmon et al. 2011). Its raw numbers are reduced here:
    numpy promises them for all its versions, but not the numbers of ``integers``.

    Raises `BadInput` for data shorter than a window.
    """
    body = context + 1 - len(prefix)
    starts = len(tokens) - body + 1
    if starts < 1:
        raise BadInput(f"the data has {len(tokens)} tokens, but a sequence needs {body}: give more text")
    numbers = np.random.Philox(key=seed, counter=step << 64).random_raw(size)
    offsets = (numbers % np.uint64(starts)).astype(np.int64)  # differs from uniform by less than starts / 2⁶⁴
    chosen = offsets if rows is None else offsets[np.asarray(rows, np.int64)]
    return _windows(tokens, chosen.tolist(), context + 1, prefix)


def validation_windows(tokens: TokenArray, context: int, count: int, prefix: Sequence[int] = ()) -> Tensor:
    """The windows of every validation: a LongTensor (count, context + 1), evenly spread and without overlap.

    Each is ``prefix`` and then text. Raises `BadInput` where there are too few tokens.
    """
    body = context + 1 - len(prefix)
    if len(tokens) < count * body:
        raise BadInput(
            f"the data has {len(tokens)} tokens for validation, but {count} windows of {body} need "
            f"{count * body}: give more text"
        )
    return _windows(tokens, evenly(len(tokens), body, count), context + 1, prefix)


def _windows(tokens: TokenArray, offsets: Sequence[int], length: int, prefix: Sequence[int]) -> Tensor:
    import torch

    first = len(prefix)
    windows = np.empty((len(offsets), length), np.int64)
    windows[:, :first] = prefix
    for row, offset in zip(windows, offsets, strict=True):
        row[first:] = tokens[offset : offset + length - first]
    return torch.from_numpy(windows)


class Batches:
    """The batches of a training on the device. Each rank has its own rows of each.

    A step's batch is cut into forward passes of ``micro_batch`` sequences, which the ranks take in turn.
    """

    def __init__(
        self,
        data: TokenArray,
        context: int,
        settings: TrainSettings,
        ranks: Ranks,
        device: torch.device,
        prefix: Sequence[int] = (),
    ) -> None:
        self.data, self.context, self.settings, self.device = data, context, settings, device
        self.prefix = prefix
        passes = range(ranks.rank, settings.grad_accum, ranks.size)
        self.rows = [i * settings.micro_batch + row for i in passes for row in range(settings.micro_batch)]
        self.ready: tuple[int, Tensor] | None = None

    def passes(self, number: int) -> tuple[Tensor, ...]:
        """This rank's forward passes of a batch: LongTensors (micro_batch, context + 1) on the device."""
        import torch

        tokens = self.ready[1] if self.ready is not None and self.ready[0] == number else self._drawn(number)
        self.ready = None
        return torch.split(tokens, self.settings.micro_batch)

    def prepare(self, number: int) -> None:
        """Draw a batch in advance, while a GPU is busy. A CPU has no such time."""
        if self.device.type != "cpu":
            self.ready = number, self._drawn(number)

    def _drawn(self, number: int) -> Tensor:
        settings = self.settings
        size = settings.micro_batch * settings.grad_accum
        drawn = batch(self.data, self.context, size, settings.data_seed, number, self.rows, self.prefix)
        return sent(drawn, self.device)


def sent(tokens: Tensor, device: torch.device) -> Tensor:
    """Tokens on the device. A GPU copies them from pinned memory, and nothing waits for that."""
    return tokens.pin_memory().to(device, non_blocking=True) if device.type != "cpu" else tokens
