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
from swlottery.models.coordinates import Coordinate, zeroed

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Removal:
    """One step of the search: the highest spike, and the weights that give it most, largest first."""

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
                remaining = RemainingSpikes(layer, kappa)
                _search_layer(model, downs, probe, remaining, limit, result, removed)
        result.after = scan(model, downs, probe, kappa) if result.removals else result.before
    return result


def _search_layer(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    remaining: RemainingSpikes,
    limit: int,
    result: Search,
    removed: ExitStack,
) -> None:
    down = downs[remaining.layer]
    intact = now = activations(model, [down], probe, remaining.tokens)[0]
    while spike := remaining.largest(now, intact):
        largest, bias_share = contributions(down, now, spike)
        removal = Removal(len(result.removals) + 1, spike, largest, bias_share)
        if not largest or largest[0].share < MIN_SHARE:
            if spike.out not in {known.spike.out for known in result.diffuse if known.spike.layer == spike.layer}:
                result.diffuse.append(removal)
            remaining.exclude(spike)
            continue
        if len(result.removals) == limit:
            result.complete = False
            return
        removed.enter_context(zeroed(downs, [removal.found.coordinate]))
        result.removals.append(removal)
        now = activations(model, [down], probe, remaining.tokens)[0]


class RemainingSpikes:
    """The arriving spikes of a layer in the intact network, of which fewer remain with every removal.

    What rises only once a weight is gone (what an opposing weight then does, say) is no spike of the network. The bar
    of each, κ times its medians, is fixed before any removal. tokens: where they are.
    """

    def __init__(self, scan: LayerScan, kappa: float) -> None:
        import torch

        entries = scan.entries
        assert isinstance(entries, Entries), "the scan of a model has all entries"
        arriving = arrives(entries.added, entries.stream) & (entries.ratio >= kappa)
        self.layer, self.kappa, self.median = scan.layer, kappa, entries.median[arriving]
        self.token, self.out = entries.token[arriving], entries.channel[arriving]
        self.allowed = torch.ones_like(self.token, dtype=torch.bool)
        self.tokens, self.row = torch.unique(self.token, return_inverse=True)

    def exclude(self, spike: Spike) -> None:
        """This one counts no more."""
        self.allowed &= (self.token != spike.token) | (self.out != spike.out)

    def largest(self, now: Activations, intact: Activations) -> Spike | None:
        """The one with the largest ratio that is still a spike with its sign, ties by (token, out); None if none is.

        Args:
            now, intact: the layer's activations at ``tokens`` with and without removals.
        """
        import torch

        before, output, added, stream = (
            matrix[self.row, self.out] for matrix in (intact.output, now.output, now.added, now.stream)
        )
        rms_ratio = added.abs() / now.rms[self.row]
        ratio = output.abs() / self.median
        remain = self.allowed & (output * before > 0) & (ratio >= self.kappa) & (rms_ratio >= RHO)
        remain &= arrives(added, stream)
        if not bool(remain.any()):
            return None
        nth = int(torch.where(remain, ratio, -1.0).argmax())
        columns = (column[nth] for column in (output, ratio, added, rms_ratio, stream))
        return Spike(self.layer, int(self.token[nth]), int(self.out[nth]), *map(float, columns))
