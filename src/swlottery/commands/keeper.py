"""What a run stores in its folder, for the lottery: the one place that knows the names of these files."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.traces import TraceKeeper
from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.lottery import branch
from swlottery.lottery import masks as masking
from swlottery.lottery.masks import Masks
from swlottery.lottery.progress import Progress
from swlottery.lottery.recorder import Snapshot
from swlottery.lottery.start import Network
from swlottery.models.lineage import tensors_sha256
from swlottery.report.logs.card import card
from swlottery.report.run_files import read_events
from swlottery.runtime import checkpoint, files, sums
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never
from swlottery.runtime.tables import Tables

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
"""Of the manifest of a checkpoint. 1 has no hashes of tables and files. Those of version 0.2 and before have none."""


class FolderKeeper(TraceKeeper):
    """The `Keeper` of a run's folder. Every rank has one; only the lead's writes files.

    network: at step 0.

    place: (round, step) of the checkpoint that the run goes on from; None for a new run. tables: those of the run, cut
    back to where they were at that checkpoint.

    Raises:
        BadInput: the run was begun by a version whose checkpoints this one does not read.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        network: Network,
        complain: Callable[[str], None] = print,
        ranks: Ranks | None = None,
        asked: Asked = never,
    ) -> None:
        self.folder, self.settings, self.device = folder, settings, network.device
        self.network, self._complain = network, complain
        self.ranks, self.asked = ranks or Ranks(), asked
        for kind in ("masks", "checkpoints"):
            (folder / kind).mkdir(exist_ok=True)
        self._writer = checkpoint.Writer(folder / "checkpoints")
        self._saved_at = time.monotonic()
        self._newest = self.ranks.decide(lambda: checkpoint.newest(folder / "checkpoints", complain, self._damaged))
        state: dict[str, Any] = {"tables": {}} if self._newest is None else sums.read_sealed(self._newest)
        if self._newest is not None:
            if state.get("schema") not in (1, SCHEMA):
                raise BadInput(
                    f"{folder} was begun by another version of swlottery, whose checkpoints this one cannot read: "
                    "finish it with that version, or give --runs another folder"
                )
            self._writer.place = state["round"], state["step"]
        self.place = self._writer.place
        self.tables = Tables(folder if self.ranks.lead else None, state["tables"])
        self._files: dict[str, str] = state.get("files", {})  # the hashes of what never changes

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
            state = {"schema": SCHEMA, "tables": self.tables.lengths(), "hashes": self.tables.hashes()}
            state |= {"files": dict(self._files), **progress.state()}
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

    def finish(self) -> None:
        """Write SHA256SUMS, when everything else is on disk. Called on the lead."""
        self.tables.lengths()
        known = self._files | self.tables.hashes()
        others = sums.names(self.folder, "masks/**", "round_1/**", "final/**", "theta_*", "code*.diff")
        names = ["settings.json", "environment.json", *known, *others]
        sums.write(self.folder, {name: known.get(name) or files.file_sha256(self.folder / name) for name in names})

    def _damaged(self, state: dict[str, Any]) -> str | None:
        """The first of the files that a checkpoint needs which is not as it was then; θ_0 may be made again."""
        if state.get("schema") != SCHEMA:
            return None
        known, theta_0 = state["files"] | state["hashes"], self._theta(0)
        name = sums.damaged(self.folder, known, state["tables"])
        if name == theta_0.name:
            with contextlib.suppress(ValueError):
                files.write_tensors(theta_0, self.network.parameters, sha256=known[name])
                self._complain(f"{theta_0} was damaged, and is made again from the network")
                name = sums.damaged(self.folder, known, state["tables"])
        return name

    # --- files that never change

    def write_masks(self, masks: Masks, number: int) -> None:
        """Store m_number, which has to be the same on every rank."""
        tensors, shapes = masking.pack(masks)
        self.ranks.same(lambda: tensors_sha256(tensors.items()), f"masks m_{number}")
        self._write_tensors(self._masks(number), tensors, shapes)

    def masks(self, number: int) -> Masks:
        """m_number, on the run's device."""
        self._check(self._masks(number))
        return {name: mask.to(self.device) for name, mask in masking.load(self._masks(number)).items()}

    def write_theta(self, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Store θ_0, or θ_k for any other ``step``."""
        self._write_tensors(self._theta(step), parameters)

    def theta(self, step: int, names: Collection[str]) -> dict[str, Tensor]:
        """These tensors of θ_0, or of θ_k for any other ``step``, on the run's device."""
        from safetensors import safe_open

        self._check(self._theta(step))
        with safe_open(self._theta(step), framework="pt", device=str(self.device)) as file:
            return {name: file.get_tensor(name) for name in names}

    def write_round_1(
        self, network: Network, now: Snapshot, losses: list[float], traced: Mapping[str, Any] | None
    ) -> None:
        """Store the trained network of round 1; a branch has its own copy."""

        def write() -> None:
            if "round_1/round.json" not in self._files:
                branch.write(self.folder / "round_1", network, now, losses, (traced or {}).get("rows"))
                self._wrote("round_1/**")

        self.ranks.decide(write)

    def read_round_1(self, source: Path, progress: Progress) -> None:
        """Set ``progress`` to the end of the first training in ``source``, and copy that: this run needs no other."""
        parent, theta_k = source.parent, ["theta_k.safetensors"] if self.settings.rewind_step else []
        for needed in ("round_1", *theta_k):
            self.ranks.decide(functools.partial(sums.check, parent / needed))
        branch.read(source, progress.training.network, progress.position, progress.interval)
        progress.position.step = self.settings.steps

        def copy() -> None:
            # round.json comes last: with it all is there.
            for name in (*theta_k, *sorted(sums.names(parent, "round_1/**"), key="round_1/round.json".__eq__)):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                files.write(self.folder / name, functools.partial(shutil.copyfile, parent / name))
                self._wrote(name)

        self.ranks.decide(copy)

    def write_final(self, network: Network) -> None:
        """Store the trained final ticket as a folder that ``from_pretrained`` loads."""
        self.ranks.decide(lambda: network.save(self.folder / "final", card(self.folder, self.settings, self.history())))

    def history(self) -> list[dict[str, Any]]:
        """The run's events so far."""
        return list(read_events(self.folder))

    def _check(self, path: Path) -> None:
        """Raise `BadInput`, on every rank, where a file that never changes is not as it was written."""

        def check() -> None:
            name = path.relative_to(self.folder).as_posix()
            if name in self._files and files.file_sha256(path) != self._files[name]:
                raise BadInput(f"{path} is damaged: take it from a copy, or run the same again")

        self.ranks.decide(check)

    def _wrote(self, pattern: str) -> None:
        """Keep the hashes of files that never change."""
        self._files |= {name: files.file_sha256(self.folder / name) for name in sums.names(self.folder, pattern)}

    def _masks(self, number: int) -> Path:
        return self.folder / "masks" / f"round_{number}.safetensors"

    def _theta(self, step: int) -> Path:
        return self.folder / f"theta_{'k' if step else '0'}.safetensors"

    def _write_tensors(
        self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Written by the lead, and there for every rank when this returns."""

        def write() -> None:
            files.write_tensors(path, tensors, metadata)
            self._wrote(path.relative_to(self.folder).as_posix())

        self.ranks.decide(write)
