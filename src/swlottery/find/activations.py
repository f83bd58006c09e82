"""The activations that enter and leave down-projections, kept in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.find.hooks import LayerHooks, RowBuffer, batches_of, layer_groups, run_hooked
from swlottery.find.probe import Batch, Probe
from swlottery.find.spikes import CHUNK, rms_before
from swlottery.models.architectures import DownProjection, Inputs

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Activations:
    """One layer's down-projection at some or all tokens of a probe, in float32.

    tokens: the numbers of the rows' tokens. inputs: what enters each matrix, by the probe's tokens.
    output: ``[tokens, out]``. added, stream: as in Spike, ``[tokens, out]``.
    """

    tokens: Tensor
    inputs: list[Inputs]
    output: Tensor
    added: Tensor
    stream: Tensor

    @property
    def rms(self) -> Tensor:
        """The root mean square over channels of the residual stream before the addition, ``[tokens]``."""
        import torch

        parts = zip(torch.split(self.added, CHUNK), torch.split(self.stream, CHUNK), strict=True)
        return torch.cat([rms_before(added, after) for added, after in parts])


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
        kept = [layer.result() for layer in group]
        group.clear()  # so that nobody but the caller holds them
        yield kept


class AllActivations:
    """The activations of all layers: held where they fit, made again a group of layers at a time where they do not.

    groups: how many groups there are.
    """

    def __init__(self, model: nn.Module, downs: Sequence[DownProjection], probe: Probe) -> None:
        self.model, self.downs, self.probe = model, downs, probe
        batches = batches_of(probe)
        self.groups = len(layer_groups(model, [ActivationHooks(down, batches) for down in downs]))
        self.held = activations(model, downs, probe) if self.groups == 1 else []

    def __iter__(self) -> Iterator[tuple[Sequence[DownProjection], list[Activations]]]:
        """Each group's down-projections and activations; the list is emptied when the next one is asked for."""
        done = 0
        for group in [list(self.held)] if self.held else by_groups(self.model, self.downs, self.probe):
            downs = self.downs[done : done + len(group)]
            done += len(group)
            yield downs, group
            group.clear()


class ActivationHooks(LayerHooks):
    """One layer's activations at all tokens, or at those ``chosen``."""

    def __init__(self, down: DownProjection, batches: Sequence[Batch], chosen: Tensor | None = None) -> None:
        super().__init__(down)
        self.chosen = chosen
        count = sum(batch.count for batch in batches) if chosen is None else len(chosen)
        out, in_ = down.matrices()[0][1].shape
        # float32; of a mixture, two experts a token. A norm behind the MLP gives one matrix more.
        self.size = 4 * count * ((2 if down.experts else 1) * in_ + (2 if down.post_norm is None else 3) * out)
        self.numbers: list[Tensor] = []
        self.of_experts: list[Inputs] = []
        self.entering, self.output, self.added, self.stream = (RowBuffer(count) for _ in range(4))

    def begin(self, batch: Batch) -> None:
        """Number the batch's tokens as the probe does, and choose among them."""
        import torch

        super().begin(batch)
        number = batch.first + torch.arange(len(self.tokens), device=self.tokens.device)
        self.wanted = None if self.chosen is None else torch.isin(number, self.chosen)
        self.places = self.tokens if self.wanted is None else self.tokens[self.wanted]
        self.numbers.append(number if self.wanted is None else number[self.wanted])

    def _chosen_rows(self, activation: Any) -> Tensor:
        rows = self.rows(activation)
        return (rows if self.wanted is None else rows[self.wanted]).float()

    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        """Keep the inputs and the output."""
        import torch

        if self.down.experts is None:
            (inputs,) = self.down.inputs(args, self.places)
            self.entering.add(inputs.values.float())
        else:
            number_of = torch.full((len(self.batch.valid),), -1, device=self.tokens.device)
            number_of[self.places] = self.numbers[-1]  # from flat positions to the probe's tokens
            for inputs in self.down.inputs(args, self.places):
                self.of_experts.append(Inputs(inputs.expert, number_of[inputs.tokens], inputs.values.float()))
        values = self._chosen_rows(output).clone()
        if not bool(torch.isfinite(values).all()):
            raise BadInput(f"the output of {self.down.path} is not finite: use --dtype bfloat16 or float32")
        self.output.add(values)

    def at_end(self, stream: Tensor) -> None:
        """Keep what is added, and the stream."""
        if self.normed is not None:
            self.added.add(self._chosen_rows(self.normed))
            self.normed = None
        self.stream.add(self._chosen_rows(stream).clone())

    def result(self) -> Activations:
        """What was kept, after the last batch."""
        import torch

        tokens = torch.cat(self.numbers)
        output = self.output.matrix
        if self.down.experts:
            experts = sorted({part.expert for part in self.of_experts if part.expert is not None})
            inputs = [self._of_expert(expert) for expert in experts]
        else:
            inputs = [Inputs(None, tokens, self.entering.matrix)]
        added = output if self.down.post_norm is None else self.added.matrix
        return Activations(tokens, inputs, output, added, self.stream.matrix)

    def _of_expert(self, expert: int) -> Inputs:
        """One expert's inputs, of all batches."""
        import torch

        mine = [part for part in self.of_experts if part.expert == expert]
        return Inputs(expert, torch.cat([part.tokens for part in mine]), torch.cat([part.values for part in mine]))
