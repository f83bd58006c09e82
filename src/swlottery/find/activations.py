"""The activations that enter and leave down-projections, kept in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.errors import BadInput
from swlottery.find.forward import LayerHooks, batches_of, joined, layer_groups, run_hooked
from swlottery.find.probe import Batch, Probe
from swlottery.find.spikes import by_chunks, rms_before
from swlottery.models.down import DownProjection, Entered, Inputs

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Activations:
    """One layer's down-projection at some or all tokens of a probe, in float32.

    inputs: what enters each matrix, by the probe's tokens. output: ``[tokens, out]``.
    added, stream: as in Spike, ``[tokens, out]``.
    """

    down: DownProjection
    inputs: list[Inputs]
    output: Tensor
    added: Tensor
    stream: Tensor

    @property
    def rms(self) -> Tensor:
        """The root mean square over channels of the residual stream before the addition, ``[tokens]``."""
        return by_chunks(rms_before, self.added, self.stream)


def activations(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, tokens: Tensor | None = None
) -> list[Activations]:
    """One forward pass that keeps the inputs, outputs and streams of ``downs`` at all tokens, or at some.

    Args:
        tokens: which of the probe's tokens, in their order; only the batches of prompts that hold one are run.
    """
    return [now for group in by_groups(model, downs, probe, tokens) for now in group]


def by_groups(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, tokens: Tensor | None = None
) -> Iterator[list[Activations]]:
    """The activations of ``downs``, in their order, as many layers at a time as `forward.budget` has room for."""
    batches = batches_of(probe, tokens)
    hooks = [ActivationHooks(down, batches, tokens) for down in downs]
    for group in run_hooked(model, hooks, batches):
        yield [group.pop(0).result() for _ in range(len(group))]  # nobody but the caller holds them


class AllActivations:
    """The activations of all layers: held where they fit, made again a group of layers at a time where they do not.

    stretches: the numbers of the layers of each group.
    """

    def __init__(self, model: nn.Module, downs: Sequence[DownProjection], probe: Probe) -> None:
        self.model, self.downs, self.probe = model, downs, probe
        batches = batches_of(probe)
        self.stretches = layer_groups(model, [ActivationHooks(down, batches) for down in downs])
        self.held = activations(model, downs, probe) if len(self.stretches) == 1 else []

    def __iter__(self) -> Iterator[list[Activations]]:
        """Each group's activations; the list is emptied when the next one is asked for."""
        for group in [list(self.held)] if self.held else by_groups(self.model, self.downs, self.probe):
            yield group
            group.clear()


class ActivationHooks(LayerHooks):
    """One layer's activations at all tokens, or at those ``chosen``."""

    def __init__(self, down: DownProjection, batches: Sequence[Batch], chosen: Tensor | None = None) -> None:
        super().__init__(down)
        self.chosen = chosen
        count = sum(batch.count for batch in batches) if chosen is None else len(chosen)
        changed = down.post_norm is not None or down.multiplier != 1  # what is added is then another matrix
        self.size = 4 * count * (down.entering + (3 if changed else 2) * down.parts[0].shape[0])  # float32
        self.inputs: dict[int | None, list[Inputs]] = {}  # by expert
        self.output_parts: list[Tensor] = []
        self.added_parts: list[Tensor] = []
        self.stream_parts: list[Tensor] = []

    def measure(self, entered: Entered, output: Tensor, added: Tensor, stream: Tensor) -> None:
        """Keep the inputs, the output, what is added where that is something else, and the stream."""
        import torch

        numbers = self.batch.first + torch.arange(len(self.tokens), device=self.tokens.device)  # as the probe's tokens
        rows = slice(None) if self.chosen is None else torch.isin(numbers, self.chosen.to(numbers.device))
        number_of = torch.full((len(self.batch.valid),), -1, device=self.tokens.device)
        number_of[self.tokens] = numbers
        for one in self.down.inputs(entered, self.tokens[rows]):
            scale = None if one.scale is None else one.scale.float()
            kept = Inputs(one.expert, number_of[one.tokens], one.values.float(), scale)
            self.inputs.setdefault(one.expert, []).append(kept)
        values = output[rows].to(torch.float32, copy=True)
        if not bool(torch.isfinite(values).all()):
            raise BadInput(f"the output of {self.down.path} is not finite: use --dtype bfloat16 or float32")
        self.output_parts.append(values)
        if added is not output:
            self.added_parts.append(added[rows].float())
        self.stream_parts.append(stream[rows].to(torch.float32, copy=True))

    def result(self) -> Activations:
        """What was kept, after the last batch."""
        inputs = [_joined(self.inputs.pop(expert)) for expert in sorted(self.inputs, key=lambda expert: expert or 0)]
        output = joined(self.output_parts)
        added = joined(self.added_parts) if self.added_parts else output
        return Activations(self.down, inputs, output, added, joined(self.stream_parts))


def _joined(parts: list[Inputs]) -> Inputs:
    """The inputs of one matrix in several batches; the list is emptied."""
    expert, tokens, values = parts[0].expert, [one.tokens for one in parts], [one.values for one in parts]
    scales = [one.scale for one in parts if one.scale is not None]
    parts.clear()
    return Inputs(expert, joined(tokens), joined(values), joined(scales) if scales else None)
