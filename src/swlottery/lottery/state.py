"""The state of a run: what it is made of, and how it is saved and found again.

A checkpoint stands at a step boundary, behind the evaluation of that step; or before it, if the run was asked to stop.
θ_0, θ_k and the masks stand in files of the run that never change.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.data.tokens import Tokens, validation_windows
from swlottery.lottery import masks as masking
from swlottery.lottery.entries import Place
from swlottery.lottery.masks import Masks
from swlottery.lottery.prune import Pruner, down_names, planned
from swlottery.lottery.scope import in_scope
from swlottery.lottery.start import Network
from swlottery.lottery.training import Training
from swlottery.models.coordinates import Coordinate
from swlottery.models.lineage import tensors_sha256
from swlottery.runtime import checkpoint, files
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never
from swlottery.runtime.tables import Tables
from swlottery.watch import controls as control
from swlottery.watch.controls import Controls
from swlottery.watch.rows import Followed

if TYPE_CHECKING:
    from torch import Tensor

Event = dict[str, Any]


@dataclass
class State:
    """What a checkpoint says beside tensors.

    owed: the evaluation of this step is still to come. losses: of the steps since the last evaluation. wall: seconds since
    the run began (what was done again is not counted twice), busy: those in training steps; round_began: the wall at the
    start of the round. pruned, threshold: of the prune that made the present mask. fates: of the followed weights that were
    pruned so far. tables: the byte lengths of the tables.
    """

    round: int = 1
    step: int = 0
    owed: bool = False
    losses: list[float] = field(default_factory=list)
    norm: float | None = None
    wall: float = 0.0
    busy: float = 0.0
    round_began: float = 0.0
    followed: list[Followed] = field(default_factory=list)
    controls: list[Controls] = field(default_factory=list)
    protected: list[Coordinate] = field(default_factory=list)
    forced: list[Coordinate] = field(default_factory=list)
    pruned: int | None = None
    threshold: float | None = None
    fates: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> State:
        """From a checkpoint's manifest."""
        state = cls(**{name: content[name] for name in cls.__dataclass_fields__})
        state.followed = [
            Followed(one["kind"], Coordinate(*one["coordinate"]), Coordinate(*one["of"]) if one["of"] else None)
            for one in content["followed"]
        ]
        state.controls = [
            Controls(Coordinate(*one["of"]), one["kind"], [Coordinate(*c) for c in one["coordinates"]], one["gap"])
            for one in content["controls"]
        ]
        state.protected = [Coordinate(*c) for c in content["protected"]]
        state.forced = [Coordinate(*c) for c in content["forced"]]
        return state


