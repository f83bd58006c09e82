"""What a run stores in its folder, for the lottery: the one place that knows the names of these files."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.lottery import branch
from swlottery.lottery import masks as masking
from swlottery.lottery.masks import Masks
from swlottery.lottery.progress import Progress
from swlottery.lottery.snapshot import Snapshot
from swlottery.lottery.start import Network
from swlottery.models.lineage import tensors_sha256
from swlottery.runtime import checkpoint, files
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never
from swlottery.runtime.tables import Tables

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCHEMA = 1
"""Of the manifest of a checkpoint. Those of version 0.2 and before have none."""


class FolderKeeper:
    """The `Keeper` of a run's folder. Every rank has one; only the lead's writes files.

    place: (round, step) of the checkpoint that the run goes on from; None for a new run. tables: those of the run, cut
    back to where they were at that checkpoint.

    Raises:
        BadInput: the run was begun by a version whose checkpoints this one does not read.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        device: torch.device,
        complain: Callable[[str], None] = print,
        ranks: Ranks | None = None,
        asked: Asked = never,
    ) -> None:
        self.folder, self.settings, self.device = folder, settings, device
        self.ranks, self.asked = ranks or Ranks(), asked
        for kind in ("masks", "checkpoints"):
            (folder / kind).mkdir(exist_ok=True)
        self._writer = checkpoint.Writer(folder / "checkpoints")
        self._saved_at = time.monotonic()
        self._newest = self.ranks.decide(lambda: checkpoint.newest(folder / "checkpoints", complain))
        state: dict[str, Any] = {"tables": {}} if self._newest is None else checkpoint.read_state(self._newest)
        if self._newest is not None:
            if state.get("schema") != SCHEMA:
                raise BadInput(
                    f"{folder} was begun by another version of swlottery, whose checkpoints this one cannot read: "
                    "finish it with that version, or give --runs another folder"
                )
            self._writer.place = state["round"], state["step"]
        self.place = self._writer.place
        self.tables = Tables(folder if self.ranks.lead else None, state["tables"])

    # --- checkpoints

    def take_up(self, progress: Progress) -> bool:
        """Set ``progress`` to the newest checkpoint; False where there is none."""
        if self._newest is None:
            return False
        progress.take_up(*checkpoint.read(self._newest))
        return True

    def save(self, progress: Progress) -> None:
        """Have a checkpoint written; masked weights are exactly zero in it, which is checked.

        It is written while the run goes on: `settle` waits for it.
        """
        self.settle()
        progress.training.check_masked()
        parameters = progress.training.network.parameters
        self.ranks.same(lambda: tensors_sha256(parameters.items()), "weights")
        progress.clock.tick()
        self._saved_at = time.monotonic()
        if self.ranks.lead:
            state = {"schema": SCHEMA, "tables": self.tables.lengths(), **progress.state()}
            self._writer.save(progress.position.round, progress.position.step, progress.tensors(), state)

    def boundary(self, progress: Progress, only_if_asked: bool) -> None:
        """Save if the last checkpoint is as old as it may become, or if the run is to stop: then raise `Stopped`."""
        position, every = progress.position, self.settings.checkpoint_steps
        steps = position.step - (0 if position.round == 1 else self.settings.rewind_step)
        late = self.ranks.lead and time.monotonic() - self._saved_at >= self.settings.checkpoint_seconds
        stopping, late, failed = self.ranks.any(self.asked(), late, self._writer.failed)
        if failed:
            self.settle()
        if stopping or (not only_if_asked and (late or steps % every == 0)):
            self.save(progress)
        if stopping:
            raise Stopped

    def leave_if_asked(self) -> None:
        """Raise `Stopped` if any rank was asked to stop; the last checkpoint counts."""
        if self.ranks.any(self.asked())[0]:
            raise Stopped

    def settle(self) -> None:
        """Come back when the last checkpoint is on disk. What kept it from there is raised, on every rank."""
        self.ranks.decide(self._writer.wait)

    @property
    def saved_where(self) -> str:
        """The newest checkpoint that is on disk, in words."""
        if self._writer.place is None:
            return "nothing was saved yet: the run begins anew"
        round_, step = self._writer.place
        return f"saved at step {step:,} of round {round_}"

    def close(self) -> None:
        """Let go of the run's files, when all that was begun is written. For every end, also one by an error."""
        self._writer.close()
        self.tables.close()

    # --- files that never change

    def write_masks(self, masks: Masks, number: int) -> None:
        """Store m_number, which has to be the same on every rank."""
        tensors, shapes = masking.pack(masks)
        self.ranks.same(lambda: tensors_sha256(tensors.items()), f"masks m_{number}")
        self._write_tensors(self._masks(number), tensors, shapes)

    def masks(self, number: int) -> Masks:
        """m_number, on the run's device."""
        return {name: mask.to(self.device) for name, mask in masking.load(self._masks(number)).items()}

    def write_theta(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Store θ_0, or θ_k for any other ``step``."""
        self._write_tensors(self._theta(step), parameters)

    def theta(self, step: int, names: Collection[str]) -> dict[str, Tensor]:
        """These tensors of θ_0, or of θ_k for any other ``step``, on the run's device."""
        from safetensors import safe_open

        with safe_open(self._theta(step), framework="pt", device=str(self.device)) as file:
            return {name: file.get_tensor(name) for name in names}

    def write_round_1(self, network: Network, now: Snapshot, losses: list[float]) -> None:
        """Store the trained network of round 1; once: a branch has its own copy, a run killed here wrote the same."""
        target = self.folder / "round_1"
        if self.ranks.lead and not (target / "round.json").exists():
            branch.write(target, network, now, losses)

    def read_round_1(self, source: Path, progress: Progress) -> None:
        """Set ``progress`` to the end of the first training in ``source``, and copy that: this run needs no other."""
        branch.read(source, progress.training.network, progress.position, progress.interval)
        progress.position.step = self.settings.steps
        if not self.ranks.lead:
            return
        if self.settings.rewind_step:
            theta_k = source.parent / "theta_k.safetensors"
            files.write(self._theta(self.settings.rewind_step), lambda copy: shutil.copyfile(theta_k, copy))
        copytree = functools.partial(shutil.copytree, source, dirs_exist_ok=True)
        files.write_folder(self.folder / "round_1", copytree)

    def write_final(self, network: Network) -> None:
        """Store the trained final ticket as a folder that ``from_pretrained`` loads."""
        if self.ranks.lead:
            network.save(self.folder / "final")

    def history(self) -> list[dict[str, Any]]:
        """The run's events so far."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_bytes().splitlines()]

    def _masks(self, number: int) -> Path:
        return self.folder / "masks" / f"round_{number}.safetensors"

    def _theta(self, step: int) -> Path:
        return self.folder / f"theta_{'k' if step else '0'}.safetensors"

    def _write_tensors(
        self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Written by the lead, and there for every rank when this returns."""
        if self.ranks.lead:
            files.write_tensors(path, tensors, metadata)
        self.ranks.barrier()
