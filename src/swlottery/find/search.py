"""From spikes to candidates: the weight that makes the largest spike is taken out, and the network looked at again.

Layers are visited from the last to the first. Taking a weight out of a layer changes nothing in front of it. So every
spike is judged, and every input seen, in the network as it is. What a removal does to the layers behind it (other
spikes rise there, and cancellers lose what they cancel) is never mistaken for a property of the network. Within a
layer the largest spike goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from swlottery.config import KAPPA, MAX_WEIGHTS
from swlottery.find.activations import Activations, activations
from swlottery.find.attribution import MIN_SHARE, Contribution, contributions
from swlottery.find.probe import Probe
from swlottery.find.scan import LayerScan, scan
from swlottery.find.spikes import RHO, Entries, Spike, arrives
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate, scaled

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Removal:
    """One step of the search: the highest spike, and the weights that give it most. The largest is taken out."""

    order: int
    spike: Spike
    largest: list[Contribution]
    bias_share: float

    @property
    def found(self) -> Contribution:
        return self.largest[0]


@dataclass
class Search:
    """What the search found.

    before, after: a scan of each layer without and with all removals. near: arriving spikes between half the bar and
    the bar. diffuse: spikes that no single weight makes. complete: the limit on removals was not hit.
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
        """Spikes that arrive, whatever makes them."""
        return [spike for layer in self.before for spike in layer.spikes if spike.arrives]


def search(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    kappa: float = KAPPA,
    limit: int = MAX_WEIGHTS,
) -> Search:
    """Find the candidates: until no arriving spike of the network is above the bar, or ``limit`` is reached.

    The bar of a layer (κ times its medians) is fixed before the first removal. When this returns or raises, the model's
    weights are bit for bit as before.
    """
    wide = scan(model, downs, probe, kappa / 2)
    near = [spike for layer in wide for spike in layer.spikes if spike.ratio < kappa and spike.arrives]
    result = Search([replace(layer, spikes=[s for s in layer.spikes if s.ratio >= kappa]) for layer in wide], near)
    with ExitStack() as removed:
        for layer in reversed(result.before):
            if result.complete and any(spike.arrives for spike in layer.spikes):
                _search_layer(model, downs, probe, layer, kappa, limit, result, removed)
        result.after = scan(model, downs, probe, kappa) if result.removals else result.before
    return result


def _search_layer(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    layer: LayerScan,
    kappa: float,
    limit: int,
    result: Search,
    removed: ExitStack,
) -> None:
    """Take out the weights that make the layer's arriving spikes, the largest spike first."""
    import torch

    down, entries = downs[layer.layer], layer.entries
    spikes = entries.where(arrives(entries.added, entries.stream) & (entries.ratio >= kappa))
    tokens = torch.unique(spikes.token)
    (now,) = activations(model, [down], probe, tokens)
    while spike := largest_remaining(spikes, now, tokens, kappa):
        largest, bias_share = contributions(now, spike)
        removal = Removal(len(result.removals) + 1, spike, largest, bias_share)
        if not largest or largest[0].share < MIN_SHARE:
            if spike.out not in {known.spike.out for known in result.diffuse if known.spike.layer == spike.layer}:
                result.diffuse.append(removal)
            spikes = spikes.where((spikes.token != spike.token) | (spikes.channel != spike.out))
            continue
        if len(result.removals) == limit:
            result.complete = False
            return
        removed.enter_context(scaled(downs, [removal.found.coordinate]))
        result.removals.append(removal)
        (now,) = activations(model, [down], probe, tokens)


def largest_remaining(spikes: Entries, now: Activations, tokens: Tensor, kappa: float) -> Spike | None:
    """Of the intact layer's ``spikes`` the one with the largest ratio that is left, ties by (token, out); or None.

    What rises only once a weight is gone (what an opposing weight then does, say) is no spike of the network. The bar
    of each, κ times its medians, is that of the intact network too.

    Args:
        now: the layer's activations at ``tokens``, after some removals.
    """
    import torch

    row = torch.searchsorted(tokens, spikes.token)
    output, added, stream = (matrix[row, spikes.channel] for matrix in (now.output, now.added, now.stream))
    left = spikes._replace(
        value=output,
        ratio=output.abs() / spikes.median,
        added=added,
        rms_ratio=added.abs() / now.rms[row],
        stream=stream,
    )
    remain = (output * spikes.value > 0) & (left.ratio >= kappa) & (left.rms_ratio >= RHO) & arrives(added, stream)
    return max(left.where(remain).spikes(now.down.layer), key=lambda spike: spike.ratio, default=None)
