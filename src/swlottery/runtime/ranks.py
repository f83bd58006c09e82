"""Several processes that train one network: ``torch.distributed`` behind what a run needs of it.

Every rank does the same, on its own part of each batch. The first one, the lead, also writes the files and the log.
A collective gives all ranks the same bits, so that weights and masks stay equal without being sent around.

A rank that is gone or stuck ends all others, which name it (`swlottery.runtime.watchdog`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from swlottery.errors import BadInput
from swlottery.runtime.stop import Stopped
from swlottery.runtime.watchdog import RankLost, Watchdog

if TYPE_CHECKING:
    from swlottery.runtime.gradients import Gradients

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Which of the processes of a job this one is. size: how many there are; local, local_size: on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str], terminal: bool = True) -> Place:
        """From the variables of ``srun`` or ``torchrun``; terminal: whether this process has one.

        A batch script's own shell is no rank, but has SLURM_NTASKS and SLURM_PROCID too; only a step has the others.
        Neither is a shell in a terminal (``srun -n4 --pty bash``): its step has other tasks, which run nothing.
        ``srun torchrun`` has both kinds of variables, of which torchrun's are the inner ones.

        Raises:
            BadInput: a number that no task of so many has.
        """
        kinds = [
            ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
            ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ]
        if "TORCHELASTIC_RUN_ID" in environment:
            kinds.reverse()
        for names in kinds:
            with contextlib.suppress(KeyError, ValueError):
                rank, size, local = (int(environment[name]) for name in names[:3])
                # "4(x2),3" is 4 tasks on each of two nodes and 3 on a third. The largest starts no thread too many.
                per_node = [int(part.partition("(")[0]) for part in environment.get(names[3], "1").split(",")]
                if not 0 <= rank < size:
                    raise BadInput(f"no task {rank} of {size} can be ({names[0]}, {names[1]}): unset both")
                # Steps that such a shell starts have its variables too, but no terminal.
                if terminal and "SLURM_PTY_PORT" in environment and "MASTER_ADDR" not in environment:
                    return cls()
                return cls(rank, size, local, max(per_node))
        return cls()

    def require_address(self, environment: Mapping[str, str]) -> None:
        """Raise `BadInput` where there are other ranks, but no address at which they could meet."""
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if self.size > 1 and not environment.get(name):
                raise BadInput(
                    f"{self.size} tasks, and {name} does not say where they meet: submit func_train.sh "
                    f"(sbatch --ntasks={self.size}), or start one task (srun --ntasks=1)"
                )


class Ranks:
    """This process among those that train together. Call `open` first. With one rank, every method is trivial."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.size, self.rank, self.lead = self.place.size, self.place.rank, self.place.rank == 0
        self.count = 0  # collectives so far
        self.position = "its start"
        self.lead_error: Exception | None = None  # an error of the lead's, which the lead reports
        self.watchdog: Watchdog | None = None

    def check(self, micro_batch: int, grad_accum: int) -> None:
        """Raise `BadInput` where the forward passes of a step cannot be shared out evenly."""
        if grad_accum % self.size == 0:
            return
        total = micro_batch * grad_accum
        fitting = [n for n in range(self.size, total + 1, self.size) if total % n == 0]
        if fitting:
            best = min(fitting, key=lambda n: abs(n - grad_accum))
            advice = f"the same step is --micro-batch {total // best} --grad-accum {best}"
        else:
            counts = [n for n in range(1, total + 1) if total % n == 0]
            advice = f"a step of {total} sequences can be shared by {', '.join(map(str, counts))} tasks"
        raise BadInput(
            f"--grad-accum {grad_accum}: {self.size} tasks cannot share {grad_accum} forward passes a step; {advice}"
        )

    def choose_device(self, device: str) -> None:
        """Make ``cuda`` mean this rank's own GPU; where Slurm shows each task only one GPU, that is the first.

        Raises:
            BadInput: ``device`` names one GPU for several ranks.
        """
        import torch

        if self.size == 1:
            return
        if torch.device(device if device != "auto" else "cuda").index is not None:
            raise BadInput(f"--device {device}: {self.size} tasks would share one GPU; use --device cuda")
        if device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_device(self.place.local % torch.cuda.device_count())

    def open(self, timeout: float) -> None:
        """Connect to the other ranks, at MASTER_ADDR and MASTER_PORT.

        timeout: seconds after which a silent rank is lost.

        Raises:
            RankLost: the others did not connect in time.
        """
        if self.size == 1:
            return
        import torch

        self.timeout, begun = timeout, time.monotonic()
        try:
            # Twice the timeout, so that the watchdog, which names the lost rank, comes before gloo, which does not.
            torch.distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=2 * timeout),
            )
        except (RuntimeError, ValueError) as error:
            raise RankLost(
                f"rank {self.rank} did not meet the other {self.size - 1} in {time.monotonic() - begun:.0f} s: "
                f"{str(error).splitlines()[0]}"
            ) from None

    def watch(self, folder: Path) -> None:
        """Start the watchdog, whose files are in ``folder``/ranks."""
        if self.size == 1:
            return
        name = self.broadcast(f"{os.getpid()}-{time.time_ns()}")
        self.watchdog = Watchdog(self, folder / "ranks", name)
        self.barrier()  # every rank's file is there
        self.watchdog.start()

    def close(self) -> None:
        """Leave together, when the lead has written everything."""
        if self.size == 1:
            return
        import torch

        self.barrier()
        if self.watchdog is not None:
            self.watchdog.end()
        torch.distributed.destroy_process_group()

    # --- collectives: every rank calls them, in the same order

    def add(self, *values: float) -> tuple[float, ...]:
        """Sums over all ranks, in float64."""
        if self.size == 1:
            return values
        import torch

        tensor = torch.tensor(values, dtype=torch.float64)
        self._collective(lambda: torch.distributed.all_reduce(tensor))
        return tuple(tensor.tolist())

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether any rank has set the flag, for each flag."""
        return tuple(total > 0 for total in self.add(*(float(flag) for flag in flags)))

    def gather(self, content: T) -> list[T]:
        """The contents of all ranks, by rank."""
        if self.size == 1:
            return [content]
        import torch

        found: list[Any] = [None] * self.size
        self._collective(lambda: torch.distributed.all_gather_object(found, content))
        return found

    def broadcast(self, content: T) -> T:
        """The lead's content, on every rank."""
        return self.gather(content if self.lead else None)[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Wait for all ranks (a barrier)."""
        self.gather(None)

    def decide(self, decision: Callable[[], T]) -> T:
        """Call ``decision`` on the lead only. All ranks return its result, or raise its `BadInput` or `OSError`."""
        result, error = None, None
        if self.lead:
            try:
                result = decision()
            except (BadInput, OSError) as caught:
                error = caught
        result, error = self.broadcast((result, error))
        if error is not None:
            self.lead_error = error
            raise error
        return result  # type: ignore[return-value]

    def raise_any(self, error: BadInput | Stopped | None) -> None:
        """Raise the error of the first rank that has one, on all ranks."""
        for one in self.gather(error):
            if one is not None:
                raise one

    def same(self, digest: Callable[[], str], what: str) -> None:
        """Check that all ranks have the same ``digest`` of ``what``. A difference is a defect, and ends the run."""
        if self.size == 1:
            return
        found = self.gather(digest())
        if len(set(found)) > 1:
            other = next(rank for rank, one in enumerate(found) if one != found[0])
            raise AssertionError(f"rank {other} has other {what} than rank 0: a defect of the training loop")

    def add_gradients(self, gradients: Gradients) -> None:
        """Wait until the gradients of a step are summed over all ranks."""
        if self.size > 1:
            self._collective(gradients.finish)

    def _collective(self, do: Callable[[], Any]) -> None:
        self.count += 1
        try:
            do()
        except RuntimeError as error:  # a rank is gone, or the time is up
            if self.watchdog is None:
                raise RankLost(f"rank {self.rank} lost the others: {str(error).splitlines()[0]}") from None
            message, reported = self.watchdog.verdict()
            raise RankLost(message, reported) from None
