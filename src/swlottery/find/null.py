"""How large would the largest spike be if the weights were not aligned with their inputs?

Each layer keeps its real inputs, massive ones included; the found weights are taken out; the rest of the matrix's
entries are permuted, and y* = W_permuted · x is looked at as y was. Two nulls: ``entries`` permutes all entries of a
matrix, ``rows`` permutes within rows, so that channels with large weights stay what they are.

One permutation a draw is applied to every matrix of a shape (for ``rows``, to every row). Such permutations are a group
acting on all weights jointly, so the test is exact (Hemerik & Goeman 2018), and the draws are cheap. The statistic is
the largest ratio over all layers, tokens and channels, among the entries that reach ρ times the stream's root mean
square. That a spike must also arrive is left out, which makes the null's spikes larger, never smaller.

To permute every matrix and run the network again would be no null: it destroys the massive inputs too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.find.coordinates import Coordinate
from swlottery.find.spikes import RHO, Activations, median_size
from swlottery.roles import DownProjection

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

KINDS = ("entries", "rows")
DRAWS = 199


@dataclass(frozen=True)
class Null:
    """The draws of one null: the largest ratio of each."""

    kind: str
    largest: tuple[float, ...]

    def p_value(self, observed: float) -> float:
        """(1 + exceedances) / (draws + 1): the chance of a ratio at least as large anywhere in the network."""
        return (1 + sum(ratio >= observed for ratio in self.largest)) / (len(self.largest) + 1)

    def firing(self, kappa: float) -> tuple[float, float, float]:
        """The share of draws in which a spike stands above κ, with its 95 % Clopper–Pearson interval."""
        from scipy.stats import binomtest

        fired = sum(ratio >= kappa for ratio in self.largest)
        interval = binomtest(fired, len(self.largest)).proportion_ci(method="exact")
        return fired / len(self.largest), float(interval.low), float(interval.high)


def largest_ratio(output: Tensor, added: Tensor, rms: Tensor) -> float:
    """The largest ratio of ``output[tokens, channels]`` to its medians where ``added`` reaches ρ times ``rms``."""
    import torch

    reaches = (added.abs() >= RHO * rms[:, None]).nonzero(as_tuple=True)
    if not len(reaches[0]):
        return 0.0
    tokens, which_token = torch.unique(reaches[0], return_inverse=True)
    channels, which_channel = torch.unique(reaches[1], return_inverse=True)
    over_channels = median_size(output[tokens], 1).flatten()[which_token]
    over_tokens = median_size(output[:, channels], 0).flatten()[which_channel]
    return float((output[reaches].float().abs() / torch.maximum(over_channels, over_tokens)).max())


def draws(
    downs: Sequence[DownProjection],
    everything: Sequence[Activations],
    found: Sequence[Coordinate],
    kind: str,
    count: int = DRAWS,
    seed: int = 0,
) -> Iterator[float]:
    """Yield the largest ratio of each draw.

    Args:
        everything: the real activations of every layer in ``downs``.
        found: the weights to take out before the rest is permuted.
        kind: ``entries`` or ``rows``.
    """
    import torch

    device = everything[0].output.device
    precision = _precision(device)
    layers = []
    for down, now in zip(downs, everything, strict=True):
        matrices = {expert: matrix.to(precision) for expert, matrix in _without(down, found)}
        parts = [(inputs.tokens, inputs.values.to(precision), matrices[inputs.expert]) for inputs in now.inputs]
        bias = torch.zeros(now.output.shape[1], device=device) if down.bias is None else down.bias.float()
        layers.append((down, bias.expand_as(now.output), parts, now.rms))
    generator = torch.Generator(device).manual_seed(seed)
    for _ in range(count):
        permutations: dict[tuple[int, ...], Tensor] = {}
        top = 0.0
        for down, bias, parts, rms in layers:
            output = bias.clone()
            for tokens, x, matrix in parts:
                output.index_add_(0, tokens, _permuted_product(x, matrix, kind, permutations, generator).float())
            added = output if down.post_norm is None else down.post_norm(output.to(down.weight.dtype)).float()
            top = max(top, largest_ratio(output, added, rms))
        yield top


def _precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it: a null needs its ratios to a percent, and has many draws to make."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16
    fast: bool = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]
    return torch.bfloat16 if fast else torch.float32


def _permuted_product(
    x: Tensor, matrix: Tensor, kind: str, permutations: dict[tuple[int, ...], Tensor], generator: Generator
) -> Tensor:
    """x · W_permutedᵀ for ``x[tokens, in]`` and ``matrix[out, in]``, with this draw's permutation for that shape."""
    import torch

    size = matrix.numel() if kind == "entries" else matrix.shape[1]
    shape = tuple(matrix.shape)
    if shape not in permutations:
        permutations[shape] = torch.randperm(size, generator=generator, device=matrix.device)
    if kind == "rows":  # permuting every row of W alike is permuting x the other way round
        return x.index_select(1, permutations[shape]) @ matrix.t()
    return x @ matrix.flatten().index_select(0, permutations[shape]).view_as(matrix).t()


def _without(down: DownProjection, found: Sequence[Coordinate]) -> list[tuple[int | None, Tensor]]:
    layer = []
    for expert, matrix in down.matrices():
        rest = matrix.float().contiguous().clone()
        for coordinate in found:
            if (coordinate.layer, coordinate.expert) == (down.layer, expert):
                rest[coordinate.out, coordinate.in_] = 0
        layer.append((expert, rest))
    return layer
