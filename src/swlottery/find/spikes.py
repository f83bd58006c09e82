"""Spikes: entries of a down-projection's output far above their surroundings.

An output entry y_o(t) is a spike when |y_o(t)| is at least

- κ times the median of |y| over the channels at the same token, **and**
- κ times the median of |y| over the tokens of the same channel,

and what is added to the residual stream there is at least

- ρ times the root mean square of that stream before the addition.

One pooled median would fire on any large token: at a token with a massive activation every channel is large. What is
added is the output itself, or what a norm behind the MLP makes of it (gemma, olmo2). A spike *arrives* when the stream
after the addition has its sign and at least half its size. Otherwise the stream held the opposite there and the spike
cancels it, which the last layers of many models do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

RHO = 5.0
"""ρ. Five times the root mean square of the residual stream: far outside its bulk, whatever its scale."""

CHUNK = 512
"""Tokens looked at together: a copy of their activations stays in the processor's cache and takes little memory."""
_ENTRIES = 1 << 19
"""Entries whose median over tokens is taken together: it needs several times their memory."""
_TINY = 1e-30


def arrives(added: Any, stream: Any) -> Any:
    """Whether the stream then has the sign of what was ``added`` and at least half its size: numbers or tensors."""
    return (stream * added > 0) & (abs(stream) >= 0.5 * abs(added))


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
        """Whether it is still there in the stream afterwards."""
        return bool(arrives(self.added, self.stream))


class Entries(NamedTuple):
    """Some entries of a layer's output, one a row, ordered by (token, channel).

    median: the larger of the two medians. The other columns are as in Spike.
    """

    token: Tensor
    channel: Tensor
    value: Tensor
    ratio: Tensor
    added: Tensor
    rms_ratio: Tensor
    stream: Tensor
    median: Tensor

    def where(self, chosen: Tensor) -> Entries:
        """The rows ``chosen``, a bool tensor."""
        return Entries(*(column[chosen] for column in self))

    def spikes(self, layer: int) -> list[Spike]:
        """Each row as a spike of ``layer``."""
        return [Spike(layer, *row) for row in zip(*(column.tolist() for column in self[:-1]), strict=True)]

    def largest(self, layer: int) -> list[Spike]:
        """Of each channel the largest spike that arrives and the largest that is cancelled, the largest first."""
        best: dict[tuple[int, bool], Spike] = {}
        for spike in sorted(self.spikes(layer), key=lambda spike: -spike.ratio):
            best.setdefault((spike.out, spike.arrives), spike)
        return list(best.values())


def by_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function`` of CHUNK rows of the tensors at a time; its results in one tensor."""
    import torch

    return torch.cat([function(*parts) for parts in zip(*(torch.split(t, CHUNK) for t in tensors), strict=True)])


def rms_before(added: Tensor, after: Tensor) -> Tensor:
    """The root mean square of the stream before ``added[tokens, out]`` made ``after`` of it, ``[tokens]``."""
    return (after - added).pow(2).mean(dim=1).sqrt().clamp_min(_TINY)


def median_size(output: Tensor, dim: int) -> Tensor:
    """The median of |output| along ``dim``, kept as a dimension of size 1."""
    return output.float().abs().median(dim=dim, keepdim=True).values.clamp_min(_TINY)


def medians_of(output: Tensor, channel: int) -> Tensor:
    """The larger of both medians of each entry of one channel of ``output[tokens, channels]``: ``[tokens]``."""
    import torch

    return torch.maximum(median_size(output, 1)[:, 0], median_size(output[:, channel], 0))


def above_channels(output: Tensor, kappa: float, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of ``output[tokens, channels]`` at least κ times the median over channels: (token, channel, median).

    tokens: which rows to look at: those of `above_stream`, as medians of all tokens would cost as much as the forward
    pass.
    """
    import torch

    found = []
    for part in torch.split(tokens, CHUNK):
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


def above_stream(added: Tensor, after: Tensor, peak: Tensor) -> Tensor:
    """The tokens whose largest |added|, ``peak[tokens]``, may reach ρ times the RMS of the stream before it.

    A sieve in the tensors' own precision, whose rounding (below 2 % in bfloat16) the margin of 5 % covers.
    """
    import torch

    wide = torch.float32 if added.dtype is torch.float16 else None  # whose sum of squares overflows
    norms = by_chunks(lambda part, end: torch.linalg.vector_norm(end - part, dim=1, dtype=wide), added, after)
    rms = norms / added.shape[1] ** 0.5
    tokens: Tensor = (peak >= 0.95 * RHO * rms).nonzero().flatten()
    return tokens
