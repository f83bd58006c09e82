"""From spikes to candidates: attribution, and taking the candidates out one by one.

Layers are visited from the last to the first. Taking a weight out of a layer changes nothing in front of it, so every
spike is judged, and every input seen, in the network as it is; what a removal does to the layers behind it (other
spikes rise there, and cancellers lose what they cancel) is never mistaken for a property of the network. Within a layer
the largest spike goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swlottery.find.coordinates import Coordinate, zeroed
from swlottery.find.probe import Probe
from swlottery.find.spikes import KAPPA, RHO, Activations, LayerScan, Spike, activations, medians, scan
from swlottery.roles import DownProjection

if TYPE_CHECKING:
    from torch import Tensor, nn

MIN_SHARE = 0.1
"""A spike to which no single weight gives a tenth is made by many, or by the bias, and has no super weight."""

MAX_WEIGHTS = 32


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
    intact = now = activations(model, [down], probe)[0]
    bar = medians(intact.output)
    # What stands only once a weight is gone (what an opposing weight then does, say) is no spike of the network.
    allowed = standing(intact, bar, kappa)
    while spike := largest_spike(now, layer, bar, kappa, allowed & (now.output * intact.output > 0)):
        largest, bias_share = contributions(down, now, spike)
        removal = Removal(len(result.removals) + 1, spike, largest, bias_share)
        if not largest or largest[0].share < MIN_SHARE:
            if (layer, spike.out) not in {(known.spike.layer, known.spike.out) for known in result.diffuse}:
                result.diffuse.append(removal)
            allowed[spike.token, spike.out] = False
            continue
        if len(result.removals) == limit:
            result.complete = False
            return
        removed.enter_context(zeroed(downs, [removal.found.coordinate]))
        result.removals.append(removal)
        now = activations(model, [down], probe)[0]


def standing(now: Activations, bar: tuple[Tensor, Tensor], kappa: float) -> Tensor:
    """Which entries are spikes that arrive, ``[tokens, channels]``; bar: the medians, fixed before any removal."""
    import torch

    stands = now.output.abs() >= kappa * torch.maximum(*bar)
    stands &= now.added.abs() >= RHO * now.rms[:, None]
    return stands & (now.stream * now.added > 0) & (now.stream.abs() >= 0.5 * now.added.abs())


def largest_spike(
    now: Activations, layer: int, bar: tuple[Tensor, Tensor], kappa: float, allowed: Tensor
) -> Spike | None:
    """The spike with the largest ratio among the entries ``allowed``, ties by (token, out); None if none stands."""
    import torch

    stands = standing(now, bar, kappa) & allowed
    if not bool(stands.any()):
        return None
    ratio = now.output.abs() / torch.maximum(*bar)
    token, out = divmod(int(torch.where(stands, ratio, -1.0).argmax()), ratio.shape[1])
    rms_ratio = now.added.abs() / now.rms[:, None]
    return Spike(
        layer, token, out, *(float(p[token, out]) for p in (now.output, ratio, now.added, rms_ratio, now.stream))
    )


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


def leader(downs: Sequence[DownProjection], everything: Sequence[Activations]) -> Leader:
    """The weight with the largest c_i of all layers, tokens and channels.

    |W[o,i]| · max_t |x_i(t)| bounds what a weight can give; weights are looked at in the order of that bound until none
    that is left can be better.
    """
    import torch

    best: Leader | None = None
    for down, now in zip(downs, everything, strict=True):
        for inputs in now.inputs:
            matrix = down.matrix(inputs.expert).float()
            bound = (matrix.abs() * inputs.values.abs().amax(dim=0)).flatten()
            count, top = 64, -1.0
            while True:
                values, places = bound.topk(min(count, len(bound)))
                outs, ins = places // matrix.shape[1], places % matrix.shape[1]
                signs = torch.sign(now.output[inputs.tokens][:, outs])
                given = inputs.values[:, ins] * matrix[outs, ins] * signs
                top, where = (float(given.max()), int(given.argmax()))
                if top >= float(values[-1]) or len(places) == len(bound):
                    break
                count *= 4
            row, nth = divmod(where, given.shape[1])
            if best is None or top > best.contribution.amount:
                out, in_, token = int(outs[nth]), int(ins[nth]), int(inputs.tokens[row])
                entry = _entry(now, down.layer, token, out)
                place = Coordinate(down.layer, out, in_, inputs.expert)
                x, weight = float(inputs.values[row, in_]), float(matrix[out, in_])
                best = Leader(Contribution(place, weight, x, top, top / max(abs(entry.value), 1e-30)), entry)
    assert best is not None, "a model has at least one layer"
    return best


def _entry(now: Activations, layer: int, token: int, out: int) -> Spike:
    over_channels, over_tokens = medians(now.output)
    value, added = float(now.output[token, out]), float(now.added[token, out])
    ratio = abs(value) / max(float(over_channels[token, 0]), float(over_tokens[0, out]))
    return Spike(
        layer, token, out, value, ratio, added, abs(added) / float(now.rms[token]), float(now.stream[token, out])
    )
