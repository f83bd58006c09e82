"""Hooks on the down-projections of a network, while it runs over a probe.

What the hooks do with an activation is up to their kind: `scan` reduces it where it is computed, `activations` keeps
it. Either may need to see all tokens of a layer, and so has to keep something of each batch. Where that does not fit
for all layers together, the network runs a few layers at a time (forward.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from swlottery.errors import BadInput
from swlottery.find import forward
from swlottery.find.forward import run_body
from swlottery.find.probe import Batch, Probe
from swlottery.models.architectures import DownProjection, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn


class LayerHooks(ABC):
    """Hooks on one layer: at its down-projection, at the norm behind it if there is one, and at the block's end.

    size: about how many bytes of the layer are kept until the last batch is done.
    """

    size: int

    def __init__(self, down: DownProjection) -> None:
        self.down = down

    @abstractmethod
    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        """Called with what enters and leaves the down-projection's module."""

    @abstractmethod
    def at_end(self, stream: Tensor) -> None:
        """Called with the residual stream after the addition."""

    def begin(self, batch: Batch) -> None:
        """Called before each batch."""
        self.batch = batch
        self.tokens = batch.valid.nonzero().flatten()
        self.valid = None if len(self.tokens) == len(batch.valid) else batch.valid
        self.normed: Tensor | None = None
        self.called = False

    def rows(self, activation: Any) -> Tensor:
        """``[valid tokens, channels]`` from ``[prompts, positions, channels]`` or ``[prompts · positions, channels]``.

        OPT and the experts of Mixtral flatten their activations; some blocks return a tuple.
        """
        tensor = activation[0] if isinstance(activation, tuple) else activation
        flat: Tensor = tensor.reshape(-1, tensor.shape[-1])
        return flat if self.valid is None else flat[self.valid]

    @contextmanager
    def attached(self, batch: Batch) -> Iterator[None]:
        """The hooks in place for one batch; whatever happens, every one of them is gone afterwards."""
        self.begin(batch)
        down = self.down
        with ExitStack() as stack:
            stack.enter_context(down.module.register_forward_hook(self._output_hook))
            if down.post_norm is not None:
                stack.enter_context(down.post_norm.register_forward_hook(self._norm_hook))
            if down.stream_norm is not None:
                stack.enter_context(down.stream_norm.register_forward_pre_hook(self._stream_norm_hook))
            else:
                stack.enter_context(down.block.register_forward_hook(self._block_hook))
            yield
        if not self.called:
            raise BadInput(
                f"{down.path} was never called in a forward pass: this model computes its MLP in another way "
                "(BLOOM's slow_but_exact does), which cannot be watched"
            )

    def _output_hook(self, module: nn.Module, args: Sequence[Tensor], output: Tensor) -> None:
        self.called = True
        self.at_output(args, output)

    def _norm_hook(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.normed = output.detach()

    def _block_hook(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.called:
            self.at_end(output)

    def _stream_norm_hook(self, module: nn.Module, args: Sequence[Tensor]) -> None:
        if self.called:
            self.at_end(args[0])


Hooks = TypeVar("Hooks", bound=LayerHooks)


def run_hooked(model: nn.Module, hooks: list[Hooks], batches: Sequence[Batch]) -> Iterator[list[Hooks]]:
    """Run ``batches`` with hooks on some layers, a group of layers at a time; yield each group when it is done.

    ``hooks`` are in the order of their layers, and the list is emptied on the way. No block behind the last is run.
    """
    stretches = layer_groups(model, hooks)
    blocks = Roles(model).blocks if len(stretches) > 1 else []
    returned: list[Any] = [None] * len(batches)  # by the last block of the group before
    start = 0
    for stretch in stretches:
        group = [hooks.pop(0) for _ in stretch]
        last = group[-1].down
        for number, batch in enumerate(batches):
            with ExitStack() as stack:
                stack.enter_context(forward.resumed(blocks, start, returned[number]))
                for layer in group:
                    stack.enter_context(layer.attached(batch))
                output = stack.enter_context(forward.ending_at(last.block))
                run_body(model, batch.ids)
            returned[number] = output[0] if hooks else None
        start = last.layer + 1
        yield group


def layer_groups(model: nn.Module, hooks: Sequence[LayerHooks]) -> list[range]:
    """The groups of consecutive layers that fit `forward.budget`."""
    return forward.groups([layer.size for layer in hooks], forward.budget(model))


def batches_of(probe: Probe, tokens: Tensor | None = None) -> list[Batch]:
    """The batches of a probe, or those of them that hold one of ``tokens``."""
    batches = probe.batches(forward.BATCH_TOKENS)
    if tokens is None:
        return batches
    wanted = tokens.tolist()
    return [batch for batch in batches if any(batch.first <= token < batch.first + batch.count for token in wanted)]


class RowBuffer:
    """A matrix that comes in parts, in the order of its rows; one that comes in a single part is not copied."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def add(self, part: Tensor) -> None:
        """The next rows."""
        if len(part) == self.total:
            self.matrix = part
            return
        if not self.done:
            self.matrix = part.new_empty(self.total, part.shape[1])
        self.matrix[self.done : self.done + len(part)] = part
        self.done += len(part)
