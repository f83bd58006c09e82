"""The loss of a model on held-out text with some weights set to zero.

An ablation changes nothing in front of the first changed block. So what enters that block is kept from the intact
network, and only the blocks from there on are run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.find.forward import resumed
from swlottery.find.spikes import median_size
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate, scaled
from swlottery.models.offload import device_of
from swlottery.models.parts import Entered

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

BATCH_TOKENS = 1024
"""Tokens a forward pass: bounds the memory of the logits."""

CACHE_BYTES = 2 << 30
"""What may be kept of the intact network's hidden states; beyond it ablations run from the first block."""


class Evaluator:
    """Per-document mean negative log-likelihood (nats a token) of a model on equally long windows of text.

    Args:
        windows: token ids ``[documents, tokens]``; each row is a document.
        layers: the layers in which weights will be changed (their inputs are kept from the intact network).

    No set of weights is evaluated twice.
    """

    def __init__(self, model: nn.Module, roles: Roles, windows: Tensor, layers: Sequence[int]) -> None:
        import numpy as np

        self.model, self.roles = model, roles
        device = device_of(model)
        rows = max(1, BATCH_TOKENS // windows.shape[1])
        self.batches = [windows[first : first + rows].to(device) for first in range(0, len(windows), rows)]
        width = next(model.parameters()).element_size()
        fits = windows.numel() * roles.hidden * width * len(set(layers)) <= CACHE_BYTES
        self.kept: list[dict[int, Any]] = [{} for _ in self.batches]
        self.layers = sorted({layer for layer in layers if layer > 0}) if fits else []
        self.baseline = self._run([self._keeping(kept) for kept in self.kept])
        if not np.isfinite(self.baseline).all():
            raise BadInput("the intact model's loss is not finite in this precision: use --dtype bfloat16 or float32")
        self.known: dict[tuple[frozenset[Coordinate], Any], np.ndarray] = {}

    def nll(self, coordinates: Sequence[Coordinate], restored: tuple[Coordinate, float] | None = None) -> np.ndarray:
        """The loss of each document with ``coordinates`` at zero.

        Args:
            restored: a coordinate among them and κ: what the weight gives its output channel is put back at the tokens
                where the intact network has a spike there, and only there. (Put back at every token, it would be the
                weight itself.)
        """
        key = (frozenset(coordinates), restored)
        if key not in self.known:
            self.known[key] = self._ablated(coordinates, restored)
        return self.known[key]

    def _ablated(self, coordinates: Sequence[Coordinate], restored: tuple[Coordinate, float] | None) -> np.ndarray:
        first = min(coordinate.layer for coordinate in coordinates)
        resume = max((layer for layer in self.layers if layer <= first), default=0)
        with ExitStack() as stack:
            if restored:  # before the weight is zero: its value is needed
                stack.enter_context(spike_restored(self.roles.downs[restored[0].layer], *restored))
            stack.enter_context(scaled(self.roles.downs, coordinates))
            return self._run([resumed(self.roles.blocks, resume, kept.get(resume)) for kept in self.kept])

    def _run(self, contexts: Sequence[Any]) -> np.ndarray:
        import torch
        from torch.nn import functional

        losses = []
        for ids, context in zip(self.batches, contexts, strict=True):
            with torch.no_grad(), context:
                logits = self.model(input_ids=ids, use_cache=False).logits
            rows = [
                functional.cross_entropy(row[:-1].float(), document[1:])
                for row, document in zip(logits, ids, strict=True)
            ]
            losses.append(torch.stack(rows))
        return torch.cat(losses).double().cpu().numpy()

    @contextmanager
    def _keeping(self, kept: dict[int, Any]) -> Iterator[None]:
        """Keep what enters each of `layers`: what the block before it returns."""

        def keep(layer: int) -> Callable[..., None]:
            return lambda module, args, output: kept.__setitem__(layer, output)

        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(self.roles.blocks[layer - 1].register_forward_hook(keep(layer)))
            yield


@contextmanager
def spike_restored(down: DownProjection, coordinate: Coordinate, kappa: float) -> Iterator[None]:
    """Give the channel what this weight gives it, at the tokens where the two together are a spike.

    Entered while the weight has its value; the forward passes inside are those with the weight at zero.
    """
    import torch

    weight = down.matrix(coordinate.expert)[coordinate.out, coordinate.in_].item()

    def put_back(entered: Entered, output: Tensor) -> Tensor:
        flat = output.reshape(-1, output.shape[-1]).clone()
        given = torch.zeros(len(flat), device=flat.device)
        for inputs in down.inputs(entered, torch.arange(len(flat), device=flat.device)):
            if inputs.expert == coordinate.expert:
                given[inputs.tokens] = inputs.values[:, coordinate.in_].float() * weight
        intact = flat[:, coordinate.out].float() + given
        over_channels = median_size(flat, 1).flatten()
        bar = kappa * torch.maximum(over_channels, intact.abs().median())
        flat[:, coordinate.out] = torch.where(intact.abs() >= bar, intact, intact - given).to(flat.dtype)
        return flat.view_as(output)

    with down.hooked(put_back):
        yield
