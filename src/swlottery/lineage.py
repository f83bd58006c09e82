"""Lineage: which network a coordinate was found in.

A coordinate ``(layer, out, in)`` means nothing in another network: GPT-2s trained from different seeds share none of
their top spike channels. So every record carries a hash of the network's weights, taken as they are stored, before any
cast to the precision of a run.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def weights_sha256(model: nn.Module) -> str:
    """The SHA-256 over every parameter's name, dtype, shape and bytes, in the order of their names.

    Tied parameters count once. Two copies of one checkpoint agree however their files are split into shards.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        stored = parameter.detach().cpu().contiguous().flatten()
        digest.update(stored.view(torch.uint8).numpy().data)
    return digest.hexdigest()
