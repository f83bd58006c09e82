"""The loss of each token, without the logits of a whole text at once.

2,048 tokens of a vocabulary of 256,000 are 2 GiB of logits in float32. So the blocks of the model are run once, and the
model is asked for the logits of a part of the positions at a time: its own caps and scales are in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from swlottery.models.running import resumed

if TYPE_CHECKING:
    from torch import Tensor, nn

LOGITS = 1 << 26
"""The most logits that are made at once (a quarter of a GiB in float32), or those of one position in each document."""


def token_losses(model: Any, blocks: Sequence[nn.Module], ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each token but the first: float32 ``[documents, tokens − 1]``.

    Args:
        ids: ``[documents, tokens]``.
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
