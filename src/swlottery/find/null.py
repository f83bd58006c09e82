"""How large would the largest spike be if the weights were not aligned with their inputs?

Each layer keeps its real inputs, massive ones included. The found weights are taken out, the rest of the matrix's
entries are permuted, and y* = W_permuted · x is looked at as y was. There are two nulls: ``entries`` permutes all
entries of a matrix, ``rows`` permutes within rows, so that channels with large weights keep them.

One permutation a draw is applied to every matrix of a shape (for ``rows``, to every row). Such permutations are a group
acting on all weights jointly, so the test is exact (Hemerik & Goeman 2018), and the draws are cheap. The statistic is
the largest ratio over all layers, tokens and channels, among the entries that reach ρ times the stream's root mean
square. That a spike must also arrive is left out, which makes the null's spikes larger, never smaller.

To permute every matrix and run the network again would be no null: it destroys the massive inputs too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.find.activations import Activations
from swlottery.find.spikes import RHO, by_chunks, larger_median, median_size
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate
from swlottery.models.offload import device_of
from swlottery.runtime import hardware

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KINDS = ("entries", "rows")
ROWS = 2048
"""Tokens multiplied together, so that what is made of them on the way takes little memory."""


@dataclass(frozen=True)
class Null:
    """The draws of one null: the largest ratio of each."""

    kind: str
    largest: tuple[float, ...]

    def p_value(self, observed: float) -> float:
        """(1 + exceedances) / (draws + 1): the chance of a ratio at least as large anywhere in the network."""
        return (1 + sum(ratio >= observed for ratio in self.largest)) / (len(self.largest) + 1)

    def firing(self, kappa: float) -> tuple[float, float, float]:
        """The share of draws with a ratio of κ or more, with its 95 % Clopper–Pearson interval."""
        from scipy.stats import binomtest

        fired = sum(ratio >= kappa for ratio in self.largest)
        interval = binomtest(fired, len(self.largest)).proportion_ci(method="exact")
        return fired / len(self.largest), float(interval.low), float(interval.high)


def largest_ratio(output: Tensor, added: Tensor, rms: Tensor) -> float:
    """The largest ratio of ``output[tokens, channels]`` to its medians where ``added`` reaches ρ times ``rms``."""
    import torch

    reaches = by_chunks(lambda part, bar: part.abs() >= RHO * bar[:, None], added, rms).nonzero().unbind(1)
    if not len(reaches[0]):
        return 0.0
    tokens, which_token = torch.unique(reaches[0], return_inverse=True)
    over_channels = by_chunks(lambda part: median_size(output[part], 1), tokens).flatten()
    bar = larger_median(output, reaches[1], over_channels[which_token])
    return float((output[reaches].float().abs() / bar).max())


@dataclass(frozen=True)
class Layer:
    """What the draws need of one layer, its matrices in the precision of the products.

    bias: what the biases give, ``[out]`` or ``[tokens, out]``.
    parts: for each matrix (tokens, what enters it at them, the matrix without the found weights).
    rms: of the stream before the addition, ``[tokens]``.
    """

    down: DownProjection
    bias: Tensor
    parts: Sequence[tuple[Tensor, Tensor, Tensor]]
    rms: Tensor


def prepare(everything: Iterable[Activations], found: Sequence[Coordinate]) -> list[Layer]:
    """Some layers with their real inputs and without the weights ``found``, all on the device of the first."""
    prepared: list[Layer] = []
    for now in everything:
        down = now.down
        device = prepared[0].rms.device if prepared else now.output.device
        precision = _precision(device)
        parts = [
            (
                inputs.tokens.to(device),
                inputs.values.to(device, precision),
                _without(down, inputs.expert, found, precision).to(device),
            )
            for inputs in now.inputs
        ]
        prepared.append(Layer(down, _biases(now).to(device), parts, now.rms.to(device)))
    return prepared


def copied(down: DownProjection) -> int:
    """The bytes of the copies that `prepare` makes of a layer's matrices: of those that it cannot take as they are."""
    device = device_of(down.block)
    precision = _precision(device)
    size = 0
    for expert in down.numbers():
        part = down.part(expert)
        taken = part.weight.device == device and part.weight.dtype == precision and not part.in_out
        size += 0 if taken else math.prod(part.shape) * precision.itemsize
    return size


