"""The loss of a model on held-out text with some weights changed.

An ablation changes nothing in front of the first changed block. So what enters that block is kept from the intact
network, and only the blocks from there on are run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.find.attribution import given
from swlottery.find.spikes import median_size
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate, scaled
from swlottery.models.down import Entered
from swlottery.models.offload import device_of
from swlottery.models.running import keeping, resumed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

BATCH_TOKENS = 1024
"""Tokens a forward pass: bounds the memory of the logits."""

CACHE_BYTES = 2 << 30
"""What may be kept of the intact network's hidden states; the layers for which there is no room run from an earlier
block."""

LOOKS = (4, 2, 1)
"""The documents are looked at in growing numbers: a quarter, a half, all."""

LOGITS = 1 << 26
"""The most logits that are made at once (a quarter of a GiB in float32), or those of one position in each document: of
2,048 tokens and a vocabulary of 256,000 all would be 2 GiB."""


class Evaluator:
    """Per-document mean negative log-likelihood (nats a token) of a model on equally long windows of text.

    The documents run in a random order, in batches of one shape (the last may have fewer rows). So the first of them
    are a sample of the text, and every number of a document comes from the same batch.

    Args:
        windows: token ids ``[documents, tokens]``; each row is a document.
        layers: the layers in which weights will be changed, the most important first. Their inputs are kept from the
            intact network, as far as they fit.

    Attributes:
        baseline: the loss of each document in the intact network. seconds: what that pass took.
        looks: the numbers of documents to look at, ascending; the last is all of them.
        forward_tokens: what was run so far: tokens × blocks run ÷ blocks of the model, the intact pass included.

    No set of weights is evaluated twice on a document.
    """

    def __init__(self, model: nn.Module, roles: Roles, windows: Tensor, layers: Sequence[int], seed: int = 0) -> None:
        import numpy as np

        self.model, self.roles = model, roles
        device, count = device_of(model), len(windows)
        self.order = np.random.default_rng(seed).permutation(count)
        self.rows = min(max(1, BATCH_TOKENS // windows.shape[1]), -(-count // LOOKS[0]))
        starts = range(0, count, self.rows)
        self.batches = [windows[self.order[first : first + self.rows]].to(device) for first in starts]
        self.looks = sorted({min(-(-len(starts) // part) * self.rows, count) for part in LOOKS})
        size = windows.numel() * roles.hidden * next(model.parameters()).element_size()
        self.layers = sorted([layer for layer in dict.fromkeys(layers) if layer > 0][: CACHE_BYTES // size])
        self.kept: list[dict[int, Any]] = [{} for _ in self.batches]
        self.forward_tokens = 0.0
        started = time.perf_counter()
        losses = [self._loss(nth, keeping(roles.blocks, self.layers, kept)) for nth, kept in enumerate(self.kept)]
        self.seconds = time.perf_counter() - started
        self.baseline = self._in_text_order(losses)
        if not np.isfinite(self.baseline).all():
            raise BadInput("the intact model's loss is not finite in this precision: use --dtype bfloat16 or float32")
        self.known: dict[tuple[frozenset[Coordinate], Any, float], list[np.ndarray]] = {}

    def nll(
        self,
        coordinates: Sequence[Coordinate],
        restored: tuple[Coordinate, float] | None = None,
        factor: float = 0.0,
        documents: int | None = None,
    ) -> np.ndarray:
        """The loss of each document with ``coordinates`` multiplied by ``factor``.

        Args:
            restored: a coordinate among them and κ: what the weight gives its output channel is put back at the tokens
                where the intact network has a spike there, and only there. (Put back at every token, it would be the
                weight itself.)
            documents: how many of them, one of `looks`; their losses are in the order of `chosen`. All by default.
        """
        batches = -(-(documents or len(self.order)) // self.rows)
        done = self.known.setdefault((frozenset(coordinates), restored, factor), [])
        if len(done) < batches:
            resume = self._resume(coordinates)
            with ExitStack() as stack:
                if restored:  # before the weight is zero: its value is needed
                    stack.enter_context(spike_restored(self.roles.downs[restored[0].layer], *restored))
                stack.enter_context(scaled(self.roles.downs, coordinates, factor))
                for nth in range(len(done), batches):
                    context = resumed(self.roles.blocks, resume, self.kept[nth].get(resume))
                    done.append(self._loss(nth, context, resume))
        return self._in_text_order(done[:batches])

    def chosen(self, documents: int) -> np.ndarray:
        """Which documents the first so many are, in the text's order."""
        import numpy as np

        return np.sort(self.order[:documents])

    def share(self, coordinates: Sequence[Coordinate]) -> float:
        """The part of the blocks that run when ``coordinates`` are changed."""
        return 1 - self._resume(coordinates) / len(self.roles.blocks)

    def _resume(self, coordinates: Sequence[Coordinate]) -> int:
        """The block that is run first: what enters it is kept."""
        first = min(coordinate.layer for coordinate in coordinates)
        return max((layer for layer in self.layers if layer <= first), default=0)

    def _in_text_order(self, losses: Sequence[np.ndarray]) -> np.ndarray:
        import numpy as np

        joined = np.concatenate(losses)
        return joined[np.argsort(self.order[: len(joined)])]

    def _loss(self, nth: int, context: Any, resume: int = 0) -> np.ndarray:
        """The loss of each document of a batch, run from block ``resume`` on."""
        ids = self.batches[nth]
        with context:
            losses = token_losses(self.model, self.roles.blocks, ids).mean(dim=1)
        self.forward_tokens += ids.numel() * (1 - resume / len(self.roles.blocks))
        return losses.double().cpu().numpy()


