"""Attribution: which weight makes a spike, and which weight contributes most of all.

The contribution of weight (o, i) at token t is c_i = W[o,i] · x_i(t) · sign(y_o(t)). The candidate is the weight with
the largest c_i, not with the largest |c_i|: a weight that works against the spike may be larger, and without it the
spike would be higher.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.find.activations import Activations
from swlottery.find.spikes import RHO, Spike, median_size, rms_before
from swlottery.models.coordinates import Coordinate
from swlottery.models.down import Inputs

if TYPE_CHECKING:
    from torch import Tensor

MIN_SHARE = 0.1
"""A spike to which no single weight gives a tenth is made by many, or by the bias, and has no super weight."""

ROWS = 2048
"""Tokens looked at together where what is made of them is many times as large."""


@dataclass(frozen=True)
class Contribution:
    """What one weight gives to a spike: ``amount`` is c_i, positive towards the spike.

    value: W[o,i]. input: x_i(t) (times the router's weight, for an expert). share: amount over |y_o(t)|; may exceed 1.
    """

    coordinate: Coordinate
    value: float
    input: float
    amount: float
    share: float


def contributions(now: Activations, spike: Spike, count: int = 8) -> tuple[list[Contribution], float]:
    """The ``count`` weights that give the spike most, largest first, and the bias's share of it.

    Weights that give nothing, or work against it, are left out.
    """
    down, sign = now.down, 1.0 if spike.value > 0 else -1.0
    found, biases = [], []
    for inputs in now.inputs:
        at = (inputs.tokens == spike.token).nonzero().flatten()
        if not len(at):
            continue
        x = inputs.values[at[0]]
        if (bias := down.bias(inputs.expert)) is not None:
            scale = 1.0 if inputs.scale is None else float(inputs.scale[at[0]])
            biases.append(float(bias[spike.out]) * scale * sign / abs(spike.value))
        weights = down.matrix(inputs.expert)[spike.out].float()
        amount = weights * x * sign
        for in_ in amount.topk(min(count, len(amount))).indices.tolist():
            c = float(amount[in_])
            if c > 0:
                coordinate = Coordinate(down.layer, spike.out, in_, inputs.expert)
                found.append(Contribution(coordinate, float(weights[in_]), float(x[in_]), c, c / abs(spike.value)))
    found.sort(key=lambda contribution: -contribution.amount)
    return found[:count], sum(biases, 0.0)


def given(inputs: Iterable[Inputs], coordinate: Coordinate, weight: float, output: Tensor) -> Tensor:
    """W[o,i] · x_i(t), what one ``weight`` gives to its channel of ``output`` at each token: float32 ``[tokens]``."""
    import torch

    amounts = torch.zeros(len(output), device=output.device)
    for one in inputs:
        if one.expert == coordinate.expert:
            amounts[one.tokens] = one.values[:, coordinate.in_].float() * weight
    return amounts


@dataclass(frozen=True)
class Leader:
    """The weight with the largest contribution of all, and the entry that it gives it to. It is no super weight."""

    contribution: Contribution
    entry: Spike

    def lacks(self, kappa: float) -> list[str]:
        """What it lacks to be a super weight, in words; nothing where it is one."""
        entry, share = self.entry, self.contribution.share
        missing = {
            f"ratio {entry.ratio:.1f} where κ = {kappa:g} is needed": entry.ratio < kappa,
            f"{entry.rms_ratio:.1f} times the stream's RMS where ρ = {RHO:g} is": entry.rms_ratio < RHO,
            "the residual stream cancels it": not entry.arrives,
            f"it gives only {share:.0%} of the entry": share < MIN_SHARE,
        }
        return [words for words, is_missing in missing.items() if is_missing]


def leader(everything: Iterable[Activations]) -> Leader:
    """The weight with the largest c_i over all layers, tokens and channels."""
    best = None
    for now in everything:
        for inputs in now.inputs:
            matrix = now.down.matrix(inputs.expert).float()
            amount, row, out, in_ = _largest_contribution(now, inputs, matrix)
            if best is None or amount > best.contribution.amount:
                entry = entry_at(now, int(inputs.tokens[row]), out)
                coordinate = Coordinate(now.down.layer, out, in_, inputs.expert)
                x, weight = float(inputs.values[row, in_]), float(matrix[out, in_])
                best = Leader(Contribution(coordinate, weight, x, amount, amount / max(abs(entry.value), 1e-30)), entry)
    assert best is not None, "a model has at least one layer"
    return best


def _largest_contribution(now: Activations, inputs: Inputs, matrix: Tensor) -> tuple[float, int, int, int]:
    """The largest c_i of a matrix: (amount, row of the inputs, out, in).

    |W[o,i]| · max_t |x_i(t)| bounds what a weight can give. Weights are looked at in the order of that bound until none
    that is left can give more.
    """
    import torch

    bound = (matrix.abs() * torch.linalg.vector_norm(inputs.values, torch.inf, dim=0)).flatten()
    count = 64
    while True:
        values, places = bound.topk(min(count, len(bound)))
        outs, ins = places // matrix.shape[1], places % matrix.shape[1]
        amount, row, nth = _largest_of(now, inputs, matrix, outs, ins)
        if amount >= float(values[-1]) or len(places) == len(bound):
            return amount, row, int(outs[nth]), int(ins[nth])
        count *= 4


def _largest_of(now: Activations, inputs: Inputs, matrix: Tensor, outs: Tensor, ins: Tensor) -> tuple[float, int, int]:
    """The largest c_i of the weights (outs[n], ins[n]) at any token: (amount, row of the inputs, n)."""
    import torch

    largest, weights = (-math.inf, 0, 0), matrix[outs, ins]
    for rows in torch.split(torch.arange(len(inputs.tokens), device=outs.device), ROWS):
        signs = torch.sign(now.output[inputs.tokens[rows]][:, outs])
        amounts = inputs.values[rows][:, ins] * weights * signs
        place = int(amounts.argmax())
        amount = float(amounts.flatten()[place])
        if amount > largest[0]:
            row, nth = divmod(place, amounts.shape[1])
            largest = (amount, int(rows[row]), nth)
    return largest


def entry_at(now: Activations, token: int, out: int) -> Spike:
    """An entry of a layer's output, measured as a spike is."""
    row = slice(token, token + 1)
    over_channels, over_tokens = median_size(now.output[row], 1), median_size(now.output[:, out : out + 1], 0)
    value, added = float(now.output[token, out]), float(now.added[token, out])
    ratio = abs(value) / max(float(over_channels), float(over_tokens))
    rms = float(rms_before(now.added[row], now.stream[row]))
    return Spike(now.down.layer, token, out, value, ratio, added, abs(added) / rms, float(now.stream[token, out]))
