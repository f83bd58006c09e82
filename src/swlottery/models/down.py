"""The down-projection of one block: the stored weights that it is made of, what enters them, and what leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from swlottery.models.offload import changed, stored_weight

if TYPE_CHECKING:
    import torch
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


@dataclass(frozen=True)
class DownProjection:
    """The down-projection of one block, addressed as ``(out, in)`` whatever its storage order.

    Most have one part with one matrix. A mixture has a matrix for each expert; experts that every token enters are
    further parts, and their matrices are numbered after the routed ones.

    output_module: its output is that of all parts together. multiplier: the stream receives so many times the output.
    stream_norm: a norm that the block applies after the addition (OPT-350M): the residual stream is what enters it.
    """

    layer: int
    block: nn.Module
    output_module: nn.Module
    parts: Sequence[Part]
    multiplier: float
    post_norm: nn.Module | None
    overwritten: bool
    stream_norm: nn.Module | None

    @property
    def path(self) -> str:
        """The path of its matrix in the model; where there are several parts, of the first."""
        return self.parts[0].path

    @property
    def experts(self) -> int | None:
        """How many matrices it has; None where there are no experts."""
        return None if self.parts[0].experts is None else sum(len(part.experts or ()) for part in self.parts)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].weight.dtype

    @property
    def entering(self) -> int:
        """How many values enter its matrices at a token."""
        return sum(part.entered * part.shape[1] for part in self.parts)

    def part(self, expert: int | None = None) -> Part:
        """The part that an expert's matrix is in. Raises IndexError where there is no such matrix."""
        for part in self.parts:
            if expert is None if part.experts is None else expert in part.experts:
                return part
        raise IndexError(f"{self.path} has no expert {expert}")

    def bias(self, expert: int | None = None) -> Tensor | None:
        """The bias of a matrix over output channels, without its gradient; or None."""
        return self.part(expert).bias(expert)

    def shape(self, expert: int | None = None) -> tuple[int, int]:
        """(out, in): the channels of a matrix."""
        return self.part(expert).shape

    def matrix(self, expert: int | None = None) -> Tensor:
        """The weight as ``[out, in]``: a view, or loaded for the caller (see offload.py)."""
        return self.part(expert).matrix(expert)

    def numbers(self) -> list[int | None]:
        """The expert of each matrix; one None where there are no experts."""
        return [None] if self.experts is None else list(range(self.experts))

    def matrices(self) -> list[tuple[int | None, Tensor]]:
        """Every ``(expert, matrix)`` of this block; one pair with expert None where there are no experts."""
        return [(expert, self.matrix(expert)) for expert in self.numbers()]

    def inputs(self, entered: Entered, tokens: Tensor) -> list[Inputs]:
        """What enters the matrices at the flat token positions ``tokens``, from what `hooked` saw."""
        pairs = zip(self.parts, entered, strict=True)
        return [inputs for part, args in pairs for inputs in part.inputs(args, tokens)]

    @contextmanager
    def hooked(self, see: Callable[[Entered, Tensor], Tensor | None]) -> Iterator[None]:
        """Call ``see`` each time the output is there, with what entered; what it returns takes the output's place."""
        entered: dict[nn.Module, tuple[Any, ...]] = {}

        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entered[module] = (*args, *kwargs.values())

        def keep_gate(module: nn.Module, args: Any, output: Any) -> None:
            entered[module] = (output,)

        def end(module: nn.Module, args: Any, output: Any) -> Any:
            found = [[*entered[part.module], *([] if part.gate is None else entered[part.gate])] for part in self.parts]
            entered.clear()
            changed = see(found, output[0] if isinstance(output, tuple) else output)
            return (changed, *output[1:]) if isinstance(output, tuple) and changed is not None else changed

        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.module.register_forward_hook(keep, with_kwargs=True))
                if part.gate is not None:
                    stack.enter_context(part.gate.register_forward_hook(keep_gate))
            stack.enter_context(self.output_module.register_forward_hook(end))
            yield
