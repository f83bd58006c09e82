"""What the loop tells of a run: to a `Recorder`, with `Keeper` the only way from the method to the outside.

At an evaluation it hands out a `Snapshot`, one value from which everything that is recorded can be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from swlottery.lottery.masks import Masks
from swlottery.lottery.progress import Position

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Start:
    """A new run before its first step. masks: m_0; counts: how many weights each later prune takes."""

    masks: Mapping[str, Tensor]
    counts: Sequence[int]
    device: str
    dtype: str


@dataclass(frozen=True)
class Snapshot:
    """The network at one evaluation. Tensors are references, good until the call returns: keep none of them.

    round, step, steps: where it is, and how many steps a round has.
    weights, masks: of every tensor in scope, by parameter name; the masks that it is trained under.
    proposed: the masks that a prune now would leave. alive: the masks that survival is read from: ``masks``, or
    ``proposed`` where a prune has just decided.
    threshold: the largest |w| that a prune now would take. thresholds: the same by tensor; None under a criterion that
    does not look at magnitudes.
    gradients, moments, since: of the down-projections, by parameter name. Gradients of the last step, complete and
    masked, not clipped; AdamW's second moments; the weights at the last evaluation. None before a round's first step.
    train_loss, val_loss: in nats a token; norm: of the last step's gradient. None before a round's first step.
    steps_left: to the end of the run. seconds_per_step: None before the first step of this process.
    """

    round: int
    step: int
    steps: int
    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    proposed: Mapping[str, Tensor]
    alive: Mapping[str, Tensor]
    threshold: float
    thresholds: Mapping[str, float] | None
    gradients: Mapping[str, Tensor] | None
    moments: Mapping[str, Tensor] | None
    since: Mapping[str, Tensor] | None
    train_loss: float | None
    val_loss: float
    norm: float | None
    steps_left: int
    seconds_per_step: float | None


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
