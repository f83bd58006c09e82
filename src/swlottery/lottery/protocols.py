"""The two ways from the method to the outside: a recorder hears what happens, a keeper stores it.

Both are asked on every rank, with the same arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swlottery.lottery.masks import Masks
from swlottery.lottery.snapshot import Snapshot, Start
from swlottery.lottery.start import Network

if TYPE_CHECKING:
    from torch import Tensor

    from swlottery.lottery.progress import Position, Progress


class Recorder(Protocol):
    """Hears what happens, in this order. Changes nothing, raises no `Stopped`, and waits for no other rank."""

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

    def discovered(self, kind: str, weights: list[dict[str, Any]], now: Snapshot) -> None:
        """From now on these weights are tracked. Only in round 1."""

    def pruned(self, now: Snapshot) -> None:
        """What the prune of this round leaves: ``now.proposed``, not yet stored."""

    def finished(self, now: Snapshot, wall: float, busy: float) -> None:
        """The final network is stored. wall: seconds of the whole run; busy: of those, in training steps."""

    def state(self) -> dict[str, Any]:
        """What has to be saved so that a resumed run records the same: JSON, a copy that never changes."""

    def take_up(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""


class Keeper(Protocol):
    """Stores what a run needs to go on, and says when to stop. Every method is for all ranks together."""

    def take_up(self, progress: Progress) -> bool:
        """Set ``progress`` to the newest checkpoint; False where there is none."""

    def save(self, progress: Progress) -> None:
        """Have a checkpoint written. It may still be on its way when this returns: see `settle`."""

    def boundary(self, progress: Progress, only_if_asked: bool) -> None:
        """Save if a checkpoint is due, or if the run is to stop; then raise `Stopped`."""

    def leave_if_asked(self) -> None:
        """Raise `Stopped` if the run is to stop, and save nothing: the last checkpoint counts."""

    def settle(self) -> None:
        """Come back when the last checkpoint is stored; raise what kept it from being stored."""

    def write_masks(self, masks: Masks, number: int) -> None:
        """Store m_number."""

    def masks(self, number: int) -> Masks:
        """m_number."""

    def write_theta(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Store θ_0, or θ_k for any other ``step``."""

    def theta(self, step: int, names: Collection[str]) -> dict[str, Tensor]:
        """These tensors of θ_0, or of θ_k for any other ``step``, on the run's device."""

    def write_round_1(self, network: Network, now: Snapshot, losses: list[float]) -> None:
        """Store the trained network of round 1, for other runs to branch from."""

    def read_round_1(self, source: Path, progress: Progress) -> None:
        """Set ``progress`` to the end of the first training that ``source`` holds."""

    def write_final(self, network: Network) -> None:
        """Store the trained final ticket."""