def token_losses(model: Any, blocks: Sequence[nn.Module], ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each token of ``ids[documents, tokens]`` but the first, in float32.

    The blocks are run once, and then the model is asked for the logits of a part of the positions at a time: its own
    caps and scales are in them.
    """
    import inspect

    import torch
    from torch.nn import functional

    scored = ids.shape[1] - 1
    part = max(1, LOGITS // (len(ids) * int(model.config.get_text_config().vocab_size)))
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        part = scored
    returned: list[Any] = []
    losses = []
    with torch.no_grad(), blocks[-1].register_forward_hook(lambda module, args, output: returned.append(output)):
        for positions in torch.split(torch.arange(scored, device=ids.device), part):
            some = {"logits_to_keep": positions} if part < scored else {}
            with resumed(blocks, len(blocks), returned[0] if returned else None):
                logits = model(input_ids=ids, use_cache=False, **some).logits
            pairs = zip(logits, ids[:, positions + 1], strict=True)
            rows = [functional.cross_entropy(row[: len(to)].float(), to, reduction="none") for row, to in pairs]
            losses.append(torch.stack(rows))
    return torch.cat(losses, dim=1)


@contextmanager
def spike_restored(down: DownProjection, coordinate: Coordinate, kappa: float) -> Iterator[None]:
    """Give the channel what this weight gives it, at the tokens where the two together are a spike.

    Entered while the weight has its value; the forward passes inside are those with the weight at zero.
    """
    import torch

    weight = down.matrix(coordinate.expert)[coordinate.out, coordinate.in_].item()

    def put_back(entered: Entered, output: Tensor) -> Tensor:
        flat = output.reshape(-1, output.shape[-1]).clone()
        inputs = down.inputs(entered, torch.arange(len(flat), device=flat.device))
        amount = given(inputs, coordinate, weight, flat)
        intact = flat[:, coordinate.out].float() + amount
        over_channels = median_size(flat, 1).flatten()
        bar = kappa * torch.maximum(over_channels, intact.abs().median())
        flat[:, coordinate.out] = torch.where(intact.abs() >= bar, intact, intact - amount).to(flat.dtype)
        return flat.view_as(output)

    with down.hooked(put_back):
        yield
