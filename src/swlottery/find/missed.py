"""Why the search did not find a weight that somebody has named: what its output channel does in the intact network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swlottery.find.activations import Activations, activations
from swlottery.find.attribution import MIN_SHARE, contributions, given
from swlottery.find.probe import Probe
from swlottery.find.search import Search
from swlottery.find.spikes import RHO, Spike, arrives, medians_of
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import nn


def why_missed(
    model: nn.Module,
    downs: Sequence[DownProjection],
    probe: Probe,
    search: Search,
    missed: Sequence[Coordinate],
    kappa: float,
) -> dict[Coordinate, str]:
    """For each weight that the search did not find why it did not, in words. The model is intact."""
    if not missed:
        return {}
    layers = [downs[layer] for layer in sorted({coordinate.layer for coordinate in missed})]
    now = {one.down.layer: one for one in activations(model, layers, probe)}
    return {coordinate: why(now[coordinate.layer], coordinate, search, kappa) for coordinate in missed}


def why(now: Activations, coordinate: Coordinate, search: Search, kappa: float) -> str:
    """Which of the conditions of a spike (see spikes.py) its channel lacks, or which weight makes the spike."""
    import torch

    output, added, stream = (matrix[:, coordinate.out] for matrix in (now.output, now.added, now.stream))
    ratio = output.abs() / medians_of(now.output, coordinate.out)
    rms_ratio = added.abs() / now.rms
    high = float(ratio.max())
    if high < kappa:
        what = "the spike of its channel is below the bar" if high >= kappa / 2 else "its channel has no spike"
        return f"{what}: its largest ratio is {high:.1f}, {high / kappa:.2f} of κ"
    above = ratio >= kappa
    reaching = above & (rms_ratio >= RHO)
    if not reaching.any():
        size = float(rms_ratio[above].max())
        return f"the spike of its channel is {size:.1f} times the stream's RMS, where ρ = {RHO:g} is needed"
    arriving = reaching & arrives(added, stream)
    if not arriving.any():
        return f"the spike of its channel cancels an earlier one (ratio {high:.0f})"
    token = int(torch.where(arriving, ratio, 0.0).argmax())
    columns = (float(column[token]) for column in (output, ratio, added, rms_ratio, stream))
    spike = Spike(coordinate.layer, token, coordinate.out, *columns)
    most, _ = contributions(now, spike, 1)
    share = _share(now, spike, coordinate)
    if not most or most[0].share < MIN_SHARE:
        return f"no single weight makes the spike of its channel (ratio {spike.ratio:.0f}); its share is {share:.0%}"
    (largest,) = most
    if largest.coordinate not in search.coordinates:
        return f"the search reached its limit (--max-weights) before it; it makes {share:.0%} of its channel's spike"
    order = 1 + search.coordinates.index(largest.coordinate)
    return (
        f"removal {order}, {largest.coordinate}, makes the spike of its channel (share {largest.share:.0%}; "
        f"its own is {share:.0%})"
    )


def _share(now: Activations, spike: Spike, coordinate: Coordinate) -> float:
    """What a weight gives to a spike, over the spike; negative where it works against it."""
    weight = float(now.down.matrix(coordinate.expert)[coordinate.out, coordinate.in_])
    return float(given(now.inputs, coordinate, weight, now.output)[spike.token]) / spike.value