class Run:
    """Everything that a run is made of. Building one takes up what its folder holds.

    Every rank has one; only the lead's writes files. asked: whether this process was asked to stop.

    since, gradients, moments: of the down-projections, at the last evaluation, and at the last step if an evaluation
    follows it; by parameter name.
    """

    def __init__(
        self,
        network: Network,
        data: Tokens,
        settings: TrainSettings,
        folder: Path,
        environment: dict[str, Any],
        complain: Callable[[str], None] = print,
        ranks: Ranks | None = None,
        asked: Asked = never,
    ) -> None:
        self.network, self.data, self.settings, self.folder = network, data, settings, folder
        self.environment, self.ranks, self.asked = environment, ranks or Ranks(), asked
        self.parameters = network.parameters
        self.windows = validation_windows(data.validation, network.context, settings.eval_sequences)
        self.scope = in_scope(network.model, network.roles, settings.scope)
        self.pruner = Pruner(network, self.scope, settings)
        self.names = down_names(network)
        self.downs = {name: self.parameters[name] for name in self.names.values()}
        self.since: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.moments: dict[str, Tensor] = {}
        self.paces: deque[float] = deque(maxlen=100)
        self.last: Event = {}
        for kind in ("masks", "checkpoints"):
            (folder / kind).mkdir(exist_ok=True)
        newest = self.ranks.decide(lambda: checkpoint.newest(folder / "checkpoints", complain))
        saved = checkpoint.read(newest) if newest is not None else None
        self.resumed = saved is not None
        self.state = State() if saved is None else State.read(saved[0])
        self.masks = masking.full(self.scope) if saved is None else self._stored_masks(self.state.round - 1)
        self.pruner.protected, self.pruner.forced = self.state.protected, self.state.forced
        self.training = Training(network, self.masks, settings, data.train, self.ranks, environment.get("dtype"))
        if saved is not None:
            self._take_up(saved[1])
        self.tables = Tables(folder if self.ranks.lead else None, self.state.tables)
        self.saved_at = self.ticked_at = time.monotonic()
        self.writer = checkpoint.Writer(folder / "checkpoints")
        self.writer.place = None if saved is None else (self.state.round, self.state.step)

    def begin(self) -> None:
        """Before the first step of a new run: store θ_0 and m_0, and count what the prunes will take."""
        self.write_tensors("theta_0.safetensors", self.parameters)
        self.set_masks(self.masks, 0)
        masking.apply(self.masks, self.parameters)

    def set_masks(self, masks: Masks, number: int) -> None:
        """Store m_number, and train under it from now on."""
        tensors, shapes = masking.pack(masks)
        self.ranks.same(lambda: tensors_sha256(tensors.items()), f"masks m_{number}")
        self.write_tensors(f"masks/round_{number}.safetensors", tensors, shapes)
        self.masks = masks
        self.training.set_masks(masks)

    def write_tensors(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """A file of the run's folder, written by the lead, and there for every rank when this returns."""
        if self.ranks.lead:
            files.write_tensors(self.folder / name, tensors, metadata)
        self.ranks.meet()

    @property
    def has_begun(self) -> bool:
        """Whether m_0 is there."""
        return (self.folder / "masks" / "round_0.safetensors").exists()

    @cached_property
    def plan(self) -> tuple[list[int], int]:
        """How many weights each prune of the run takes, in order, and what one more would take."""
        return planned(self.settings, masking.remaining(self._stored_masks(0)))

    @property
    def prunes(self) -> int:
        """How many prunes the run has."""
        return len(self.plan[0])

    def count(self, round_: int) -> int:
        """How many weights go at the end of a round; after the final ticket, how many would."""
        counts, one_more = self.plan
        return counts[round_ - 1] if round_ <= len(counts) else one_more

    def first_step(self, round_: int) -> int:
        """Where a round's training starts: k, but 0 in the first round."""
        return 0 if round_ == 1 else self.settings.rewind_step

    def record(self, event: str, **content: Any) -> Event:
        """Append an event to the run's history, and hand it back."""
        whole = {"event": event, **content}
        self.tables.event(whole)
        if event == "evaluation":
            self.last = whole
        return whole

    @property
    def pace(self) -> float | None:
        """Seconds of a step, from the last hundred; None before the first."""
        return sum(self.paces) / len(self.paces) if self.paces else None

    @property
    def main(self) -> list[Followed]:
        """The followed weights without controls."""
        return [one for one in self.state.followed if not one.is_control]

    def matrices(self, tensors: Mapping[str, Tensor]) -> dict[Place, Tensor]:
        """Tensors of the down-projections, by parameter name, as ``[out, in]`` matrices by (layer, expert)."""
        return control.matrices(self.network.roles.downs, tensors, self.names)

    @property
    def weights(self) -> dict[Place, Tensor]:
        """The down-projections as they are now, as such matrices."""
        return {place: matrix.detach() for place, matrix in self.matrices(self.downs).items()}

    @cached_property
    def initial(self) -> dict[Place, Tensor]:
        """The down-projections of θ_0, as such matrices: looked at by every evaluation, and read once."""
        return self.matrices(self.theta(0, self.downs))

    def theta(self, step: int, names: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """θ_0 or θ_k from the run's folder, all or only the tensors of these names, on the run's device."""
        from safetensors import safe_open

        path = self.folder / f"theta_{'k' if step else '0'}.safetensors"
        with safe_open(path, framework="pt", device=str(self.training.device)) as file:
            return {name: file.get_tensor(name) for name in (self.parameters if names is None else names)}

    def see_gradients(self) -> None:
        """Keep the down-projections' gradients: complete and masked, not yet clipped."""
        self.gradients = {name: p.grad.detach().clone() for name, p in self.downs.items() if p.grad is not None}

    def forget_interval(self) -> None:
        """An evaluation is done: what is averaged until the next one starts here."""
        self.state.owed, self.state.losses = False, []
        self.gradients, self.moments = {}, {}
        self.since = {name: p.detach().clone() for name, p in self.downs.items()}

    def save(self) -> None:
        """Have a checkpoint written of how the run stands now; masked weights are exactly zero in it, which is checked.

        It is written while the run goes on: `settle` waits for it.
        """
        self.settle()
        self.check_masked()
        self.ranks.same(lambda: tensors_sha256(self.parameters.items()), "weights")
        self.tick()
        self.saved_at = time.monotonic()
        if not self.ranks.lead:
            return
        self.state.tables = self.tables.lengths()
        tensors: dict[str, Tensor] = {f"w/{name}": p for name, p in self.parameters.items()}
        tensors |= self.training.moments() | {f"s/{name}": tensor for name, tensor in self.since.items()}
        tensors |= {f"g/{name}": tensor for name, tensor in self.gradients.items()}
        self.writer.save(self.state.round, self.state.step, tensors, asdict(self.state))

    def settle(self) -> None:
        """Come back when the last checkpoint is on disk. What kept it from there is raised, on every rank."""
        self.ranks.decide(self.writer.wait)

    @property
    def saved_where(self) -> str:
        """The newest checkpoint that is on disk, in words."""
        if self.writer.place is None:
            return "nothing was saved yet: the run begins anew"
        round_, step = self.writer.place
        return f"saved at step {step:,} of round {round_}"

    def close(self) -> None:
        """Let go of the run's files, when all that was begun is written. For every end, also one by an error."""
        self.writer.close()
        self.tables.close()

    def check_masked(self) -> None:
        """Masked weights are exactly zero; anything else is a defect of the training loop."""
        if masking.violations(self.masks, self.parameters):
            raise AssertionError("a masked weight is not zero: a defect of the training loop")

    def tick(self) -> float:
        """Bring the run's clock up to now, and read it: seconds since the run began."""
        now = time.monotonic()
        self.state.wall, self.ticked_at = self.state.wall + now - self.ticked_at, now
        return self.state.wall

    def take_step(self, step: int, round_: int, see: bool) -> None:
        """One step of training. see: keep the gradients of the down-projections, an evaluation follows."""
        started = time.monotonic()
        self.ranks.where = f"step {step + 1} of round {round_}"
        loss, self.state.norm = self.training.step(step, round_, self.see_gradients if see else None)
        self.state.losses.append(loss)
        self.state.step = step + 1
        took = time.monotonic() - started
        self.state.busy += took
        self.paces.append(took)

    def save_if_due(self, only_if_asked: bool = False) -> None:
        """Write a checkpoint if the last one is as old as it may become, or if the run is to stop: then `Stopped`."""
        steps = self.state.step - self.first_step(self.state.round)
        late = self.ranks.lead and time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
        stopping, late, failed = self.ranks.any(self.asked(), late, self.writer.failed)
        if failed:
            self.settle()
        if stopping or (not only_if_asked and (late or steps % self.settings.checkpoint_steps == 0)):
            self.save()
        if stopping:
            raise Stopped

    def leave_if_asked(self) -> None:
        """`Stopped` if any rank was asked to; for places between checkpoints, the newest of which stands."""
        if self.ranks.any(self.asked())[0]:
            raise Stopped

    def save_model(self, target: Path) -> None:
        """A folder that ``from_pretrained`` loads, there whole or not at all; for the lead."""
        unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with files.system_errors():
                self.network.model.save_pretrained(unfinished)
            self.network.tokenizer.save_pretrained(unfinished)
            for path in (*unfinished.iterdir(), unfinished):
                files.sync(path)
            if target.exists():
                shutil.rmtree(target)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        files.sync(target.parent)

    def _stored_masks(self, number: int) -> Masks:
        device = next(iter(self.parameters.values())).device
        stored = masking.load(self.folder / "masks" / f"round_{number}.safetensors")
        return {name: stored[name].to(device) for name in self.scope}

    def _take_up(self, tensors: Mapping[str, Tensor]) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"w/{name}"])
        self.training.set_moments(dict(tensors))
        self.since = {name: tensors[f"s/{name}"].to(p.device) for name, p in self.downs.items()}
        self.gradients = {
            name: tensors[f"g/{name}"].to(p.device) for name, p in self.downs.items() if f"g/{name}" in tensors
        }
