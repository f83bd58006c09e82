"""Causal attention without a mask, for training that is compiled or on a GPU.

While torch.compile traces a model, transformers writes out a [batch, 1, context, context] mask, since it cannot look at
the positions then; and with a mask no kernel of flash attention is taken. Elsewhere it looks at the positions in every
forward pass, and a GPU is waited for. Under a name of our own, which has no masks, the
same function is called as where nothing is traced: without a mask, and told that it is causal.

The name is in the model's config while the loss is computed and at no other time: it must not be saved, and the
finder, which has padded prompts, needs its masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAME = "swlottery_causal"


def compiled(loss: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """``loss`` compiled; its bits depend on no measured speed."""
    import torch
    import torch._inductor.config as inductor

    if hasattr(inductor, "deterministic"):
        inductor.deterministic = True  # newer versions do so by themselves in deterministic mode
    return torch.compile(loss)


def without_mask(loss: Callable[[Any, Tensor], Tensor], model: Any, context: int) -> Callable[[Any, Tensor], Tensor]:
    """``loss`` with attention as above, where that `fits` the model; else as it is."""
    if not fits(model, context):
        return loss

    def causal_loss(model: Any, tokens: Tensor) -> Tensor:
        with causal(model):
            return loss(model, tokens)

    return causal_loss


@contextmanager
def causal(model: Any) -> Iterator[None]:
    """The model attends causally, and without a mask, to unpadded sequences."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def fits(model: Any, context: int) -> bool:
    """Whether `causal` changes no bit of the last hidden state of ``context`` tokens: tried out, at the full length.

    It does in a model that looks back over a window, caps or shifts its attention's scores, or has attention in code of
    its own; and it would be of no use in one that does not attend by torch's scaled_dot_product_attention.
    """
    import torch

    if model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    weight = model.get_input_embeddings().weight
    tokens = torch.arange(context, device=weight.device)[None] % len(weight)
    with torch.no_grad():
        plain = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        try:
            with causal(model):
                ours = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        except (RuntimeError, ValueError, TypeError, KeyError):  # it asks for a mask, or for what this has not
            return False
    return torch.equal(plain, ours)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    """transformers' own way to torch's attention, which sees to the scale and to shared keys; causal, and no mask."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, None, **{**others, "is_causal": True}
    )
    return result
