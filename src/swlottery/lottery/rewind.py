"""Rewinding: with which weights a round starts, under the mask that the prune before it made.

``weights``: back to θ_k (Frankle & Carbin 2019; k > 0: Frankle et al. 2020). ``lr``: the weights stay, the learning
rate's schedule is replayed from step k (Renda et al. 2020). ``none``: the weights stay, and so does the final rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from swlottery.lottery import masks as masking
from swlottery.lottery.masks import Masks

if TYPE_CHECKING:
    from torch import Tensor, nn


def rewind(parameters: Mapping[str, nn.Parameter], theta_k: Mapping[str, Tensor], masks: Masks, kind: str) -> None:
    """Set the weights that a round starts with, in place: θ_k·m, or the present weights times m."""
    import torch

    if kind == "weights":
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(theta_k[name])
    masking.apply(masks, parameters)
