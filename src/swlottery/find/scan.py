"""One forward pass that says where the spikes are, and what the largest activations of each layer.

Everything is reduced where it is computed: no activation is copied out. Only the median over tokens needs to see all
tokens of a layer, so of several batches the layer's outputs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swlottery.config import KAPPA
from swlottery.find.forward import LayerHooks, batches_of, joined, run_hooked
from swlottery.find.probe import Batch, Probe
from swlottery.find.spikes import (
    RHO,
    Entries,
    Spike,
    above_channels,
    above_stream,
    by_chunks,
    larger_median,
    rms_before,
)
from swlottery.models.down import DownProjection, Entered

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Peak:
    """The entry of largest magnitude in one layer's activations."""

    value: float
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
    entries: Entries = field(compare=False, repr=False)


def scan(model: nn.Module, downs: Sequence[DownProjection], probe: Probe, kappa: float = KAPPA) -> list[LayerScan]:
    """One forward pass over the probe with hooks on every down-projection."""
    batches = batches_of(probe)
    hooks = [ScanHooks(down, batches, kappa) for down in downs]
    return [layer.result for group in run_hooked(model, hooks, batches) for layer in group]


class ScanHooks(LayerHooks):
    """The scan of one layer."""

    def __init__(self, down: DownProjection, batches: Sequence[Batch], kappa: float) -> None:
        super().__init__(down)
        self.kappa, self.batches = kappa, len(batches)
        count = sum(batch.count for batch in batches)
        self.size = count * down.parts[0].shape[0] * down.dtype.itemsize if len(batches) > 1 else 0
        self.outputs: list[Tensor] = []
        self.candidates: list[Entries] = []
        self.peaks: list[tuple[Peak, Peak]] = []

    def measure(self, entered: Entered, output: Tensor, added: Tensor, stream: Tensor) -> None:
        """Note the largest entries and the candidates, and keep the output; after the last batch, find the spikes."""
        sizes = _sizes(output)
        row = int(sizes.argmax())
        leaving = _peak(output[row : row + 1])
        if self.down.experts is None:
            entering = _peak(self.rows(entered[0][0]))
        else:  # experts' inputs have to be computed again: at the token of the largest output alone
            peaks = [_peak(given.values) for given in self.down.inputs(entered, self.tokens[row : row + 1])]
            entering = max(peaks, key=lambda peak: abs(peak.value))
        self.peaks.append((entering, leaving))
        self.outputs.append(output)
        reaching = above_stream(added, stream, sizes if added is output else _sizes(added))
        self.candidates.append(self._candidates(output, added, stream, reaching))
        if len(self.outputs) == self.batches:  # nothing but the spikes has to be kept of this layer
            self.result = self._reduced()

    def _candidates(self, output: Tensor, added: Tensor, stream: Tensor, tokens: Tensor) -> Entries:
        """The entries at ``tokens`` of a batch above κ times the median over channels and ρ times the stream's RMS.

        Their median is the one over channels, and their ratio is to it, until the medians over tokens are known.
        """
        import torch

        token, channel, median = above_channels(output, self.kappa, tokens)
        added_there, after = added[token].float(), stream[token].float()
        nth = torch.arange(len(token), device=after.device)
        reached = added_there[nth, channel]
        rms_ratio = reached.abs() / rms_before(added_there, after)
        value = output[token, channel].float()
        entries = Entries(
            token + self.batch.first,
            channel,
            value,
            value.abs() / median,
            reached,
            rms_ratio,
            after[nth, channel],
            median,
        )
        return entries.where(rms_ratio >= RHO)

    def _reduced(self) -> LayerScan:
        """The scan, with those of the candidates that are above κ times the median over tokens too."""
        import torch

        entries = Entries(*(torch.cat(column) for column in zip(*self.candidates, strict=True)))
        median = larger_median(joined(self.outputs), entries.channel, entries.median)
        entries = entries._replace(ratio=entries.value.abs() / median, median=median)
        entries = entries.where(entries.ratio >= self.kappa)
        layer = self.down.layer
        entering, leaving = max(self.peaks, key=lambda peaks: abs(peaks[1].value))
        if self.down.experts is None:
            entering = max((peak for peak, _ in self.peaks), key=lambda peak: abs(peak.value))
        return LayerScan(layer, entering, leaving, entries.largest(layer), entries)


def _sizes(activation: Tensor) -> Tensor:
    """The largest |entry| of each row, without a copy of all."""
    return by_chunks(lambda part: part.abs().amax(dim=1), activation)


def _peak(activation: Tensor) -> Peak:
    """The largest of ``activation[tokens, channels]``."""
    row = activation[int(_sizes(activation).argmax())]
    channel = int(row.abs().argmax())
    return Peak(float(row[channel]), channel)
