"""Planted super weights: a known answer to hold the finder against.

At one token one intermediate channel is made massive, through the mlp-in weights alone: the channel's row is turned
towards what is special about that token. Then one weight of the down-projection is set so that the entry it feeds
is at a chosen multiple of the detection bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.config import KAPPA
from swlottery.find.activations import activations
from swlottery.find.probe import Probe
from swlottery.find.spikes import RHO, median_size
from swlottery.models.architectures import DownProjection, Roles
from swlottery.models.coordinates import Coordinate
from swlottery.models.running import run_body
from swlottery.models.usual import has

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Plant:
    """Where a massive input was planted. ``input``: x_i(t), the router's weight included."""

    coordinate: Coordinate
    token: int
    input: float


def medians(output: Tensor) -> tuple[Tensor, Tensor]:
    """The medians of |output[tokens, channels]| over channels ``[tokens, 1]`` and over tokens ``[1, channels]``."""
    return median_size(output, 1), median_size(output, 0)


def random_probe(vocabulary: int, prompts: int = 3, length: int = 10, seed: int = 0) -> Probe:
    """Prompts of random tokens, none of them twice, so that every token is special."""
    import torch

    order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))[: prompts * length]
    words = tuple(tuple(f"<{token}>" for token in row) for row in order.view(prompts, length).tolist())
    names = tuple(" ".join(row) for row in words)
    valid = torch.ones(prompts * length, dtype=torch.bool)
    return Probe(order.view(prompts, length), valid, names, (False,) * prompts, words)


def plant_input(
    model: nn.Module,
    roles: Roles,
    probe: Probe,
    coordinate: Coordinate,
    token: int,
    size: float = 100.0,
    shared: bool = False,
) -> Plant:
    """Make x_i(t) about ``size`` times the typical input of this layer at one token, and near zero at all others.

    The coordinate's expert, where there are experts, is replaced by one that the router chooses for the token.

    shared: by the last instead, which every token enters where there is such a one.
    """
    import torch

    down = roles.downs[coordinate.layer]
    now = activations(model, [down], probe)[0]
    at = [inputs for inputs in now.inputs if bool((inputs.tokens == token).any())]
    chosen = at[-1 if shared else 0]
    coordinate = coordinate._replace(expert=chosen.expert)
    typical = float(chosen.values.abs().median())
    hidden = _mlp_input(model, roles, probe, down)
    direction = torch.linalg.pinv(hidden.double())[:, token].float()  # 1 at the token, 0 at every other
    target = size * max(typical, 1e-3)
    for scale in _scales(target):
        _set_rows(roles, down, coordinate, direction * scale)
        x = _input_at(model, down, probe, coordinate, token)
        if abs(x) >= target:
            break
    return Plant(coordinate, token, x)


def plant_weight(model: nn.Module, roles: Roles, probe: Probe, plant: Plant, strength: float) -> None:
    """Set the planted coordinate's weight so that its entry is ``strength`` times the detection bound."""
    down = roles.downs[plant.coordinate.layer]
    matrix = down.matrix(plant.coordinate.expert)
    out, in_ = plant.coordinate.out, plant.coordinate.in_
    matrix[out, in_] = 0
    if down.post_norm is not None:  # what a norm lets through is bounded: let it pass in this channel
        norm: Any = down.post_norm
        norm.weight.data[out] += 7.0
    now = activations(model, [down], probe)[0]
    over_channels, over_tokens = medians(now.output)
    bound = KAPPA * max(float(over_channels[plant.token, 0]), float(over_tokens[0, out]))
    if down.post_norm is None:
        bound = max(bound, RHO * float(now.rms[plant.token]) / down.multiplier)
    rest = float(now.output[plant.token, out])
    matrix[out, in_] = (strength * bound - rest) / plant.input


def _scales(target: float) -> list[float]:
    return [target**0.5 * 1.25**step for step in range(60)]


def _into(roles: Roles, down: DownProjection, expert: int | None) -> list[str]:
    """The paths in the block of the mlp-in matrices that lead into an expert's down-projection."""
    beside = down.part(expert).path.removeprefix(f"{roles.row.blocks}.{down.layer}.").rpartition(".")[0]
    return [
        name for name in roles.row.mlp_in if name.rpartition(".")[0] == beside and has(down.block, name) is not None
    ]


def _mlp_input(model: nn.Module, roles: Roles, probe: Probe, down: DownProjection) -> Tensor:
    """What enters the first mlp-in matrix, ``[tokens, hidden]``; of a mixture what enters all of it."""
    kept: list[Tensor] = []
    alone = down.experts is None
    module = has(down.block, _into(roles, down, None)[0]) if alone else down.output_module
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: kept.append((*args, *kwargs.values())[0].detach()), with_kwargs=True
    )
    try:
        run_body(model, probe.ids)
    finally:
        handle.remove()
    return kept[0].reshape(-1, kept[0].shape[-1])[probe.valid].float()


def _set_rows(roles: Roles, down: DownProjection, coordinate: Coordinate, row: Tensor) -> None:
    """Turn everything that leads into the intermediate channel towards ``row``, gate and up alike."""
    in_, part = coordinate.in_, down.part(coordinate.expert)
    width = part.shape[1]
    if part.weight.ndim == 3:
        experts: Any = part.module
        number = coordinate.expert - part.experts.start  # type: ignore[operator,union-attr]
        fused = experts.gate_up_proj.data[number]
        places = [in_, width + in_] if getattr(experts, "is_concatenated", True) else [2 * in_, 2 * in_ + 1]
        (fused.t() if part.in_out else fused)[places] = row
        if getattr(experts, "gate_up_proj_bias", None) is not None:
            experts.gate_up_proj_bias.data[number, places] = 0
        return
    for name in _into(roles, down, coordinate.expert):
        module: Any = has(down.block, name)
        weight = module.weight.data.t() if roles.row.in_out else module.weight.data
        for index in range(in_, len(weight), width):  # phi3 keeps gate and up in one matrix
            weight[index] = row
            if getattr(module, "bias", None) is not None:
                module.bias.data[index] = 0


def _input_at(model: nn.Module, down: DownProjection, probe: Probe, coordinate: Coordinate, token: int) -> float:
    now = activations(model, [down], probe)[0]
    inputs = next(inputs for inputs in now.inputs if inputs.expert == coordinate.expert)
    row = int((inputs.tokens == token).nonzero()[0])
    return float(inputs.values[row, coordinate.in_])
