"""Several processes that train one network: ``torch.distributed`` behind what a run needs of it.

Every rank does the same, on its own part of each batch; the first one, the lead, also writes the files and the log. A
collective gives all ranks the same bits, so that weights and masks stay equal without being sent around.

A rank that is gone or does not answer ends all others, by name. Each has a thread that writes a sign of life into the
run's folder and reads those of the others: a process that was killed or stopped gives none, and one that is stuck gives
signs but gets nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from swlottery.errors import BadInput
from swlottery.runtime.stop import Stopped

if TYPE_CHECKING:
    from swlottery.runtime.gradients import Gradients

T = TypeVar("T")


class RankLost(Exception):
    """Another rank is gone, or does not answer. The message names it; told: another rank has printed it."""

    def __init__(self, message: str, told: bool = False) -> None:
        super().__init__(message)
        self.told = told


@dataclass(frozen=True)
class Place:
    """Which of the processes of a job this one is. size: how many there are; local, local_size: on this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        """From the variables of ``srun`` or ``torchrun``.

        A batch script's own shell has SLURM_NTASKS and SLURM_PROCID as well, and is nobody's rank: only a step says.
        """
        for names in (
            ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
            ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ):
            with contextlib.suppress(KeyError, ValueError):
                rank, size, local = (int(environment[name]) for name in names[:3])
                # 4(x2),3: four tasks on each of two nodes, three on another. The largest is safe for threads.
                per_node = [int(part.partition("(")[0]) for part in environment.get(names[3], "1").split(",")]
                return cls(rank, size, local, max(per_node))
        return cls()


class Ranks:
    """This process among those that train together; on its own, every method is trivial. `open` comes first."""

    def __init__(self, place: Place | None = None) -> None:
        self.place = place or Place()
        self.size, self.rank, self.lead = self.place.size, self.place.rank, self.place.rank == 0
        self.count = 0  # collectives so far
        self.where = "its start"
        self.told: Exception | None = None  # what the lead has met, and tells
        self.watchdog: _Watchdog | None = None

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
        """Have ``cuda`` mean this rank's own GPU; nothing where Slurm shows each task only its own.

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
        """Meet the other ranks. timeout: in seconds; who is silent for longer is lost.

        The meeting place is in MASTER_ADDR and MASTER_PORT, as torch has it.
        """
        if self.size == 1:
            return
        import torch

        self.timeout = timeout
        try:
            # Twice the timeout: the watchdog, which has names, comes before gloo, which has none.
            torch.distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=2 * timeout),
            )
        except (RuntimeError, ValueError) as error:
            raise RankLost(
                f"rank {self.rank} did not meet the other {self.size - 1} within {2 * timeout:g} s: "
                f"{str(error).splitlines()[0]}"
            ) from None

    def watch(self, folder: Path) -> None:
        """Give signs of life in ``folder``/ranks from now on, and look at those of the others."""
        if self.size > 1:
            name = self.broadcast(f"{os.getpid()}-{time.time_ns()}")
            self.watchdog = _Watchdog(self, folder / "ranks", name, self.timeout)

    def close(self) -> None:
        """Leave together: behind what the lead has written."""
        if self.size == 1:
            return
        import torch

        self.meet()
        if self.watchdog is not None:
            self.watchdog.end()
        torch.distributed.destroy_process_group()

    # --- what the ranks tell each other

    def add(self, *values: float) -> tuple[float, ...]:
        """Sums over all ranks, in float64."""
        if self.size == 1:
            return values
        import torch

        tensor = torch.tensor(values, dtype=torch.float64)
        self._collective(lambda: torch.distributed.all_reduce(tensor))
        return tuple(tensor.tolist())

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag whether any rank has raised it."""
        return tuple(total > 0 for total in self.add(*(float(flag) for flag in flags)))

    def gather(self, content: T) -> list[T]:
        """What every rank has to say, by rank."""
        if self.size == 1:
            return [content]
        import torch

        found: list[Any] = [None] * self.size
        self._collective(lambda: torch.distributed.all_gather_object(found, content))
        return found

    def broadcast(self, content: T) -> T:
        """What the lead has to say."""
        return self.gather(content if self.lead else None)[0]  # type: ignore[return-value]

    def meet(self) -> None:
        """Go on when every rank has come here."""
        self.gather(None)

    def decide(self, decision: Callable[[], T]) -> T:
        """Let the lead decide, and do as it does: its result, or its `BadInput`, on every rank."""
        result, error = None, None
        if self.lead:
            try:
                result = decision()
            except (BadInput, OSError) as caught:
                error = caught
        result, error = self.broadcast((result, error))
        if error is not None:
            self.told = error
            raise error
        return result  # type: ignore[return-value]

    def raise_any(self, error: BadInput | Stopped | None) -> None:
        """Raise on all ranks what the first of them has met with."""
        for one in self.gather(error):
            if one is not None:
                raise one

    def same(self, digest: Callable[[], str], what: str) -> None:
        """All ranks have the same; anything else is a defect, and ends the run. One that is alone asks for no digest."""
        if self.size == 1:
            return
        found = self.gather(digest())
        if len(set(found)) > 1:
            other = next(rank for rank, one in enumerate(found) if one != found[0])
            raise AssertionError(f"rank {other} has other {what} than rank 0: a defect of the training loop")

    def add_gradients(self, gradients: Gradients) -> None:
        """Come back when the gradients of a step are those of all ranks together."""
        if self.size > 1:
            self._collective(gradients.finish)

    def _collective(self, do: Callable[[], Any]) -> None:
        self.count += 1
        try:
            do()
        except RuntimeError as error:  # a peer has gone, or the time is up
            if self.watchdog is None:
                raise RankLost(f"rank {self.rank} lost the others: {str(error).splitlines()[0]}") from None
            message, told = self.watchdog.verdict()
            raise RankLost(message, told) from None


