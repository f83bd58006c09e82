"""Spikes: entries of a down-projection's output far above their surroundings.

An output entry y_o(t) is a spike when |y_o(t)| is at least

- κ times the median of |y| over the channels at the same token, **and**
- κ times the median of |y| over the tokens of the same channel,

and what is added to the residual stream there is at least

- ρ times the root mean square of that stream before the addition.

One pooled median would fire on any large token: at a token with a massive activation every channel is large. A spike
*arrives* when the stream after the addition has its sign and at least half its size; otherwise the stream held the
opposite there and the spike cancels it, which the last layers of many models do. What is added is the output itself,
but for a norm behind the MLP (gemma, olmo2).

Here is what a spike is, and how the entries that may be one are told from the rest; watching.py runs the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swlottery.models.architectures import Inputs

if TYPE_CHECKING:
    from torch import Tensor

RHO = 5.0
"""ρ. Five times the root mean square of the residual stream: far outside its bulk, whatever its scale."""

CHUNK = 512
"""Tokens looked at at once: a copy of their activations stays in the processor's cache, and takes no memory to speak of."""
_ENTRIES = 1 << 19
"""Entries whose median over tokens is taken at once: it needs several times their memory."""
_TINY = 1e-30


@dataclass(frozen=True)
class Spike:
    """One spike at the probe's n-th valid token.

    value: y_o(t). ratio: |y_o(t)| over the larger of its two medians. added: what the residual stream receives.
    rms_ratio: |added| over the stream's root mean square before. stream: the stream's entry after.
    """

    layer: int
    token: int
    out: int
    value: float
    ratio: float
    added: float
    rms_ratio: float
    stream: float

    @property
    def arrives(self) -> bool:
        """Whether the stream afterwards has the spike's sign and at least half its size."""
        return self.stream * self.added > 0 and abs(self.stream) >= 0.5 * abs(self.added)


@dataclass(frozen=True)
class Peak:
    """The entry of largest magnitude in one layer's activations."""

    value: float
    token: int
    channel: int


@dataclass(frozen=True)
class Entries:
    """Every spike of a layer, one a row, ordered by (token, channel); ``median``: the larger of its two.

    The other columns are as in Spike.
    """

    token: Tensor
    channel: Tensor
    value: Tensor
    ratio: Tensor
    added: Tensor
    rms_ratio: Tensor
    stream: Tensor
    median: Tensor

    @property
    def arrive(self) -> Tensor:
        """As ``Spike.arrives``."""
        return (self.stream * self.added > 0) & (self.stream.abs() >= 0.5 * self.added.abs())


@dataclass(frozen=True)
class LayerScan:
    """One layer in one pass: its largest input and output entries, and its spikes: of each channel the largest that
    arrives and the largest that is cancelled (``entries``: all of them). For experts the input is that at the token of
    the largest output."""

    layer: int
    input: Peak
    output: Peak
    spikes: list[Spike]
    entries: Entries | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Activations:
    """One layer's down-projection over some or all tokens, in float32, for what a scan reduces away.

    tokens: which of the probe's tokens the rows are. inputs: what enters each matrix, by the probe's tokens.
    output: ``[tokens, out]``. added, stream: as in Spike, ``[tokens, out]``.
    """

    tokens: Tensor
    inputs: list[Inputs]
    output: Tensor
    added: Tensor
    stream: Tensor

    @property
    def rms(self) -> Tensor:
        """The root mean square over channels of the residual stream before the addition, ``[tokens]``."""
        import torch

        parts = zip(torch.split(self.added, CHUNK), torch.split(self.stream, CHUNK), strict=True)
        return torch.cat([rms_before(added, after) for added, after in parts])


def rms_before(added: Tensor, after: Tensor) -> Tensor:
    """The root mean square of the stream before ``added[tokens, out]`` made ``after`` of it, ``[tokens]``."""
    return (after - added).pow(2).mean(dim=1).sqrt().clamp_min(_TINY)


def median_size(output: Tensor, dim: int) -> Tensor:
    """The median of |output| along ``dim``, kept as a dimension of size 1."""
    return output.float().abs().median(dim=dim, keepdim=True).values.clamp_min(_TINY)


def medians(output: Tensor) -> tuple[Tensor, Tensor]:
    """The medians of |output[tokens, channels]| over channels ``[tokens, 1]`` and over tokens ``[1, channels]``."""
    return median_size(output, 1), median_size(output, 0)


def above_medians(output: Tensor, kappa: float, tokens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of ``output[tokens, channels]`` at least κ times both medians: (token, channel, ratio)."""
    token, channel, over_channels = above_channels(output, kappa, tokens)
    ratio = output[token, channel].float().abs() / larger_median(output, channel, over_channels)
    spiky = ratio >= kappa
    return token[spiky], channel[spiky], ratio[spiky]


def above_channels(output: Tensor, kappa: float, tokens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of ``output[tokens, channels]`` at least κ times their token's median over channels: (token, channel,
    median).

    Exact medians of every token would cost more than the forward pass they watch. So only those are taken that may be
    exceeded, which a count decides without sorting; nothing is lost.
    """
    import torch

    everywhere = torch.arange(len(output), device=output.device) if tokens is None else tokens
    rows = _exceedable_rows(output, everywhere, kappa)
    found = []
    for part in torch.split(rows, CHUNK):
        size = output[part].float().abs()
        over_channels = size.median(dim=1).values.clamp_min(_TINY)
        row, channel = (size >= kappa * over_channels[:, None]).nonzero(as_tuple=True)
        found.append((part[row], channel, over_channels[row]))
    token, channel, median = (torch.cat(column) for column in zip(*found, strict=True))
    return token, channel, median


def larger_median(output: Tensor, channel: Tensor, over_channels: Tensor) -> Tensor:
    """The larger of ``over_channels[n]`` and the median over all tokens of ``channel[n]``."""
    import torch

    channels, which = torch.unique(channel, return_inverse=True)
    at_once = max(1, _ENTRIES // len(output))
    over_tokens = torch.cat([median_size(output[:, part], 0)[0] for part in torch.split(channels, at_once)])
    return torch.maximum(over_channels, over_tokens[which])


def _exceedable_rows(output: Tensor, rows: Tensor, kappa: float) -> Tensor:
    """Those of ``rows`` whose largest entry may reach κ times their median.

    How many entries are at most that peak over κ, 1 % of rounding allowed? The (lower) median is, where more than half
    are.
    """
    import torch

    found = [rows[:0]]
    for part in torch.split(rows, CHUNK):
        size = output[part].abs()
        low = size <= (1.01 / kappa * size.amax(dim=1, keepdim=True)).clamp_min(_TINY)
        found.append(part[low.view(torch.uint8).sum(dim=1, dtype=torch.int32) > (size.shape[1] - 1) // 2])
    return torch.cat(found)


def above_stream(added: Tensor, after: Tensor, peak: Tensor) -> Tensor:
    """The tokens whose largest |added|, ``peak[tokens]``, may reach ρ times the RMS of the stream before it.

    A sieve in the tensors' own precision, whose rounding (below 2 % in bfloat16) the margin of 5 % covers.
    """
    import torch

    wide = torch.float32 if added.dtype is torch.float16 else None  # whose sum of squares overflows
    parts = zip(torch.split(added, CHUNK), torch.split(after, CHUNK), strict=True)
    norms = [torch.linalg.vector_norm(end - part, dim=1, dtype=wide) for part, end in parts]
    rms = torch.cat(norms) / added.shape[1] ** 0.5
    tokens: Tensor = (peak >= 0.95 * RHO * rms).nonzero().flatten()
    return tokens
