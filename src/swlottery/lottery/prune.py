"""One prune: exactly floor(p · remaining) weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.lottery import masks as masking
from swlottery.lottery.arms import Arms
from swlottery.lottery.criteria import CRITERIA
from swlottery.lottery.entries import Layout
from swlottery.lottery.masks import Masks
from swlottery.lottery.select import select
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from decimal import Decimal

    from torch import Tensor, nn


def prune_count(remaining: int, rate: float | Decimal | str) -> int:
    """floor(rate × remaining) in decimal arithmetic: 0.29 × 100 is 29, not the floor of 28.999….

    Raises:
        ValueError: the rate is not a number between 0 and 1.
    """
    try:
        exact = Fraction(str(rate))
    except ZeroDivisionError:
        exact = Fraction(-1)
    if not 0 <= exact <= 1:
        raise ValueError(f"a rate of {rate} is not between 0 and 1")
    return math.floor(exact * remaining)


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
    """Decides which weights go; touches no weight and no mask. arms: which go, or stay, whatever their rank."""

    def __init__(self, layout: Layout, scope: Mapping[str, nn.Parameter], settings: TrainSettings) -> None:
        self.layout, self.scope, self.settings = layout, scope, settings
        self.criterion = CRITERIA[settings.criterion]
        self.arms = Arms()

    def prune(self, masks: Masks, count: int) -> Masks:
        """The masks after a prune of ``count`` weights.

        Raises:
            BadInput: more have to be force-pruned than ``count``; or a weight that remains is not finite.
        """
        forced = self.without(masks, self.arms.forced)
        gone = masking.remaining(masks) - masking.remaining(forced) if self.arms.forced else 0
        if count < gone:
            raise BadInput(f"a prune of {count} weights cannot force-prune {gone}: raise --prune-rate")
        protected = self._positions(self.arms.protected)
        return select(self.scope, forced, count - gone, self.settings.seed, self.criterion, protected)

    def without(self, masks: Masks, coordinates: Iterable[Coordinate]) -> Masks:
        """Masks with these weights masked too."""
        new = dict(masks)
        for name, positions in self._positions(coordinates).items():
            new[name] = new[name].clone()
            new[name].view(-1)[positions] = False
        return new

    def thresholds(self, before: Masks, after: Masks) -> tuple[float, dict[str, float] | None]:
        """The largest |w| that goes by its rank: in all; and by tensor, all the same under a global criterion, None
        under one that does not look at |w|. What is force-pruned goes whatever its size, and says nothing about it."""
        import torch

        before = self.without(before, self.arms.forced)
        sizes = [_largest(self.scope[name], before[name] & ~after[name]) for name in before]
        each = dict(zip(before, torch.stack(sizes).tolist(), strict=True))
        largest = max(each.values())
        if not self.criterion.by_magnitude:
            return largest, None
        return largest, each if self.criterion.per_tensor else dict.fromkeys(each, largest)

    def _positions(self, coordinates: Iterable[Coordinate]) -> dict[str, Tensor]:
        import torch

        found: dict[str, set[int]] = {}
        for c in coordinates:
            found.setdefault(self.layout.names[c.layer], set()).add(self.layout.position(c))
        return {name: torch.tensor(sorted(positions)) for name, positions in found.items()}


def _largest(weight: Tensor, gone: Tensor) -> Tensor:
    """The largest |w| that goes; 0 where none does."""
    return weight.detach().abs().masked_fill_(~gone, 0.0).amax()
