"""Where a run is, and what it has gathered since the last evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Position:
    """Where the run is.

    evaluation_due: the evaluation of this step is still to come.
    pruned, threshold: of the prune that made the present masks; None before the first.
    norm: the gradient's at the last step.
    """

    round: int = 1
    step: int = 0
    evaluation_due: bool = False
    pruned: int | None = None
    threshold: float | None = None
    norm: float | None = None


@dataclass
class Interval:
    """What has been gathered since the last evaluation, or since the round's start.

    losses: one a step. Of the down-projections, by parameter name: since, the weights as they were then; gradients,
    those of the last step if an evaluation follows it; moments, only in a run that branches: otherwise the optimizer
    has them.
    """

    losses: list[float] = field(default_factory=list)
    since: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)

    def restart(self, downs: Mapping[str, Tensor]) -> None:
        """An evaluation is done. What is no longer needed goes before anything is copied, to save memory."""
        self.losses, self.gradients, self.moments, self.since = [], {}, {}, {}
        self.since = {name: parameter.detach().clone() for name, parameter in downs.items()}

    def see_gradients(self, downs: Mapping[str, Tensor]) -> None:
        """Keep the gradients as they are now."""
        self.gradients = {name: p.grad.detach().clone() for name, p in downs.items() if p.grad is not None}
