"""A keeper stores what a run needs to go on: with `Recorder` the only way from the method to the outside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from swlottery.lottery.masks import Masks
from swlottery.lottery.progress import Progress
from swlottery.lottery.recorder import Snapshot
from swlottery.lottery.start import Network

if TYPE_CHECKING:
    from torch import Tensor


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

    def write_trace(self, step: int, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Keep what `trace.kept` says of a step until `drop_traces`; a step that is done again overwrites it."""

    def traces(self, steps: Sequence[int]) -> dict[str, Any] | None:
        """The rows of the trace of these steps, and what it cost; of a branch (none) its parent's. None: no trace."""

    def drop_traces(self) -> None:
        """Remove what `write_trace` has kept."""

    def write_round_1(
        self, network: Network, now: Snapshot, losses: list[float], traced: Mapping[str, Any] | None
    ) -> None:
        """Store the trained network of round 1 and its trace, for other runs to branch from."""

    def read_round_1(self, source: Path, progress: Progress) -> None:
        """Set ``progress`` to the end of the first training that ``source`` holds."""

    def write_final(self, network: Network) -> None:
        """Store the trained final ticket."""
