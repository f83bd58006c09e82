"""From spikes to candidates: attribution, and taking the candidates out one by one.

Layers are visited from the last to the first. Taking a weight out of a layer changes nothing in front of it, so every
spike is judged, and every input seen, in the network as it is; what a removal does to the layers behind it (other
spikes rise there, and cancellers lose what they cancel) is never mistaken for a property of the network. Within a layer
the largest spike goes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swlottery.config import KAPPA, MAX_WEIGHTS
from swlottery.find.probe import Probe
from swlottery.find.spikes import RHO, Activations, Entries, LayerScan, Spike, median_size, rms_before
from swlottery.find.watching import activations, scan
from swlottery.models.architectures import DownProjection, Inputs
from swlottery.models.coordinates import Coordinate, zeroed

if TYPE_CHECKING:
    from torch import Tensor, nn

MIN_SHARE = 0.1
"""A spike to which no single weight gives a tenth is made by many, or by the bias, and has no super weight."""

ROWS = 2048
"""Tokens looked at together where what is made of them is many times as large."""


@dataclass(frozen=True)
class Contribution:
    """What one weight gives to a spike: W[o,i] · x_i(t), signed so that positive means towards the spike.

    share: that over |y_o(t)|; may exceed 1. input: x_i(t) (times the router's weight, for an expert).
    """

    coordinate: Coordinate
    value: float
    input: float
    amount: float
    share: float


@dataclass(frozen=True)
class Removal:
    """One step of the search: the spike that stood highest, and the weight that gave it most."""

    order: int
    spike: Spike
    largest: list[Contribution]
    bias_share: float

    @property
    def found(self) -> Contribution:
        """The weight that was taken out."""
        return self.largest[0]


@dataclass
class Search:
    """What the search found.

    near: arriving spikes that stand between half the bar and the bar. diffuse: spikes that no single weight makes.
    complete: the limit on removals was not hit.
    """

    before: list[LayerScan]
    near: list[Spike]
    removals: list[Removal] = field(default_factory=list)
    diffuse: list[Removal] = field(default_factory=list)
    after: list[LayerScan] = field(default_factory=list)
    complete: bool = True

    @property
    def coordinates(self) -> list[Coordinate]:
        """The candidates, in the order of their removal."""
        return [removal.found.coordinate for removal in self.removals]

    @property
    def cancellers(self) -> list[Spike]:
        """Spikes that do not arrive: the stream held the opposite."""
        return [spike for layer in self.before for spike in layer.spikes if not spike.arrives]

    @property
    def arriving(self) -> list[Spike]:
        """Spikes that arrive, whoever makes them."""
        return [spike for layer in self.before for spike in layer.spikes if spike.arrives]


def search(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    kappa: float = KAPPA,
    limit: int = MAX_WEIGHTS,
) -> Search:
    """Find the candidates: until no arriving spike of the network stands above the bar, or ``limit`` is reached.

    The bar of a layer (κ times its medians) is fixed before the first removal. When this returns or raises, the model's
    weights are bit for bit as before.
    """
    wide = scan(model, downs, probe, kappa / 2)
    near = [spike for layer in wide for spike in layer.spikes if spike.ratio < kappa and spike.arrives]
    result = Search([replace(layer, spikes=[s for s in layer.spikes if s.ratio >= kappa]) for layer in wide], near)
    with ExitStack() as removed:
        for layer in reversed(result.before):
            if result.complete and any(spike.arrives for spike in layer.spikes):
                _search_layer(model, downs, probe, kappa, limit, layer.layer, result, removed)
        result.after = scan(model, downs, probe, kappa) if result.removals else result.before
    return result


def _search_layer(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    kappa: float,
    limit: int,
    layer: int,
    result: Search,
    removed: ExitStack,
) -> None:
    down = downs[layer]
    standing = Standing(result.before[layer].entries, kappa)
    intact = now = activations(model, [down], probe, standing.tokens)[0]
    # What stands only once a weight is gone (what an opposing weight then does, say) is no spike of the network.
    while spike := standing.largest(now, intact, layer):
        largest, bias_share = contributions(down, now, spike)
        removal = Removal(len(result.removals) + 1, spike, largest, bias_share)
        if not largest or largest[0].share < MIN_SHARE:
            if (layer, spike.out) not in {(known.spike.layer, known.spike.out) for known in result.diffuse}:
                result.diffuse.append(removal)
            standing.leave_out(spike)
            continue
        if len(result.removals) == limit:
            result.complete = False
            return
        removed.enter_context(zeroed(downs, [removal.found.coordinate]))
        result.removals.append(removal)
        now = activations(model, [down], probe, standing.tokens)[0]


class Standing:
    """The arriving spikes of a layer in the intact network, and which of them still stand once weights are gone.

    The bar of each, κ times its medians, is fixed before any removal. tokens: where they are.
    """

    def __init__(self, entries: Entries | None, kappa: float) -> None:
        import torch

        assert entries is not None, "the scan of a model has all entries"
        arrive = entries.arrive & (entries.ratio >= kappa)
        self.kappa, self.median = kappa, entries.median[arrive]
        self.token, self.out = entries.token[arrive], entries.channel[arrive]
        self.allowed = torch.ones_like(self.token, dtype=torch.bool)
        self.tokens, self.row = torch.unique(self.token, return_inverse=True)

    def leave_out(self, spike: Spike) -> None:
        """This one is seen to: it counts no more."""
        self.allowed &= (self.token != spike.token) | (self.out != spike.out)

    def largest(self, now: Activations, intact: Activations, layer: int) -> Spike | None:
        """The one with the largest ratio that stands with its sign, ties by (token, out); None if none does.

        Args:
            now, intact: the layer's activations at ``tokens`` with and without removals.
        """
        import torch

        before, output, added, stream = (
            matrix[self.row, self.out] for matrix in (intact.output, now.output, now.added, now.stream)
        )
        rms_ratio = added.abs() / now.rms[self.row]
        ratio = output.abs() / self.median
        stands = self.allowed & (output * before > 0) & (ratio >= self.kappa) & (rms_ratio >= RHO)
        stands &= (stream * added > 0) & (stream.abs() >= 0.5 * added.abs())
        if not bool(stands.any()):
            return None
        nth = int(torch.where(stands, ratio, -1.0).argmax())
        columns = (column[nth] for column in (output, ratio, added, rms_ratio, stream))
        return Spike(layer, int(self.token[nth]), int(self.out[nth]), *map(float, columns))


def contributions(
    down: DownProjection, now: Activations, spike: Spike, count: int = 8
) -> tuple[list[Contribution], float]:
    """The ``count`` weights that give the spike most, largest first, and the bias's share of it.

    c_i = W[o,i] · x_i(t) · sign(y_o(t)). The candidate is the largest c_i, not the largest |c_i|: a weight that works
    against the spike may be larger, and taking it out would raise the spike. Weights that are zero give nothing.
    """
    sign = 1.0 if spike.value > 0 else -1.0
    found = []
    for inputs in now.inputs:
        at = (inputs.tokens == spike.token).nonzero().flatten()
        if not len(at):
            continue
        x = inputs.values[at[0]]
        weights = down.matrix(inputs.expert)[spike.out].float()
        amount = weights * x * sign
        for in_ in amount.topk(min(count, len(amount))).indices.tolist():
            c = float(amount[in_])
            if c > 0:
                place = Coordinate(down.layer, spike.out, in_, inputs.expert)
                found.append(Contribution(place, float(weights[in_]), float(x[in_]), c, c / abs(spike.value)))
    found.sort(key=lambda contribution: -contribution.amount)
    bias = 0.0 if down.bias is None else float(down.bias[spike.out]) * sign / abs(spike.value)
    return found[:count], bias


@dataclass(frozen=True)
class Leader:
    """The weight with the largest contribution of all, and the entry it gives it to. It is not a super weight."""

    contribution: Contribution
    entry: Spike

    def lacks(self, kappa: float) -> list[str]:
        """What keeps it from being a super weight, in words; nothing where it is one."""
        entry, share = self.entry, self.contribution.share
        return [
            *([f"ratio {entry.ratio:.1f} where κ = {kappa:g} is needed"] if entry.ratio < kappa else []),
            *([f"{entry.rms_ratio:.1f} times the stream's RMS where ρ = {RHO:g} is"] if entry.rms_ratio < RHO else []),
            *([] if entry.arrives else ["the residual stream cancels it"]),
            *([f"it gives only {share:.0%} of the entry"] if share < MIN_SHARE else []),
        ]


def leader(downs: Sequence[DownProjection], everything: Sequence[Activations], best: Leader | None = None) -> Leader:
    """The weight with the largest c_i of all layers, tokens and channels; ``best``: that of the layers before.

    |W[o,i]| · max_t |x_i(t)| bounds what a weight can give; weights are looked at in the order of that bound until none
    that is left can be better.
    """
    import torch

    for down, now in zip(downs, everything, strict=True):
        for inputs in now.inputs:
            matrix = down.matrix(inputs.expert).float()
            bound = (matrix.abs() * torch.linalg.vector_norm(inputs.values, torch.inf, dim=0)).flatten()
            count, top = 64, -1.0
            while True:
                values, places = bound.topk(min(count, len(bound)))
                outs, ins = places // matrix.shape[1], places % matrix.shape[1]
                top, row, nth = _most_given(now, inputs, matrix, outs, ins)
                if top >= float(values[-1]) or len(places) == len(bound):
                    break
                count *= 4
            if best is None or top > best.contribution.amount:
                out, in_, token = int(outs[nth]), int(ins[nth]), int(inputs.tokens[row])
                entry = _entry(now, down.layer, token, out)
                place = Coordinate(down.layer, out, in_, inputs.expert)
                x, weight = float(inputs.values[row, in_]), float(matrix[out, in_])
                best = Leader(Contribution(place, weight, x, top, top / max(abs(entry.value), 1e-30)), entry)
    assert best is not None, "a model has at least one layer"
    return best


def _most_given(now: Activations, inputs: Inputs, matrix: Tensor, outs: Tensor, ins: Tensor) -> tuple[float, int, int]:
    """The most that one of the weights (outs[n], ins[n]) gives at any token: (amount, row of the inputs, n)."""
    import torch

    top, weights = (-math.inf, 0, 0), matrix[outs, ins]
    for rows in torch.split(torch.arange(len(inputs.tokens), device=outs.device), ROWS):
        signs = torch.sign(now.output[inputs.tokens[rows]][:, outs])
        given = inputs.values[rows][:, ins] * weights * signs
        where = int(given.argmax())
        amount = float(given.flatten()[where])
        if amount > top[0]:
            row, nth = divmod(where, given.shape[1])
            top = (amount, int(rows[row]), nth)
    return top


def _entry(now: Activations, layer: int, token: int, out: int) -> Spike:
    here = slice(token, token + 1)
    over_channels, over_tokens = median_size(now.output[here], 1), median_size(now.output[:, out : out + 1], 0)
    value, added = float(now.output[token, out]), float(now.added[token, out])
    ratio = abs(value) / max(float(over_channels), float(over_tokens))
    rms = float(rms_before(now.added[here], now.stream[here]))
    return Spike(layer, token, out, value, ratio, added, abs(added) / rms, float(now.stream[token, out]))
