"""One forward pass that says where the spikes are, and what the largest activations of each layer.

Everything is reduced where it is computed: no activation is copied out. Only the median over tokens needs to see all
tokens of a layer, so of several batches the layer's outputs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swlottery.config import KAPPA
from swlottery.find.hooks import LayerHooks, RowBuffer, batches_of, run_hooked
from swlottery.find.probe import Batch, Probe
from swlottery.find.spikes import CHUNK, RHO, Entries, Spike, above_channels, above_stream, larger_median, rms_before
from swlottery.models.architectures import DownProjection

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Peak:
    """The entry of largest magnitude in one layer's activations."""

    value: float
    token: int
    channel: int


@dataclass(frozen=True)
class LayerScan:
    """One layer in one pass: its largest input and output entries, and its spikes.

    input: for experts the largest at the token of the largest output.
    spikes: of each channel the largest that arrives and the largest that is cancelled. entries: all of them.
    """

    layer: int
    input: Peak
    output: Peak
    spikes: list[Spike]
    entries: Entries | None = field(default=None, compare=False, repr=False)


def scan(model: nn.Module, downs: Sequence[DownProjection], probe: Probe, kappa: float = KAPPA) -> list[LayerScan]:
    """One forward pass over the probe with hooks on every down-projection."""
    batches = batches_of(probe)
    hooks = [ScanHooks(down, batches, kappa) for down in downs]
    return [layer.result() for group in run_hooked(model, hooks, batches) for layer in group]


class ScanHooks(LayerHooks):
    """The scan of one layer."""

    def __init__(self, down: DownProjection, batches: Sequence[Batch], kappa: float) -> None:
        super().__init__(down)
        self.kappa, self.batches = kappa, len(batches)
        count = sum(batch.count for batch in batches)
        channels = down.matrices()[0][1].shape[0]
        self.size = count * channels * down.weight.element_size() if len(batches) > 1 else 0
        self.outputs = RowBuffer(count)
        self.candidates: list[tuple[Tensor, ...]] = []
        self.input: Peak | None = None
        self.output: Peak | None = None

    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        """Keep the batch's output until the block's end, and note the largest entries."""
        import torch

        first = self.batch.first
        self.values = self.rows(output.clone() if self.down.overwritten else output)
        self.version = self.values._version
        self.sizes = _sizes(self.values)
        row = int(self.sizes.argmax())
        channel = int(self.values[row].abs().argmax())
        peak = Peak(float(self.values[row, channel]), first + row, channel)
        is_larger = self.output is None or abs(peak.value) > abs(self.output.value)
        if is_larger:
            self.output = peak
        if self.down.experts is None:
            entering = _peak(self.rows(args[0]), first)
            if self.input is None or abs(entering.value) > abs(self.input.value):
                self.input = entering
        elif is_larger:  # experts' inputs have to be computed again: at the token of the largest output alone
            inputs = torch.cat([given.values for given in self.down.inputs(args, self.tokens[row : row + 1])])
            entering = _peak(inputs)
            self.input = Peak(entering.value, first + row, entering.channel)

    def at_end(self, stream: Tensor) -> None:
        """Look for the batch's candidates, now that the stream is known."""
        if self.values._version != self.version:
            raise AssertionError(
                f"the output of {self.down.path} was overwritten: its row in models/table.py has to say so"
            )
        self.outputs.add(self.values)
        self.candidates.append(self._candidates(self.rows(stream)))
        del self.values, self.sizes
        self.normed = None
        if self.batches == 1:  # all tokens have been seen: nothing but the spikes has to be kept of this layer
            self.reduced = self._reduce()

    def _candidates(self, stream: Tensor) -> tuple[Tensor, ...]:
        """The batch's entries above κ times the median over channels and above ρ times the stream's RMS.

        Columns as in Entries, but with the median over channels in place of the ratio, and no last column.
        """
        import torch

        added, sizes = self.values, self.sizes
        if self.normed is not None:
            added = self.rows(self.normed)
            sizes = _sizes(added)
        token, channel, over_channels = above_channels(self.values, self.kappa, above_stream(added, stream, sizes))
        added_there, after = added[token].float(), stream[token].float()
        nth = torch.arange(len(token), device=after.device)
        reached = added_there[nth, channel]
        rms_ratio = reached.abs() / rms_before(added_there, after)
        value = self.values[token, channel].float()
        columns = (token + self.batch.first, channel, value, over_channels, reached, rms_ratio, after[nth, channel])
        return tuple(column[rms_ratio >= RHO] for column in columns)

    def _reduce(self) -> LayerScan:
        """Of the candidates those above κ times the median over tokens too, now that all tokens have been seen."""
        import torch

        token, channel, value, over_channels, *rest = (
            torch.cat(column) for column in zip(*self.candidates, strict=True)
        )
        median = larger_median(self.outputs.matrix, channel, over_channels)
        ratio = value.abs() / median
        columns = (token, channel, value, ratio, *rest, median)
        entries = Entries(*(column[ratio >= self.kappa] for column in columns))
        del self.outputs, self.candidates
        assert self.input is not None and self.output is not None, "a batch has been run"
        return LayerScan(self.down.layer, self.input, self.output, entries.largest(self.down.layer), entries)

    def result(self) -> LayerScan:
        """What was seen, after the last batch."""
        return self.reduced if self.batches == 1 else self._reduce()


def _sizes(activation: Tensor) -> Tensor:
    """The largest |entry| of each row, without a copy of all."""
    import torch

    return torch.cat([part.abs().amax(dim=1) for part in torch.split(activation, CHUNK)])


def _peak(activation: Tensor, first: int = 0) -> Peak:
    """The largest of ``activation[tokens, channels]``; ``first``: the number of the first token.

    By ever smaller parts: an argmax over all costs several times the minima and maxima of large chunks.
    """
    import torch

    chunks = torch.split(activation, CHUNK)
    extremes = torch.stack([torch.stack(chunk.aminmax()) for chunk in chunks]).float()
    nth = int(extremes.abs().amax(dim=1).argmax())
    row = int(chunks[nth].abs().amax(dim=1).argmax())
    channel = int(chunks[nth][row].abs().argmax())
    return Peak(float(chunks[nth][row, channel]), first + CHUNK * nth + row, channel)
