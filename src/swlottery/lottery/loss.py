"""The training loss in parts that stay in a processor's cache.

By its definition (`train.loss_of`) the logits of a batch are written out, softmaxed into a second copy and differentiated
into a third; with a small model that is half of a step. `loss_in_parts` takes the gradient of each part while its logits are at hand
(the idea of Liger Kernel's fused linear cross-entropy, Hsu et al. 2024, arXiv:2410.10989), so that one part's worth of
logits is all there ever is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def loss_in_parts(model: Any, tokens: Tensor) -> Tensor:
    """`train.loss_of` of a model for which `has_plain_head` is true; differs from it by rounding."""
    hidden = model.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    weight = model.get_output_embeddings().weight
    loss: Tensor = _InParts.apply(hidden.flatten(0, 1), weight, tokens[:, 1:].reshape(-1, 1), dtype)  # type: ignore[no-untyped-call]
    return loss


def has_plain_head(model: Any) -> bool:
    """Whether the logits are the last hidden state times one matrix: no bias, no cap, no scale. Tried out, not guessed."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    tokens = torch.arange(min(8, head.out_features), device=head.weight.device)[None]
    with torch.no_grad():
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        return torch.equal(head(hidden), model(input_ids=tokens, use_cache=False).logits)


class _InParts(torch.autograd.Function):
    """Mean cross-entropy of ``hidden[n, d] @ weight[v, d].T`` against ``targets[n, 1]``, multiplied in ``dtype``."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        h, w = hidden.to(dtype), weight.to(dtype)
        for_hidden = torch.empty_like(h)
        for_weight: Tensor | None = None
        total = torch.zeros((), device=h.device)
        # Each part adds to all of the weight's gradient, so a part has at least as many rows as that has columns.
        rows = max(256 if h.device.type == "cpu" else 2048, h.shape[1])
        for part, target, gradient in zip(*(torch.split(x, rows) for x in (h, targets, for_hidden)), strict=True):
            log_probabilities = functional.log_softmax(part @ w.T, -1, dtype=torch.float32)
            total -= log_probabilities.gather(-1, target).sum()
            probabilities = log_probabilities.exp_()
            for_logits = probabilities.scatter_add_(-1, target, -torch.ones_like(target, dtype=torch.float32)).to(dtype)
            torch.mm(for_logits, w, out=gradient)
            product = for_logits.T @ part
            for_weight = product.float() if for_weight is None else for_weight.add_(product)
        ctx.save_for_backward(for_hidden, for_weight)
        ctx.number, ctx.hidden_dtype = len(h), hidden.dtype
        return total / len(h)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        for_hidden, for_weight = ctx.saved_tensors
        share = of_loss / ctx.number
        return for_hidden.to(ctx.hidden_dtype) * share, for_weight * share, None, None
