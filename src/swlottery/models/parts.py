"""The stored weights that a block's down-projection is made of, and what enters their matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from swlottery.models.offload import changed, stored_weight

if TYPE_CHECKING:
    from torch import Tensor, nn

Entered = Sequence[Any]
"""For each part of a down-projection the arguments of its module, and behind them what its gate returned."""


@dataclass(frozen=True)
class Inputs:
    """What enters one matrix of a down-projection: ``values[n, in]`` for the flat token positions ``tokens[n]``.

    For an expert the router's weight is already multiplied in, so that contributions add up to the output.

    scale: ``[n]``, what was multiplied in; None: nothing. An expert's bias counts so many times.
    """

    expert: int | None
    tokens: Tensor
    values: Tensor
    scale: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """One stored weight of a block's down-projection: one matrix, or a stack of one matrix for each expert.

    module: what enters the matrices is read from its arguments. name: of the weight in the module.
    path: of the matrices in the model, without ``.weight``.
    experts: the numbers of its matrices in the block; None where the block has no experts.
    entered: how many of its matrices a token enters.
    in_out: a matrix is stored ``[in, out]``.
    gate: a module whose output, through a sigmoid, is multiplied into the part's output; or None.
    """

    module: nn.Module
    name: str
    path: str
    experts: range | None = None
    entered: int = 1
    in_out: bool = False
    gate: nn.Module | None = None

    @property
    def weight(self) -> nn.Parameter:
        parameter: nn.Parameter = getattr(self.module, self.name)
        return parameter

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of each matrix."""
        out, in_ = self.weight.shape[-2:]
        return (in_, out) if self.in_out else (out, in_)

    def matrix(self, expert: int | None) -> Tensor:
        """The weight of an expert as ``[out, in]``: a view, or loaded for the caller (see offload.py)."""
        matrix = stored_weight(self.module, self.name, self._number(expert))
        return matrix.t() if self.in_out else matrix

    def changed(self, expert: int | None, place: tuple[list[int], list[int]], values: Tensor) -> Any:
        """The matrix with other ``values`` at ``place`` (outs, ins), inside a ``with`` block."""
        index = (place[1], place[0]) if self.in_out else place
        number = self._number(expert)
        return changed(self.module, self.name, index if number is None else (number, *index), values)

    def _number(self, expert: int | None) -> int | None:
        """Which of the stacked matrices is an expert's; None where there is one matrix."""
        if self.weight.ndim == 2:
            return None
        assert self.experts is not None and expert is not None
        return expert - self.experts.start

    def view(self, tensor: Tensor, expert: int | None) -> Tensor:
        """Of a tensor that is laid out as the weight (the weight, a mask of it) the matrix of an expert: a view."""
        number = self._number(expert)
        tensor = tensor if number is None else tensor[number]
        return tensor.t() if self.in_out else tensor

    def bias(self, expert: int | None) -> Tensor | None:
        """The bias of a matrix over output channels; or None."""
        name = "bias" if self.weight.ndim == 2 else f"{self.name}_bias"
        if getattr(self.module, name, None) is None:
            return None
        return stored_weight(self.module, name, self._number(expert))

    def inputs(self, args: Sequence[Tensor], tokens: Tensor) -> Iterator[Inputs]:
        """What enters the matrices at the flat token positions ``tokens``.

        The experts of a mixture are one parameter and have no module each. So what enters each of them is computed
        again from what the experts' module was given: hidden states, chosen experts, router weights.
        """
        import torch

        if self.weight.ndim == 2:
            expert = None if self.experts is None else self.experts.start
            values = args[0].reshape(-1, args[0].shape[-1])[tokens]
            scale = None
            if self.gate is not None:
                scale = torch.sigmoid(args[-1].reshape(-1)[tokens])
                values = values * scale[:, None]
            yield Inputs(expert, tokens, values, scale)
            return
        assert self.experts is not None
        if len(args) == 1:
            yield from self._batched(args[0], tokens)
            return
        hidden, chosen, router = (argument.reshape(-1, argument.shape[-1])[tokens] for argument in args[:3])
        for number, expert in enumerate(self.experts):
            rows, slot = (chosen == number).nonzero(as_tuple=True)
            if len(rows):
                scale, experts = router[rows, slot], cast("Any", self.module)
                inner = experts._apply_gate(self._into(hidden[rows], number))
                yield Inputs(expert, tokens[rows], inner * scale[:, None], scale)

    def _batched(self, given: Tensor, tokens: Tensor) -> Iterator[Inputs]:
        """Llama 4: its experts are given every token for each of them, times the router's weight, which is mostly 0."""
        assert self.experts is not None
        experts: Any = self.module
        of_each = given.reshape(len(self.experts), -1, given.shape[-1])
        for number, expert in enumerate(self.experts):
            hidden = of_each[number][tokens]
            (rows,) = hidden.any(dim=1).nonzero(as_tuple=True)
            if len(rows):
                gate, up = self._into(hidden[rows], number).chunk(2, dim=-1)
                yield Inputs(expert, tokens[rows], up * experts.act_fn(gate))

    def _into(self, hidden: Tensor, number: int) -> Tensor:
        """What leads into one expert's intermediate channels."""
        from torch.nn import functional

        weight = stored_weight(self.module, "gate_up_proj", number)
        biased = getattr(self.module, "gate_up_proj_bias", None) is not None
        bias = stored_weight(self.module, "gate_up_proj_bias", number) if biased else None
        return functional.linear(hidden, weight.t() if self.in_out else weight, bias)
