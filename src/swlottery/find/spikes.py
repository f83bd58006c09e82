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

Everything is reduced where it is computed; no activation is copied out whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.find.probe import Probe
from swlottery.roles import DownProjection, Inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

KAPPA = 40.0
"""κ. One constant for all models: twice the 95th percentile of the permutation null on a real one (docs/method.md)."""

RHO = 5.0
"""ρ. Five times the root mean square of the residual stream: far outside its bulk, whatever its scale."""

_MANY_ROWS = 1024
_CHUNK = 512
"""Tokens looked at at once: a copy of their activations stays in the processor's cache, and takes no memory to speak of."""
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
class LayerScan:
    """One layer in one pass: its largest input and output entries, and its spikes: of each channel the largest that
    arrives and the largest that is cancelled. For experts the input is that at the token of the largest output."""

    layer: int
    input: Peak
    output: Peak
    spikes: list[Spike]


@dataclass(frozen=True)
class Activations:
    """One layer's down-projection over all valid tokens, for what a scan reduces away (probes are short).

    inputs: what enters each matrix. output: ``[tokens, out]``. added, stream: as in Spike, ``[tokens, out]``.
    """

    inputs: list[Inputs]
    output: Tensor
    added: Tensor
    stream: Tensor

    @property
    def rms(self) -> Tensor:
        """The root mean square over channels of the residual stream before the addition, ``[tokens]``."""
        return (self.stream - self.added).pow(2).mean(dim=1).sqrt().clamp_min(_TINY)


def run_body(model: nn.Module, ids: Tensor) -> None:
    """One forward pass without the head: the logits of a vocabulary are not needed to look at the MLPs."""
    import torch

    body: Any = model.base_model
    with torch.no_grad():
        body(input_ids=ids, use_cache=False)


def median_size(output: Tensor, dim: int) -> Tensor:
    """The median of |output| along ``dim``, kept as a dimension of size 1."""
    return output.float().abs().median(dim=dim, keepdim=True).values.clamp_min(_TINY)


def medians(output: Tensor) -> tuple[Tensor, Tensor]:
    """The medians of |output[tokens, channels]| over channels ``[tokens, 1]`` and over tokens ``[1, channels]``."""
    return median_size(output, 1), median_size(output, 0)


