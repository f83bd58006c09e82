"""The down-projection of one block: its matrices, what enters them, and what leaves them together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.models.parts import Entered, Inputs, Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class DownProjection:
    """The down-projection of one block, addressed as ``(out, in)`` whatever its storage order.

    Most have one part with one matrix. A mixture has a matrix for each expert; experts that every token enters are
    further parts, and their matrices are numbered after the routed ones.

    output_module: its output is that of all parts together. multiplier: the stream receives so many times the output.
    """

    layer: int
    block: nn.Module
    output_module: nn.Module
    parts: Sequence[Part]
    multiplier: float
    post_norm: nn.Module | None
    overwritten: bool
    stream_norm: nn.Module | None
    """A norm that the block applies after the addition (OPT-350M): the residual stream is what enters it."""

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
