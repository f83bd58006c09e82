"""A network watched while it runs over a probe: scans, and activations that are kept.

Everything is reduced where it is computed; no activation is copied out whole. Only the median over tokens needs to see
all tokens of a layer, so of several batches its outputs are kept, one layer's or a few layers' at a time (forward.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from swlottery.config import KAPPA
from swlottery.errors import BadInput
from swlottery.find import forward
from swlottery.find.forward import run_body
from swlottery.find.probe import Batch, Probe
from swlottery.find.spikes import (
    CHUNK,
    RHO,
    Activations,
    Entries,
    LayerScan,
    Peak,
    Spike,
    above_channels,
    above_stream,
    larger_median,
    rms_before,
)
from swlottery.models.architectures import DownProjection, Inputs, Roles

if TYPE_CHECKING:
    from torch import Tensor, nn


def scan(model: nn.Module, downs: Sequence[DownProjection], probe: Probe, kappa: float = KAPPA) -> list[LayerScan]:
    """One forward pass over the probe with every down-projection watched."""
    batches = _batches(probe)
    watches = [_Watch(down, batches, kappa) for down in downs]
    return [watch.result() for group in _passes(model, watches, batches) for watch in group]


def activations(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, tokens: Tensor | None = None
) -> list[Activations]:
    """One forward pass that keeps the inputs, outputs and streams of ``downs``, in float32, at all tokens or at some.

    Args:
        tokens: which of the probe's tokens, in their order; only the batches of prompts that hold one are run.
    """
    return [now for group in by_groups(model, downs, probe, tokens) for now in group]


def by_groups(
    model: nn.Module, downs: Sequence[DownProjection], probe: Probe, tokens: Tensor | None = None
) -> Iterator[list[Activations]]:
    """The activations of ``downs``, in their order, as many layers at a time as `forward.budget` has room for."""
    batches = _batches(probe, tokens)
    keepers = [_Keeper(down, batches, tokens) for down in downs]
    for group in _passes(model, keepers, batches):
        kept = [keeper.result() for keeper in group]
        group.clear()  # so that nobody but the caller holds them
        yield kept


class Everything:
    """The activations of all layers: held where they fit, made again a group of layers at a time where they do not.

    groups: how many there are.
    """

    def __init__(self, model: nn.Module, downs: Sequence[DownProjection], probe: Probe) -> None:
        self.model, self.downs, self.probe = model, downs, probe
        batches = _batches(probe)
        self.groups = len(_groups(model, [_Keeper(down, batches) for down in downs]))
        self.held = activations(model, downs, probe) if self.groups == 1 else []

    def __iter__(self) -> Iterator[tuple[Sequence[DownProjection], list[Activations]]]:
        """Each group's down-projections and activations; the list is emptied when the next one is asked for."""
        done = 0
        for group in [list(self.held)] if self.held else by_groups(self.model, self.downs, self.probe):
            downs = self.downs[done : done + len(group)]
            done += len(group)
            yield downs, group
            group.clear()


def _batches(probe: Probe, tokens: Tensor | None = None) -> list[Batch]:
    """The batches of a probe, or those of them that hold one of ``tokens``."""
    batches = probe.batches(forward.BATCH_TOKENS)
    if tokens is None:
        return batches
    wanted = tokens.tolist()
    return [batch for batch in batches if any(batch.first <= token < batch.first + batch.count for token in wanted)]


_H = TypeVar("_H", bound="_Hooked")


def _groups(model: nn.Module, hooked: Sequence[_Hooked]) -> list[range]:
    return forward.groups([one.size for one in hooked], forward.budget(model))


def _passes(model: nn.Module, hooked: list[_H], batches: Sequence[Batch]) -> Iterator[list[_H]]:
    """Run ``batches`` with hooks on some layers, given in their order, a group of layers at a time; yield each group
    when it is done. Nothing behind the last layer is run. ``hooked`` is emptied on the way."""
    stretches = _groups(model, hooked)
    blocks = Roles(model).blocks if len(stretches) > 1 else []
    returned: list[Any] = [None] * len(batches)
    start = 0
    for stretch in stretches:
        group = [hooked.pop(0) for _ in stretch]
        end = group[-1].down
        for number, batch in enumerate(batches):
            going_on = forward.resumed(blocks, start, returned[number])
            with going_on, _watched(group, batch), forward.ending_at(end.block) as kept:
                run_body(model, batch.ids)
            returned[number] = kept[0] if hooked else None
        start = end.layer + 1
        yield group


