"""A recorder hears what happens in a run: with `Keeper` the only way from the method to the outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from swlottery.lottery.masks import Masks
from swlottery.lottery.progress import Position
from swlottery.lottery.snapshot import Snapshot, Start

if TYPE_CHECKING:
    from torch import Tensor


class Recorder(Protocol):
    """Hears what happens, in this order, on every rank. Changes nothing, raises no `Stopped`, waits for nobody."""

    def started(self, start: Start) -> None:
        """A new run has its first masks. Not called in a run that goes on."""

    def round_started(self, round: int, step: int, weights: Mapping[str, Tensor], masks: Masks) -> None:
        """A round is at its first step, not yet evaluated."""

    def stepped(self, round: int, step: int, steps: int) -> None:
        """A training step is done."""

    def evaluated(self, now: Snapshot) -> None:
        """An evaluation within a round, or before its first step."""

    def trained(self, now: Snapshot, position: Position, seconds: float) -> None:
        """The evaluation at a round's last step, and how long the round took."""

    def looked(self, round: int, kind: str, weights: list[dict[str, Any]]) -> None:
        """What the finder says of the trained network: see `look`."""

    def traced(self, trace: Mapping[str, Any]) -> None:
        """When the super weights of round 1 formed: what `Keeper.traces` says."""

    def discovered(self, kind: str, weights: list[dict[str, Any]], now: Snapshot) -> None:
        """From now on these weights are tracked. Only in round 1."""

    def pruned(self, now: Snapshot) -> None:
        """What the prune of this round leaves: ``now.proposed``. A prune at the start is that of round 0."""

    def finished(self, now: Snapshot, wall: float, busy: float) -> None:
        """The final network is stored. wall: seconds of the whole run; busy: of those, in training steps."""

    def state(self) -> dict[str, Any]:
        """What has to be saved so that a resumed run records the same: JSON, a copy that never changes."""

    def take_up(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