class _Watchdog(threading.Thread):
    """Signs of life: a file for each rank, rewritten every few seconds.

    Each rank compares by its own clock when it has last seen another's file change: no two clocks have to agree.
    """

    def __init__(self, ranks: Ranks, folder: Path, name: str, timeout: float) -> None:
        super().__init__(daemon=True)
        self.ranks, self.folder, self.timeout = ranks, folder, timeout
        self.period = min(2.0, timeout / 5)
        self.told = folder / f"lost-{name}"
        self.ended = threading.Event()
        self.beats = 0
        now = time.monotonic()
        self.seen: dict[int, tuple[float, dict[str, Any]]] = {rank: (now, {}) for rank in range(ranks.size)}
        folder.mkdir(parents=True, exist_ok=True)
        self._beat()
        ranks.meet()  # every file is there
        self.start()

    def run(self) -> None:
        turn = time.monotonic()
        while not self.ended.wait(self.period):
            self._beat()
            self._look()
            before, turn = turn, time.monotonic()
            if turn - before > 5 * self.period:  # this process was suspended, or its disk: so may the others have been
                self.seen = {rank: (turn, sign) for rank, (_, sign) in self.seen.items()}
            elif self._silent(self.timeout):
                lost(*self._tell())  # the main thread stands in a collective, which no exception reaches

    def end(self) -> None:
        """No more signs."""
        self.ended.set()
        self.join()
        self._file(self.ranks.rank).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def verdict(self) -> tuple[str, bool]:
        """Who is lost, after a collective has failed; and whether another rank has told it before."""
        time.sleep(4 * self.period)  # so long the signs of the others are awaited, by the thread
        return self._tell()

    def _beat(self) -> None:
        self.beats += 1
        sign = {"beat": self.beats, "host": socket.gethostname(), "pid": os.getpid(), "count": self.ranks.count,
                "where": self.ranks.where}  # fmt: skip
        unfinished = self.folder / f".{self.ranks.rank}"
        with contextlib.suppress(OSError):  # a full disk is for the main thread to tell
            unfinished.write_text(json.dumps(sign))
            unfinished.replace(self._file(self.ranks.rank))

    def _look(self) -> None:
        for rank, (_, before) in self.seen.items():
            with contextlib.suppress(OSError, ValueError):
                sign = json.loads(self._file(rank).read_text())
                if sign != before:
                    self.seen[rank] = (time.monotonic(), sign)

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [rank for rank, (at, _) in self.seen.items() if rank != self.ranks.rank and now - at > seconds]

    def _tell(self) -> tuple[str, bool]:
        try:
            with open(self.told, "x"):
                told = False
        except OSError:
            told = True
        return self._who(), told

    def _who(self) -> str:
        silent = self._silent(3 * self.period)
        if silent:
            return f"{self._names(silent)}: killed, stopped, or cut off; the job ends, and can be started again"
        behind = min(sign.get("count", 0) for _, sign in self.seen.values())
        stuck = [rank for rank, (_, sign) in self.seen.items() if sign.get("count", 0) == behind]
        return f"{self._names(stuck, 'is stuck')}; the job ends, and can be started again"

    def _names(self, ranks: list[int], what: str = "gives no sign of life") -> str:
        signs = {rank: self.seen[rank][1] for rank in ranks}
        return ", ".join(
            f"rank {rank} (process {sign.get('pid', '?')} on {sign.get('host', '?')}) {what} since "
            f"{sign.get('where', 'its start')}"
            for rank, sign in signs.items()
        )

    def _file(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"


def lost(message: str, told: bool) -> NoReturn:
    """End this process at once: what torch would do at its end waits for ranks that are gone."""
    if not told:
        sys.stderr.write(f"swlottery: {message}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
