"""How far a run is: what of the method a checkpoint holds, beside the masks, which have files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from swlottery.lottery.arms import Arms
from swlottery.lottery.position import Interval, Position
from swlottery.lottery.prune import Pruner
from swlottery.lottery.recorder import Recorder
from swlottery.lottery.training import Training
from swlottery.runtime.clock import Clock

if TYPE_CHECKING:
    from torch import Tensor


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
        import torch

        vars(self.position).update(state["position"])
        self.pruner.arms = Arms.read(state["arms"])
        self.clock.take_up(state["clock"])
        self.recorder.take_up(state["recorder"])
        device = self.training.device
        with torch.no_grad():
            for name, parameter in self.training.network.parameters.items():
                parameter.copy_(tensors[f"w/{name}"])
        self.training.set_moments(tensors)
        self.interval.losses = list(state["losses"])
        self.interval.since, self.interval.gradients = (
            {name[2:]: tensor.to(device) for name, tensor in tensors.items() if name.startswith(kind)}
            for kind in ("s/", "g/")
        )
