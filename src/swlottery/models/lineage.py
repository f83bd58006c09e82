"""Lineage: which network a coordinate was found in.

A coordinate ``(layer, out, in)`` means nothing in another network: GPT-2s trained from different seeds share none of
their top spike channels. So every record carries a hash of the network's weights, taken as they are stored, before any
cast to the precision of a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from swlottery.models import stored
from swlottery.models.offload import stored_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


def weights_sha256(model: nn.Module) -> str:
    """The SHA-256 over every parameter's name, dtype, shape and bytes, in the order of their names.

    Tied parameters count once. Two copies of one checkpoint agree however their files are split into shards.
    """
    return sha256(stored_parameters(model))


def stored_sha256(folder: Path) -> str:
    """The same of a checkpoint in a folder, from its files alone: of parameters that no name is tied to twice."""
    with stored.tensors(folder, {}) as tensors:
        return sha256((name, tensor[...]) for name, tensor in tensors.items())


def tensors_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The same of any tensors with different names."""
    return sha256(sorted(tensors, key=lambda pair: pair[0]))


def sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The same of tensors that come in the order of their names, each needed only while it is read."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        stored = tensor.detach().cpu().contiguous().flatten()
        digest.update(stored.view(torch.uint8).numpy().data)
    return digest.hexdigest()
