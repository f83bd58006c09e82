"""How far a run is: where it stands, what it has gathered since the last evaluation, and what a checkpoint holds of it.

The masks are in no checkpoint: they have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from swlottery.lottery.arms import Arms
from swlottery.lottery.prune import Pruner
from swlottery.lottery.training import Training
from swlottery.runtime.clock import Clock

if TYPE_CHECKING:
    from torch import Tensor

    from swlottery.lottery.recorder import Recorder


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


@dataclass
class Progress:
    """All that changes in a run. Only the loop and the keeper see it."""

    position: Position
    interval: Interval
    training: Training
    pruner: Pruner
    recorder: Recorder
    clock: Clock

    def tensors(self) -> dict[str, Tensor]:
        """References to what a checkpoint holds: ``w/``, ``m/``, ``v/``, ``t/``, ``s/`` and ``g/`` with a name each."""
        kinds: dict[str, Mapping[str, Tensor]] = {
            "w": self.training.network.parameters,
            "s": self.interval.since,
            "g": self.interval.gradients,
        }
        named = {f"{kind}/{name}": tensor for kind, of in kinds.items() for name, tensor in of.items()}
        return named | self.training.moments()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors: JSON, a copy."""
        return {
            "position": asdict(self.position),
            "losses": list(self.interval.losses),
            "arms": asdict(self.pruner.arms),
            "clock": self.clock.state(),
            "recorder": self.recorder.state(),
        }

    def take_up(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state` and `tensors`."""
        vars(self.position).update(state["position"])
        self.pruner.arms = Arms.read(state["arms"])
        self.clock.take_up(state["clock"])
        self.recorder.take_up(state["recorder"])
        device = self.training.device
        network = self.training.network
        network.set_weights({name: tensors[f"w/{name}"] for name in network.parameters})
        self.training.set_moments(tensors)
        self.interval.losses = list(state["losses"])
        self.interval.since, self.interval.gradients = (
            {name[2:]: tensor.to(device) for name, tensor in tensors.items() if name.startswith(kind)}
            for kind in ("s/", "g/")
        )
