"""What the loop hands out at an evaluation: one value, from which everything that is recorded can be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