def above_medians(output: Tensor, kappa: float, tokens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of ``output[tokens, channels]`` at least κ times both medians: (token, channel, ratio).

    Exact medians of every token and channel would cost more than the forward pass they watch. So only those are taken
    that may be exceeded, which a count decides without sorting; nothing is lost.
    """
    import torch

    everywhere = torch.arange(len(output), device=output.device)
    rows = _exceedable_rows(output, everywhere if tokens is None else tokens, kappa, None)
    if len(rows) > _MANY_ROWS:  # the last layer of many models: a channel that is large at every token
        rows = _exceedable_rows(output, rows, kappa, _exceedable_columns(output, rows, kappa))
    kept = output[rows].float().abs()
    over_channels = kept.median(dim=1).values.clamp_min(_TINY)
    row, channel = (kept >= kappa * over_channels[:, None]).nonzero(as_tuple=True)
    channels, which = torch.unique(channel, return_inverse=True)
    over_tokens = median_size(output[:, channels], 0)[0]
    ratio = kept[row, channel] / torch.maximum(over_channels[row], over_tokens[which])
    spiky = ratio >= kappa
    return rows[row[spiky]], channel[spiky], ratio[spiky]


def _exceedable_rows(output: Tensor, rows: Tensor, kappa: float, columns: Tensor | None) -> Tensor:
    """Those of ``rows`` whose largest entry (among ``columns``, if given) may reach κ times their median."""
    import torch

    found = [rows[:0]]
    if columns is not None and not len(columns):
        return rows[:0]
    for part in torch.split(rows, _CHUNK):
        size = output[part].abs()
        peak = (size if columns is None else size[:, columns]).amax(dim=1, keepdim=True)
        found.append(part[_counted(size, peak, kappa, 1) > (size.shape[1] - 1) // 2])
    return torch.cat(found)


def _exceedable_columns(output: Tensor, rows: Tensor, kappa: float) -> Tensor:
    """The columns whose largest entry in ``rows`` may reach κ times their median over all rows."""
    import torch

    peak = torch.stack([output[part].abs().amax(dim=0) for part in torch.split(rows, _CHUNK)]).amax(dim=0)
    below = sum(_counted(part.abs(), peak, kappa, 0) for part in torch.split(output, _CHUNK))
    columns: Tensor = (torch.as_tensor(below) > (len(output) - 1) // 2).nonzero().flatten()
    return columns


def _counted(size: Tensor, peak: Tensor, kappa: float, dim: int) -> Tensor:
    """How many entries are at most ``peak``/κ, 1 % of rounding allowed. The (lower) median is, where more than half are;
    so a count decides without sorting."""
    import torch

    return (size <= (1.01 / kappa * peak).clamp_min(_TINY)).view(torch.uint8).sum(dim=dim, dtype=torch.int32)


def above_stream(added: Tensor, after: Tensor, peak: Tensor) -> Tensor:
    """The tokens whose largest |added|, ``peak[tokens]``, may reach ρ times the RMS of the stream before it.

    A sieve in the tensors' own precision, whose rounding (below 2 % in bfloat16) the margin of 5 % covers.
    """
    import torch

    wide = torch.float32 if added.dtype is torch.float16 else None  # whose sum of squares overflows
    parts = zip(torch.split(added, _CHUNK), torch.split(after, _CHUNK), strict=True)
    norms = [torch.linalg.vector_norm(end - part, dim=1, dtype=wide) for part, end in parts]
    rms = torch.cat(norms) / added.shape[1] ** 0.5
    tokens: Tensor = (peak >= 0.95 * RHO * rms).nonzero().flatten()
    return tokens


def scan(model: nn.Module, downs: Sequence[DownProjection], probe: Probe, kappa: float = KAPPA) -> list[LayerScan]:
    """One forward pass over the probe with every down-projection watched."""
    watches = [_Watch(down, probe.valid, kappa) for down in downs]
    with _watched(watches):
        run_body(model, probe.ids)
    return [watch.result for watch in watches]


def activations(model: nn.Module, downs: Sequence[DownProjection], probe: Probe) -> list[Activations]:
    """One forward pass that keeps the inputs, outputs and streams of ``downs``, in float32."""
    keepers = [_Keeper(down, probe.valid) for down in downs]
    with _watched(keepers):
        run_body(model, probe.ids)
    return [keeper.result for keeper in keepers]


class _Hooked(ABC):
    """Hooks on one layer: at the down-projection, behind the norm if one follows it, and at the block's end."""

    def __init__(self, down: DownProjection, valid: Tensor) -> None:
        self.down = down
        self.tokens = valid.nonzero().flatten()
        self.valid = None if len(self.tokens) == len(valid) else valid
        self.added: Tensor | None = None
        self.called = False

    def rows(self, activation: Any) -> Tensor:
        """``[valid tokens, channels]`` from ``[prompts, positions, channels]`` or ``[prompts · positions, channels]``.

        OPT and the experts of Mixtral flatten their activations; some blocks return a tuple.
        """
        tensor = activation[0] if isinstance(activation, tuple) else activation
        flat: Tensor = tensor.reshape(-1, tensor.shape[-1])
        return flat if self.valid is None else flat[self.valid]

    @abstractmethod
    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        """Called with what enters and leaves the down-projection's module."""

    @abstractmethod
    def at_end(self, stream: Tensor) -> None:
        """Called with the residual stream after the addition; sets ``result``."""


class _Watch(_Hooked):
    """A scan's view of one layer."""

    def __init__(self, down: DownProjection, valid: Tensor, kappa: float) -> None:
        super().__init__(down, valid)
        self.kappa = kappa

    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        import torch

        self.values = self.rows(output.clone() if self.down.overwritten else output)
        self.version = self.values._version
        self.sizes = _sizes(self.values)
        row = int(self.sizes.argmax())
        channel = int(self.values[row].abs().argmax())
        self.output = Peak(float(self.values[row, channel]), row, channel)
        if self.down.experts is None:
            self.input = _peak(self.rows(args[0]))
        else:  # experts' inputs have to be computed again: at the token of the largest output alone
            inputs = torch.cat([given.values for given in self.down.inputs(args, self.tokens[row : row + 1])])
            largest = _peak(inputs)
            self.input = Peak(largest.value, row, largest.channel)

    def at_end(self, stream: Tensor) -> None:
        if self.values._version != self.version:
            raise AssertionError(f"the output of {self.down.path} was overwritten: its row in roles.py has to say so")
        spikes = self._spikes(None if self.added is None else self.rows(self.added), self.rows(stream))
        self.result = LayerScan(self.down.layer, self.input, self.output, spikes)
        del self.values, self.sizes
        self.added = None

    def _spikes(self, normed: Tensor | None, stream: Tensor) -> list[Spike]:
        import torch

        everywhere, sizes = (self.values, self.sizes) if normed is None else (normed, _sizes(normed))
        token, channel, ratio = above_medians(self.values, self.kappa, above_stream(everywhere, stream, sizes))
        added, after = everywhere[token].float(), stream[token].float()
        rms = (after - added).pow(2).mean(dim=1).sqrt().clamp_min(_TINY)
        nth = torch.arange(len(token), device=after.device)
        reached = added[nth, channel]
        value = self.values[token, channel].float()
        columns = (token, channel, value, ratio, reached, reached.abs() / rms, after[nth, channel])
        best: dict[tuple[int, bool], Spike] = {}  # of each channel one that arrives and one that is cancelled
        for at, out, *numbers in zip(*(column.tolist() for column in columns), strict=True):
            spike = Spike(self.down.layer, at, out, *numbers)
            key = (out, spike.arrives)
            if spike.rms_ratio >= RHO and (key not in best or spike.ratio > best[key].ratio):
                best[key] = spike
        return sorted(best.values(), key=lambda spike: -spike.ratio)


class _Keeper(_Hooked):
    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        import torch

        numbers = torch.arange(len(self.tokens), device=self.tokens.device)
        count = torch.full((int(self.tokens[-1]) + 1,), -1, device=self.tokens.device)
        count[self.tokens] = numbers  # from flat positions back to counts of valid tokens
        self.inputs = [
            Inputs(inputs.expert, count[inputs.tokens], inputs.values.float())
            for inputs in self.down.inputs(args, self.tokens)
        ]
        self.output = self.rows(output).float().clone()
        if not bool(torch.isfinite(self.output).all()):
            raise BadInput(f"the output of {self.down.path} is not finite: use --dtype bfloat16 or float32")

    def at_end(self, stream: Tensor) -> None:
        added = self.output if self.added is None else self.rows(self.added).float()
        self.result = Activations(self.inputs, self.output, added, self.rows(stream).float().clone())


@contextmanager
def _watched(hooked: Sequence[_Hooked]) -> Iterator[None]:
    """Put the hooks in place; take every one of them away again, whatever happens."""

    def at_output(one: _Hooked) -> Callable[..., None]:
        def hook(module: nn.Module, args: Sequence[Tensor], output: Tensor) -> None:
            one.called = True
            one.at_output(args, output)

        return hook

    def at_norm(one: _Hooked) -> Callable[..., None]:
        return lambda module, args, output: setattr(one, "added", output.detach())

    def at_end(one: _Hooked) -> Callable[..., None]:
        return lambda module, args, output: one.at_end(output) if one.called else None

    def at_stream_norm(one: _Hooked) -> Callable[..., None]:
        return lambda module, args: one.at_end(args[0]) if one.called else None

    with ExitStack() as stack:
        for one in hooked:
            down = one.down
            handles = [down.module.register_forward_hook(at_output(one))]
            if down.post_norm is not None:
                handles.append(down.post_norm.register_forward_hook(at_norm(one)))
            if down.stream_norm is not None:
                handles.append(down.stream_norm.register_forward_pre_hook(at_stream_norm(one)))
            else:
                handles.append(down.block.register_forward_hook(at_end(one)))
            for handle in handles:
                stack.callback(handle.remove)
        yield
    for one in hooked:
        if not one.called:
            raise BadInput(
                f"{one.down.path} was never called in a forward pass: this model computes its MLP in another way "
                "(BLOOM's slow_but_exact does), which cannot be watched"
            )


def _sizes(activation: Tensor) -> Tensor:
    """The largest |entry| of each row, without a copy of all."""
    import torch

    return torch.cat([part.abs().amax(dim=1) for part in torch.split(activation, _CHUNK)])


def _peak(activation: Tensor) -> Peak:
    """The largest of ``activation[tokens, channels]``, by ever smaller parts: an argmax over all costs several times
    the minima and maxima of large chunks."""
    import torch

    chunks = torch.split(activation, _CHUNK)
    extremes = torch.stack([torch.stack(chunk.aminmax()) for chunk in chunks]).float()
    nth = int(extremes.abs().amax(dim=1).argmax())
    row = int(chunks[nth].abs().amax(dim=1).argmax())
    channel = int(chunks[nth][row].abs().argmax())
    return Peak(float(chunks[nth][row, channel]), _CHUNK * nth + row, channel)