class _Rows:
    """A matrix that comes in parts, in the order of its rows; one that comes whole is not copied."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def add(self, part: Tensor) -> None:
        if len(part) == self.total:
            self.whole = part
            return
        if not self.done:
            self.whole = part.new_empty(self.total, part.shape[1])
        self.whole[self.done : self.done + len(part)] = part
        self.done += len(part)


class _Hooked(ABC):
    """Hooks on one layer: at the down-projection, behind the norm if one follows it, and at the block's end.

    size: the bytes that are kept of the layer until all batches are through, about.
    """

    size: int

    def __init__(self, down: DownProjection) -> None:
        self.down = down

    def begin(self, batch: Batch) -> None:
        """Called before each batch."""
        self.batch = batch
        self.tokens = batch.valid.nonzero().flatten()
        self.valid = None if len(self.tokens) == len(batch.valid) else batch.valid
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
        """Called with the residual stream after the addition."""


class _Watch(_Hooked):
    """A scan's view of one layer."""

    def __init__(self, down: DownProjection, batches: Sequence[Batch], kappa: float) -> None:
        super().__init__(down)
        self.kappa, self.batches = kappa, len(batches)
        count = sum(batch.count for batch in batches)
        self.input: Peak
        self.output: Peak
        self.everywhere = _Rows(count)
        channels = down.matrices()[0][1].shape[0]
        self.size = count * channels * down.weight.element_size() if len(batches) > 1 else 0
        self.found: list[tuple[Tensor, ...]] = []

    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        import torch

        first = self.batch.first
        self.values = self.rows(output.clone() if self.down.overwritten else output)
        self.version = self.values._version
        self.sizes = _sizes(self.values)
        row = int(self.sizes.argmax())
        channel = int(self.values[row].abs().argmax())
        largest = Peak(float(self.values[row, channel]), first + row, channel)
        is_larger = first == 0 or abs(largest.value) > abs(self.output.value)
        if self.down.experts is None:
            peak = _peak(self.rows(args[0]), first)
            if first == 0 or abs(peak.value) > abs(self.input.value):
                self.input = peak
        elif is_larger:  # experts' inputs have to be computed again: at the token of the largest output alone
            inputs = torch.cat([given.values for given in self.down.inputs(args, self.tokens[row : row + 1])])
            peak = _peak(inputs)
            self.input = Peak(peak.value, first + row, peak.channel)
        if is_larger:
            self.output = largest

    def at_end(self, stream: Tensor) -> None:
        if self.values._version != self.version:
            raise AssertionError(f"the output of {self.down.path} was overwritten: its row in roles.py has to say so")
        self.everywhere.add(self.values)
        self.found.append(self.candidates(None if self.added is None else self.rows(self.added), self.rows(stream)))
        del self.values, self.sizes
        self.added = None
        if self.batches == 1:  # nothing is left to see: what would be kept of all layers is let go at once
            self.reduced = self.reduce()

    def candidates(self, normed: Tensor | None, stream: Tensor) -> tuple[Tensor, ...]:
        """The entries of a batch that stand out of their token, and of the stream: columns of the same length."""
        import torch

        added, sizes = (self.values, self.sizes) if normed is None else (normed, _sizes(normed))
        token, channel, over_channels = above_channels(self.values, self.kappa, above_stream(added, stream, sizes))
        here, after = added[token].float(), stream[token].float()
        nth = torch.arange(len(token), device=after.device)
        reached = here[nth, channel]
        rms_ratio = reached.abs() / rms_before(here, after)
        columns = (token + self.batch.first, channel, self.values[token, channel].float(), over_channels, reached,
                   rms_ratio, after[nth, channel])  # fmt: skip
        return tuple(column[rms_ratio >= RHO] for column in columns)

    def reduce(self) -> LayerScan:
        """Of the candidates those that stand out of their channel as well, now that all of it has been seen."""
        import torch

        token, channel, value, over_channels, *rest = (torch.cat(column) for column in zip(*self.found, strict=True))
        median = larger_median(self.everywhere.whole, channel, over_channels)
        columns = (token, channel, value, value.abs() / median, *rest, median)
        spiky = columns[3] >= self.kappa
        entries = Entries(*(column[spiky] for column in columns))
        del self.everywhere, self.found
        return LayerScan(self.down.layer, self.input, self.output, _largest(self.down.layer, entries), entries)

    def result(self) -> LayerScan:
        """What was seen, behind the last batch."""
        return self.reduced if self.batches == 1 else self.reduce()


