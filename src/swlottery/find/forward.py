"""Forward passes over a probe with hooks on the down-projections; their memory does not grow with the prompts.

The prompts run in batches of a bounded number of tokens. What hooks do with a layer's activations is up to their kind:
`scan` reduces them, `activations` keeps them. Either may need all tokens of a layer, and so keeps something of each
batch. Where that does not fit for all layers together, the network runs a few layers at a time: what the last of them
returned is kept, and the next layers go on from there. So every layer is run once, and every number is the one that an
ordinary pass gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from swlottery.errors import BadInput
from swlottery.find.probe import Batch, Probe
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.down import Entered
from swlottery.models.offload import device_of
from swlottery.models.running import ending_at, resumed, run_body

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH_TOKENS = 2048
"""Tokens that run together, padding included. The default prompts are one batch whatever the tokenizer."""


class LayerHooks(ABC):
    """Hooks on one layer: at its down-projection, at the norm behind it if there is one, and at the block's end.

    size: about how many bytes of the layer are kept until the last batch is done.
    """

    size: int

    def __init__(self, down: DownProjection) -> None:
        self.down = down

    @abstractmethod
    def measure(self, entered: Entered, output: Tensor, added: Tensor, stream: Tensor) -> None:
        """Called for each batch at the end of the layer's block.

        Args:
            entered: what entered the down-projection's parts.
            output, added, stream: what left it, what the residual stream received, and that stream afterwards, each
                ``[valid tokens, channels]``. ``added`` is ``output`` itself where no norm follows.
        """

    def begin(self, batch: Batch) -> None:
        """Called before each batch."""
        self.batch = replace(batch, valid=batch.valid.to(device_of(self.down.block)))
        self.tokens = self.batch.valid.nonzero().flatten()
        self.output: Tensor | None = None
        self.normed: Tensor | None = None

    @contextmanager
    def attached(self, batch: Batch) -> Iterator[None]:
        """The hooks in place for one batch; whatever happens, every one of them is gone afterwards."""
        self.begin(batch)
        down = self.down
        with ExitStack() as stack:
            stack.enter_context(down.hooked(self._output_hook))
            if down.post_norm is not None:
                stack.enter_context(down.post_norm.register_forward_hook(self._norm_hook))
            if down.stream_norm is not None:
                end = down.stream_norm.register_forward_pre_hook(lambda module, args: self._at_end(args[0]))
            else:
                end = down.block.register_forward_hook(lambda module, args, output: self._at_end(output))
            stack.enter_context(end)
            yield

    def _output_hook(self, entered: Entered, output: Tensor) -> None:
        self.entered, self.output = entered, output.clone() if self.down.overwritten else output
        self.version = self.output._version

    def _norm_hook(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.normed = output.detach()

    def _at_end(self, stream: Any) -> None:
        if self.output is None:
            raise BadInput(
                f"{self.down.path} was never called in a forward pass: this model computes its MLP in another way "
                "(BLOOM's slow_but_exact does), which cannot be watched"
            )
        if self.output._version != self.version:
            raise AssertionError(
                f"the output of {self.down.path} was overwritten: its row in models/table.py has to say so"
            )
        output = self.rows(self.output)
        added = output if self.normed is None else self.rows(self.normed)
        if self.down.multiplier != 1:
            added = added * self.down.multiplier
        self.measure(self.entered, output, added, self.rows(stream))
        del self.entered, self.output, self.normed

    def rows(self, activation: Any) -> Tensor:
        """``[valid tokens, channels]`` from ``[prompts, positions, channels]`` or ``[prompts · positions, channels]``.

        OPT and the experts of Mixtral flatten their activations; some blocks return a tuple.
        """
        tensor = activation[0] if isinstance(activation, tuple) else activation
        flat: Tensor = tensor.reshape(-1, tensor.shape[-1])
        return flat if len(self.tokens) == len(flat) else flat[self.batch.valid]


Hooks = TypeVar("Hooks", bound=LayerHooks)


def run_hooked(model: nn.Module, hooks: list[Hooks], batches: Sequence[Batch]) -> Iterator[list[Hooks]]:
    """Run ``batches`` with hooks on some layers, a group of layers at a time; yield each group when it is done.

    ``hooks`` are in the order of their layers, and the list is emptied on the way. No block behind the last is run.
    """
    blocks = Roles(model).blocks
    returned: list[Any] = [None] * len(batches)  # by the last block of the group before
    start = 0
    for stretch in layer_groups(model, hooks):
        group = [hooks.pop(0) for _ in stretch]
        last = group[-1].down
        for number, batch in enumerate(batches):
            with ExitStack() as stack:
                stack.enter_context(resumed(blocks, start, returned[number]))
                for layer in group:
                    stack.enter_context(layer.attached(batch))
                output = stack.enter_context(ending_at(last.block))
                run_body(model, batch.ids)
            returned[number] = output[0] if hooks else None
        start = last.layer + 1
        yield group


def layer_groups(model: nn.Module, hooks: Sequence[LayerHooks]) -> list[range]:
    """The groups of consecutive layers that fit the `budget`."""
    return groups([layer.size for layer in hooks], budget(model))


def groups(sizes: Sequence[int], limit: int) -> list[range]:
    """Consecutive stretches of ``sizes`` that add up to at most ``limit``; a larger one is a stretch of its own."""
    ends, total = [0], 0
    for nth, size in enumerate(sizes):
        if total and total + size > limit:
            ends.append(nth)
            total = 0
        total += size
    return [range(first, last) for first, last in zip(ends, [*ends[1:], len(sizes)], strict=True)]


def budget(model: nn.Module) -> int:
    """The bytes that may be kept of a network's activations: a sixth of its weights in place, or 64 MB if more."""
    weights = sum(0 if parameter.is_meta else parameter.nbytes for parameter in model.parameters())
    return int(max(weights // 6, 64 << 20))


def batches_of(probe: Probe, tokens: Tensor | None = None) -> list[Batch]:
    """The batches of a probe, or those of them that hold one of ``tokens``."""
    batches = probe.batches(BATCH_TOKENS)
    if tokens is None:
        return batches
    wanted = tokens.tolist()
    return [batch for batch in batches if any(batch.first <= token < batch.first + batch.count for token in wanted)]


def joined(parts: list[Tensor]) -> Tensor:
    """The rows of all parts; the list is emptied, so that they are held once. A single part is not copied."""
    import torch

    rows = parts[0] if len(parts) == 1 else torch.cat(parts)
    parts.clear()
    return rows
