"""The batches of a training, on the device when they are needed: each rank has its own rows of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swlottery.config import TrainSettings
from swlottery.runtime.ranks import Ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from swlottery.data.tokens import TokenArray


class Batches:
    """A step's batch is cut into forward passes of ``micro_batch`` sequences, which the ranks take in turn."""

    def __init__(
        self, data: TokenArray, context: int, settings: TrainSettings, ranks: Ranks, device: torch.device
    ) -> None:
        self.data, self.context, self.settings, self.device = data, context, settings, device
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
        """Draw a batch beforehand, while a GPU is busy with what it was given; a CPU has no such time."""
        if self.device.type != "cpu":
            self.ready = number, self._drawn(number)

    def _drawn(self, number: int) -> Tensor:
        from swlottery.data.tokens import batch

        settings = self.settings
        size = settings.micro_batch * settings.grad_accum
        return sent(batch(self.data, self.context, size, settings.data_seed, number, rows=self.rows), self.device)


def sent(tokens: Tensor, device: torch.device) -> Tensor:
    """Tokens on the device. A GPU fetches them from memory that stays in place, and nobody waits for it."""
    return tokens.pin_memory().to(device, non_blocking=True) if device.type != "cpu" else tokens