def _biases(now: Activations) -> Tensor:
    """What the biases give a layer's output: ``[out]``, or ``[tokens, out]`` where experts have their own."""
    import torch

    down, out = now.down, now.output.shape[1]
    if down.experts is None:
        bias = down.bias()
        return torch.zeros(out, device=now.output.device) if bias is None else bias.float()
    biases = [(inputs, bias) for inputs in now.inputs if (bias := down.bias(inputs.expert)) is not None]
    total = torch.zeros(*([len(now.output)] if biases else []), out, device=now.output.device)
    for inputs, bias in biases:
        scale = torch.ones(len(inputs.tokens), device=total.device) if inputs.scale is None else inputs.scale
        total.index_add_(0, inputs.tokens, scale[:, None] * bias.float())
    return total


def draws(
    prepared: Sequence[Layer],
    kind: str,
    count: int,
    seed: int = 0,
    shapes: Sequence[tuple[int, ...]] | None = None,
) -> Iterator[float]:
    """Yield the largest ratio of each draw.

    Args:
        kind: ``entries`` or ``rows``.
        shapes: of all matrices of the network, where these layers are only some of its: the n-th permutation of a
            shape is then the same for every layer, whichever are drawn together.
    """
    import torch

    if shapes is None:
        shapes = [tuple(matrix.shape) for layer in prepared for _, _, matrix in layer.parts]
    device = prepared[0].rms.device
    generator = torch.Generator(device).manual_seed(seed)
    for _ in range(count):
        permutations = {}
        for shape in dict.fromkeys(shapes):
            size = shape[0] * shape[1] if kind == "entries" else shape[1]
            # 32 bits: half of what reading the places costs.
            permutations[shape] = torch.randperm(size, generator=generator, device=device).to(torch.int32)
        yield max(_drawn(layer, kind, permutations) for layer in prepared)


def _drawn(layer: Layer, kind: str, permutations: dict[tuple[int, ...], Tensor]) -> float:
    """The largest ratio of one layer in one draw."""
    import torch

    down = layer.down
    output = layer.bias.expand(len(layer.rms), -1).clone()
    for tokens, x, matrix in layer.parts:
        products = permuted_products(x, matrix, kind, permutations[tuple(matrix.shape)])
        for rows, product in zip(torch.split(tokens, ROWS), products, strict=True):
            output.index_add_(0, rows, product.float())
    added = output
    if down.post_norm is not None:
        with torch.no_grad():
            added = down.post_norm(output.to(down.dtype)).to(output)
    if down.multiplier != 1:
        added = added * down.multiplier
    return largest_ratio(output, added, layer.rms)


def permuted_products(x: Tensor, matrix: Tensor, kind: str, permutation: Tensor) -> Iterator[Tensor]:
    """x · W_permutedᵀ for ``x[tokens, in]`` and ``matrix[out, in]``, ROWS tokens at a time."""
    import torch

    if kind == "entries":
        matrix = matrix.flatten().index_select(0, permutation).view_as(matrix)
    for rows in torch.split(x, ROWS):
        # Permuting every row of W alike is permuting x the other way round.
        yield (rows if kind == "entries" else rows.index_select(1, permutation)) @ matrix.t()


def _precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it: a null needs its ratios to a percent, and has many draws to make."""
    import torch

    fast, _ = hardware.bfloat16(device)
    return torch.bfloat16 if fast else torch.float32


def _without(down: DownProjection, expert: int | None, found: Sequence[Coordinate], precision: torch.dtype) -> Tensor:
    """A matrix with the found weights at zero; it is copied only where it has to be."""
    matrix = down.matrix(expert)
    rest = matrix.to(precision).contiguous()
    mine = [c for c in found if (c.layer, c.expert) == (down.layer, expert)]
    if mine and rest.data_ptr() == matrix.data_ptr():
        rest = rest.clone()
    for coordinate in mine:
        rest[coordinate.out, coordinate.in_] = 0
    return rest
