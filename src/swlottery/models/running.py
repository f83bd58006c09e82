"""Running a model a little otherwise than it runs by itself: without dropout, or not all of its blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without dropout; afterwards each module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def run_body(model: nn.Module, ids: Tensor) -> None:
    """One forward pass without the head: the logits of a vocabulary are not needed to look at the MLPs."""
    import torch

    body: Any = model.base_model
    with torch.no_grad():
        body(input_ids=ids, use_cache=False)


@contextmanager
def keeping(blocks: Sequence[nn.Module], layers: Iterable[int], kept: dict[int, Any]) -> Iterator[None]:
    """Keep what enters each of ``layers``: what the block before it returns, the first time that it runs."""

    def keep(layer: int, module: nn.Module, args: Any, output: Any) -> None:
        kept.setdefault(layer, output)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(blocks[layer - 1].register_forward_hook(partial(keep, layer)))
        yield


class _Reached(Exception):
    """The last block that has to run has returned."""


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
    """Run a model from block ``layer`` on: every block before it returns ``output``, what the last of them returned.

    With ``output`` None every block is run.
    """
    skipped = blocks[:layer] if output is not None else []
    before = [block.__dict__.get("forward") for block in skipped]  # accelerate puts its own there
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
