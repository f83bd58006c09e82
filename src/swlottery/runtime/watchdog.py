"""A watchdog over the ranks of a run: it names the rank that is gone or stuck, and ends the others.

torch's own time limits (gloo, NCCL) also end a run, but do not say which rank failed, and on which machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from swlottery.runtime.ranks import Ranks


class RankLost(Exception):
    """Another rank is gone, or does not answer. The message names it. reported: another rank has reported it."""

    def __init__(self, message: str, reported: bool = False) -> None:
        super().__init__(message)
        self.reported = reported


class Watchdog(threading.Thread):
    """A thread that rewrites this rank's file every few seconds, and reads those of the others.

    A process that was killed or suspended rewrites nothing; a process that is stuck does, but its count stays.
    Each rank measures by its own clock when another's file last changed, so the clocks need not agree.

    folder: of the files. name: of this start of the job.
    """

    def __init__(self, ranks: Ranks, folder: Path, name: str) -> None:
        super().__init__(daemon=True)
        self.ranks, self.rank, self.folder = ranks, ranks.rank, folder
        self.period = min(2.0, ranks.timeout / 5)
        self.reported = folder / f"lost-{name}"
        self.ended = threading.Event()
        self.beats = 0
        self.seen: dict[int, tuple[float, dict[str, Any]]] = dict.fromkeys(range(ranks.size), (time.monotonic(), {}))
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def run(self) -> None:
        turn = time.monotonic()
        while not self.ended.wait(self.period):
            self._write()
            self._read()
            before, turn = turn, time.monotonic()
            if turn - before > 5 * self.period:  # this process or its disk was suspended; perhaps the others were too
                self.seen = {rank: (turn, sign) for rank, (_, sign) in self.seen.items()}
            elif self._silent(self.ranks.timeout):
                exit_now(*self._report())  # the main thread waits in a collective, which no exception reaches

    def end(self) -> None:
        """Stop watching, and remove this rank's file."""
        self.ended.set()
        self.join()
        self._file(self.rank).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def verdict(self) -> tuple[str, bool]:
        """Who is lost, after a collective has failed; and whether another rank has reported it."""
        time.sleep(4 * self.period)  # until the thread has read what the others write meanwhile
        return self._report()

    def _write(self) -> None:
        self.beats += 1
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        position = {"count": self.ranks.count, "where": self.ranks.position}
        unfinished = self.folder / f".{self.rank}"
        with contextlib.suppress(OSError):  # the main thread meets a full disk too, and says so
            unfinished.write_text(json.dumps({"beat": self.beats, **process, **position}))
            unfinished.replace(self._file(self.rank))

    def _read(self) -> None:
        for rank, (_, before) in self.seen.items():
            with contextlib.suppress(OSError, ValueError):
                sign = json.loads(self._file(rank).read_text())
                if sign != before:
                    self.seen[rank] = (time.monotonic(), sign)

    def _silent(self, seconds: float) -> list[int]:
        now = time.monotonic()
        return [rank for rank, (at, _) in self.seen.items() if rank != self.rank and now - at > seconds]

    def _report(self) -> tuple[str, bool]:
        try:
            self.reported.touch(exist_ok=False)
            reported = False
        except OSError:
            reported = True
        if silent := self._silent(3 * self.period):
            names = self._names(silent, "gives no sign of life")
            return f"{names}: killed, stopped, or cut off; the job ends, and can be started again", reported
        counts = {rank: sign.get("count", 0) for rank, (_, sign) in self.seen.items()}
        behind = [rank for rank, count in counts.items() if count == min(counts.values())]
        return f"{self._names(behind, 'is stuck')}; the job ends, and can be started again", reported

    def _names(self, ranks: list[int], what: str) -> str:
        signs = {rank: self.seen[rank][1] for rank in ranks}
        return ", ".join(
            f"rank {rank} (process {sign.get('pid', '?')} on {sign.get('host', '?')}) {what} since "
            f"{sign.get('where', 'its start')}"
            for rank, sign in signs.items()
        )

    def _file(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"


def exit_now(message: str, reported: bool) -> NoReturn:
    """End this process at once: a normal exit of torch waits for ranks that are gone.

    reported: another rank has reported it.
    """
    if not reported:
        sys.stderr.write(f"swlottery: {message}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
