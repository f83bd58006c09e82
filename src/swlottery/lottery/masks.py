"""Masks: one bool tensor for each parameter in scope; True remains, False is masked.

*Masked* is not the same as zero: a checkpoint may hold zeros. Sparsity counts masked weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from swlottery.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

Masks = dict[str, "Tensor"]
Name = TypeVar("Name")


def full(parameters: Mapping[str, nn.Parameter]) -> Masks:
    """m_0 where nothing is force-pruned: everything remains."""
    import torch

    return {name: torch.ones_like(p, dtype=torch.bool) for name, p in parameters.items()}


def remaining(masks: Mapping[str, Tensor]) -> int:
    """How many weights remain."""
    return sum(counts(masks).values())


def counts(masks: Mapping[Name, Tensor]) -> dict[Name, int]:
    """How many weights of each tensor remain, whatever names it."""
    return dict(zip(masks, _read([mask.count_nonzero() for mask in masks.values()]), strict=True))


def total(masks: Mapping[str, Tensor]) -> int:
    """How many weights are in scope."""
    return sum(mask.numel() for mask in masks.values())


def apply(masks: Masks, parameters: Mapping[str, nn.Parameter]) -> None:
    """Set every masked weight to zero, in place."""
    import torch

    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0.0)


def violations(masks: Masks, parameters: Mapping[str, nn.Parameter]) -> int:
    """How many masked weights are not exactly zero. Anything but 0 is a defect of the training loop."""
    return sum(_read([parameters[n].detach().masked_fill(m, 0.0).count_nonzero() for n, m in masks.items()]))


def _read(numbers: list[Tensor]) -> list[int]:
    """Numbers of a device, read together: each by itself would make the host wait."""
    import torch

    return torch.stack(numbers).tolist() if numbers else []


def fitting(masks: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Masks:
    """The masks on the devices of the parameters. `BadInput` for masks that are not of these parameters."""
    for name, mask in masks.items():
        if name not in parameters:
            raise BadInput(f"the masks are not this model's: there is no parameter {name}, or it is not in scope")
        if mask.shape != parameters[name].shape:
            shapes = f"{tuple(mask.shape)}, and the parameter {tuple(parameters[name].shape)}"
            raise BadInput(f"the masks are not this model's: that of {name} is {shapes}")
    return {name: mask.to(parameters[name].device) for name, mask in masks.items()}


def pack(masks: Masks) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Masks as bits: (uint8 tensors, shapes as safetensors' metadata)."""
    import numpy as np
    import torch

    packed = {name: torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1))) for name, mask in masks.items()}
    return packed, {"shapes": json.dumps({name: list(mask.shape) for name, mask in masks.items()})}


def load(path: Path) -> Masks:
    """Read masks stored as bits."""
    import numpy as np
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        shapes = json.loads(file.metadata()["shapes"])
        bits = {name: file.get_tensor(name) for name in shapes}
    return {
        name: torch.from_numpy(np.unpackbits(bits[name], count=int(np.prod(shape))).astype(bool)).reshape(shape)
        for name, shape in shapes.items()
    }
