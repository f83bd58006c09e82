"""The loss in parts: those of a CPU stay in its cache, those of a GPU fill it.

By its definition (`training.loss_of`) the logits of a batch are written out, softmaxed into a second copy and
differentiated into a third; with a small model that is half of a step. `loss_in_parts` takes the gradient of each part
while its logits are at hand (the idea of Liger Kernel's fused linear cross-entropy, Hsu et al. 2024, arXiv:2410.10989):
one part's worth of logits is all there ever is. Where no gradient is asked for, none is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from swlottery.models.loaded import context_of

LOGITS = 3 << 29
"""Bytes of a part's logits on a GPU, in the product's precision: 12 × 1,024 tokens of GPT-2 in bfloat16 are a part."""


def loss_in_parts(model: Any, tokens: Tensor) -> Tensor:
    """`training.loss_of` of a model for which `has_plain_head` is true; differs from it by rounding."""
    hidden = model.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    weight, targets = model.get_output_embeddings().weight, tokens[:, 1:].flatten()
    if not torch.is_grad_enabled():
        return _value(hidden.flatten(0, 1).to(dtype), weight.to(dtype), targets)
    loss: Tensor = _InParts.apply(hidden.flatten(0, 1), weight, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def has_plain_head(model: Any) -> bool:
    """Whether the logits are the last hidden state times one matrix: no bias, no cap, no scale. It is tried out."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    tokens = torch.arange(min(8, head.out_features, context_of(model.config)), device=head.weight.device)[None]
    with torch.no_grad():
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return torch.equal(head(hidden), model(input_ids=tokens, use_cache=False).logits)


class _InParts(torch.autograd.Function):
    """Mean cross-entropy of ``hidden[n, d] @ weight[v, d].T`` against ``targets[n]``, multiplied in ``dtype``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        h, w = hidden.to(dtype), weight.to(dtype)
        for_hidden: list[Tensor] = []
        for_weight: Tensor | None = None
        total = torch.zeros((), device=h.device)
        for part, target in _parts(h, w, targets):
            log_probabilities = _log_probabilities(part, w)
            total -= log_probabilities.gather(-1, target[:, None]).sum()
            for_logits = _less_one(log_probabilities.exp_(), target).to(dtype)
            for_hidden.append(for_logits @ w)
            product = for_logits.T @ part
            for_weight = product.float() if for_weight is None else for_weight.add_(product)
        ctx.save_for_backward(torch.cat(for_hidden), for_weight)
        ctx.number, ctx.hidden_dtype = len(h), hidden.dtype
        return total / len(h)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        for_hidden, for_weight = ctx.saved_tensors
        share = of_loss / ctx.number
        return for_hidden.to(ctx.hidden_dtype) * share, for_weight * share, None, None


def _value(h: Tensor, w: Tensor, targets: Tensor) -> Tensor:
    total = torch.zeros((), device=h.device)
    for part, target in _parts(h, w, targets):
        total -= _log_probabilities(part, w).gather(-1, target[:, None]).sum()
    return total / len(h)


def _parts(h: Tensor, w: Tensor, targets: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Rows of the hidden states with their targets: few enough for a CPU's cache; on a GPU, `LOGITS` bytes of logits.

    Each part adds to all of the weight's gradient, so a part has at least as many rows as that has columns.
    """
    if h.device.type == "cpu":
        rows = 256
    else:
        count = -(-len(h) * len(w) * h.element_size() // LOGITS)
        rows = -(-len(h) // count)  # parts of one size
    rows = max(rows, h.shape[1])
    return zip(torch.split(h, rows), torch.split(targets, rows), strict=True)


def _log_probabilities(part: Tensor, w: Tensor) -> Tensor:
    return functional.log_softmax(part @ w.T, -1, dtype=torch.float32)


def _less_one(probabilities: Tensor, target: Tensor) -> Tensor:
    """``probabilities[n, v]`` less one at each row's target: the gradient of the logits.

    Compiled, a comparison is part of the kernel that makes the probabilities; else it would be a matrix of its own,
    where one entry a row is enough.
    """
    if torch.compiler.is_compiling():
        return probabilities - (torch.arange(probabilities.shape[1], device=target.device) == target[:, None]).float()
    probabilities[torch.arange(len(target), device=target.device), target] -= 1
    return probabilities
