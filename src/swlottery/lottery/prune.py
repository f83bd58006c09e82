"""One prune: exactly floor(p · remaining) weights, and what it says about every matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.lottery import masks as masking
from swlottery.lottery.criteria import CRITERIA
from swlottery.lottery.entries import Place, read_alive
from swlottery.lottery.masks import Masks
from swlottery.lottery.select import prune_count, select
from swlottery.lottery.start import Network
from swlottery.models.coordinates import Coordinate
from swlottery.watch.tracked import place_in_storage

if TYPE_CHECKING:
    from torch import Tensor, nn


def planned(settings: TrainSettings, remaining: int) -> tuple[list[int], int]:
    """How many weights each prune takes, from ``remaining`` before the first; and what one more would take after the
    last, at its rate, for the threshold beside the final ticket.

    --one-shot takes in one prune what the rounds would take together, to the same count.
    """
    counts = []
    for rate in settings.rates():
        counts.append(prune_count(remaining, rate))
        remaining -= counts[-1]
    one_more = prune_count(remaining, settings.rates()[-1])
    return [sum(counts)] if settings.one_shot else counts, one_more


class Pruner:
    """Decides which weights go; touches no weight and no mask.

    protected: never pruned; the count still goes. forced: go with the next prune, and count.
    """

    def __init__(self, network: Network, scope: Mapping[str, nn.Parameter], settings: TrainSettings) -> None:
        self.network, self.scope, self.settings = network, scope, settings
        self.criterion = CRITERIA[settings.criterion]
        self.protected: list[Coordinate] = []
        self.forced: list[Coordinate] = []

    def prune(self, masks: Masks, count: int) -> Masks:
        """The masks after a prune of ``count`` weights."""
        forced = self.without(masks, self.forced)
        gone = masking.remaining(masks) - masking.remaining(forced) if self.forced else 0
        if count < gone:
            raise BadInput(f"a prune of {count} weights cannot force-prune {gone}: raise --prune-rate")
        protected = self._positions(self.protected)
        return select(self.scope, forced, count - gone, self.settings.seed, self.criterion, protected).masks

    def without(self, masks: Masks, coordinates: Iterable[Coordinate]) -> Masks:
        """Masks with these weights masked too."""
        new = dict(masks)
        for name, positions in self._positions(coordinates).items():
            new[name] = new[name].clone()
            new[name].view(-1)[positions] = False
        return new

    def thresholds(self, before: Masks, after: Masks) -> tuple[float, dict[str, float]]:
        """The largest |w| that goes by its rank, in all and by tensor; the latter is the former under a global
        criterion. What is force-pruned goes whatever its size, and says nothing about it."""
        import torch

        before = self.without(before, self.forced)
        sizes = [_largest(self.scope[name], before[name] & ~after[name]) for name in before]
        each = dict(zip(before, torch.stack(sizes).tolist(), strict=True))
        largest = max(each.values())
        return largest, each if self.criterion.per_tensor else dict.fromkeys(each, largest)

    def _positions(self, coordinates: Iterable[Coordinate]) -> dict[str, Tensor]:
        import torch

        found: dict[str, list[int]] = {}
        names = down_names(self.network)
        for c in coordinates:
            down = self.network.roles.downs[c.layer]
            at = place_in_storage(down.matrix(c.expert), down.weight.data, c)
            found.setdefault(names[c.layer], []).append(at)
        return {name: torch.tensor(sorted(set(positions))) for name, positions in found.items()}


def down_names(network: Network) -> dict[int, str]:
    """The parameter name of each layer's down-projection."""
    names = {id(p): name for name, p in network.parameters.items()}
    return {down.layer: names[id(down.weight)] for down in network.roles.downs}


def _largest(weight: Tensor, gone: Tensor) -> Tensor:
    """The largest |w| that goes; 0 where none does."""
    return weight.detach().abs().masked_fill_(~gone, 0.0).amax()


def keep_rates(before: Masks, after: Masks) -> dict[str, dict[str, int]]:
    """Of every tensor in scope how many weights remained before a prune, and how many after it."""
    had, have = masking.counts(before), masking.counts(after)
    return {name: {"before": had[name], "kept": have[name]} for name in before}


def count_alive(alive: Mapping[Place, Tensor], coordinates: Sequence[Coordinate]) -> int:
    """How many of the coordinates remain."""
    return sum(read_alive(alive, coordinates, elsewhere=False))


def row(masks: Masks, pruned: int | None, threshold: float | None) -> dict[str, Any]:
    """What rounds.csv says about a mask and the prune that made it."""
    total, remaining = masking.total(masks), masking.remaining(masks)
    fraction = remaining / total
    return {
        "total": total, "remaining": remaining, "remaining_fraction": fraction, "sparsity": 1 - fraction,
        "pruned": pruned, "threshold": threshold,
    }  # fmt: skip
