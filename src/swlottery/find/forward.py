"""Forward passes over a probe whose memory does not grow with the number of prompts.

The prompts run in batches of a bounded number of tokens. Where the activations of all layers together would not fit,
the network runs a few layers at a time: what the last of them returned is kept, and the next layers go on from there.
So every layer is run once, and every number is the one that an ordinary pass gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH_TOKENS = 2048
"""Tokens that run together, padding included. The default prompts are one batch whatever the tokenizer."""


class _Reached(Exception):
    """The last block that has to run has returned."""


def run_body(model: nn.Module, ids: Tensor) -> None:
    """One forward pass without the head: the logits of a vocabulary are not needed to look at the MLPs."""
    import torch

    body: Any = model.base_model
    with torch.no_grad():
        body(input_ids=ids, use_cache=False)


@contextmanager
def ending_at(block: nn.Module) -> Iterator[list[Any]]:
    """End the forward pass inside the ``with`` block as soon as ``block`` has returned; the list gets what it returned.

    Hooks that were put on the block before this one still run.
    """
    returned: list[Any] = []

    def end(module: nn.Module, args: Any, output: Any) -> None:
        returned.append(output)
        raise _Reached

    with block.register_forward_hook(end), suppress(_Reached):
        yield returned


@contextmanager
def resumed(blocks: Sequence[nn.Module], layer: int, output: Any) -> Iterator[None]:
    """Run a model from block ``layer`` on: every block before it returns ``output``, what the last of them returned."""
    skipped = blocks[:layer] if output is not None else []
    before = [block.__dict__.get("forward") for block in skipped]
    try:
        for block in skipped:
            block.forward = lambda *args, **kwargs: output
        yield
    finally:
        for block, forward in zip(skipped, before, strict=True):
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def groups(sizes: Sequence[int], budget: int) -> list[range]:
    """Consecutive stretches of ``sizes`` that add up to at most ``budget``; a larger one is a stretch of its own."""
    ends, total = [0], 0
    for nth, size in enumerate(sizes):
        if total and total + size > budget:
            ends.append(nth)
            total = 0
        total += size
    return [range(first, last) for first, last in zip(ends, [*ends[1:], len(sizes)], strict=True)]


def budget(model: nn.Module) -> int:
    """The bytes that may be kept of a network's activations: a sixth of its weights, or 64 MB if that is more."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return int(max(weights // 6, 64 << 20))