def _largest(layer: int, entries: Entries) -> list[Spike]:
    """Of each channel one spike that arrives and one that is cancelled, the largest first."""
    columns = (entries.token, entries.channel, entries.value, entries.ratio, entries.added, entries.rms_ratio)
    best: dict[tuple[int, bool], Spike] = {}
    for at, out, *numbers in zip(*(column.tolist() for column in (*columns, entries.stream)), strict=True):
        spike = Spike(layer, at, out, *numbers)
        key = (out, spike.arrives)
        if key not in best or spike.ratio > best[key].ratio:
            best[key] = spike
    return sorted(best.values(), key=lambda spike: -spike.ratio)


class _Keeper(_Hooked):
    """One layer's activations at all tokens, or at those ``chosen``."""

    def __init__(self, down: DownProjection, batches: Sequence[Batch], chosen: Tensor | None = None) -> None:
        super().__init__(down)
        self.chosen = chosen
        count = sum(batch.count for batch in batches) if chosen is None else len(chosen)
        out, in_ = down.matrices()[0][1].shape
        # float32; of a mixture, two experts a token. A norm behind the MLP gives one matrix more.
        self.size = 4 * count * ((2 if down.experts else 1) * in_ + (2 if down.post_norm is None else 3) * out)
        self.numbers: list[Tensor] = []
        self.inputs: list[Inputs] = []
        self.values, self.output, self.normed, self.stream = (_Rows(count) for _ in range(4))

    def begin(self, batch: Batch) -> None:
        import torch

        super().begin(batch)
        number = batch.first + torch.arange(len(self.tokens), device=self.tokens.device)
        self.wanted = None if self.chosen is None else torch.isin(number, self.chosen)
        self.places = self.tokens if self.wanted is None else self.tokens[self.wanted]
        self.numbers.append(number if self.wanted is None else number[self.wanted])

    def kept(self, activation: Any) -> Tensor:
        """The chosen rows in float32."""
        rows = self.rows(activation)
        return (rows if self.wanted is None else rows[self.wanted]).float()

    def at_output(self, args: Sequence[Tensor], output: Tensor) -> None:
        import torch

        if self.down.experts is None:
            (inputs,) = self.down.inputs(args, self.places)
            self.values.add(inputs.values.float())
        else:
            count = torch.full((len(self.batch.valid),), -1, device=self.tokens.device)
            count[self.places] = self.numbers[-1]  # from flat positions to the probe's tokens
            for inputs in self.down.inputs(args, self.places):
                self.inputs.append(Inputs(inputs.expert, count[inputs.tokens], inputs.values.float()))
        values = self.kept(output).clone()
        if not bool(torch.isfinite(values).all()):
            raise BadInput(f"the output of {self.down.path} is not finite: use --dtype bfloat16 or float32")
        self.output.add(values)

    def at_end(self, stream: Tensor) -> None:
        if self.added is not None:
            self.normed.add(self.kept(self.added))
            self.added = None
        self.stream.add(self.kept(stream).clone())

    def result(self) -> Activations:
        """What was kept, behind the last batch."""
        import torch

        tokens = torch.cat(self.numbers)
        inputs = _of_each_expert(self.inputs) if self.down.experts else [Inputs(None, tokens, self.values.whole)]
        output = self.output.whole
        added = output if self.down.post_norm is None else self.normed.whole
        return Activations(tokens, inputs, output, added, self.stream.whole)


def _of_each_expert(parts: list[Inputs]) -> list[Inputs]:
    """The inputs of all batches, one entry an expert, by their number."""
    import torch

    joined = []
    for expert in sorted({part.expert for part in parts if part.expert is not None}):
        mine = [part for part in parts if part.expert == expert]
        tokens, values = torch.cat([part.tokens for part in mine]), torch.cat([part.values for part in mine])
        joined.append(Inputs(expert, tokens, values))
    return joined


@contextmanager
def _watched(hooked: Sequence[_Hooked], batch: Batch) -> Iterator[None]:
    """Put the hooks in place for one batch; take every one of them away again, whatever happens."""

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
            one.begin(batch)
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

    return torch.cat([part.abs().amax(dim=1) for part in torch.split(activation, CHUNK)])


def _peak(activation: Tensor, first: int = 0) -> Peak:
    """The largest of ``activation[tokens, channels]``, by ever smaller parts: an argmax over all costs several times
    the minima and maxima of large chunks. ``first``: the number of the first token."""
    import torch

    chunks = torch.split(activation, CHUNK)
    extremes = torch.stack([torch.stack(chunk.aminmax()) for chunk in chunks]).float()
    nth = int(extremes.abs().amax(dim=1).argmax())
    row = int(chunks[nth].abs().amax(dim=1).argmax())
    channel = int(chunks[nth][row].abs().argmax())
    return Peak(float(chunks[nth][row, channel]), first + CHUNK * nth + row, channel)
