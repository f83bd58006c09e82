"""Who makes shards: this process, or several that share the work.

The others are plain child processes on pipes. They import what tokenizing needs and nothing else, are deaf to signals
(a Ctrl-C, a ``scancel`` reach all of a job's processes; this one decides), and end with this one, also if it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from swlottery.data.sources import Piece
from swlottery.data.tokenize import Counted, Encoder, make_shard
from swlottery.errors import BadInput

AHEAD = 2  # shards that a process has at a time: one that it makes, and the next one's text, so that it never waits

Task = tuple[int, list[Piece], Path, dict[str, Any]]  # the shard's number, its text, its file, what it says of itself
Answer = tuple[int, Counted | None]  # the shard's number, how much of it is made; None: it is there, whole


class Makers(Protocol):
    """Who takes tasks, and says how they come on."""

    def wants(self) -> bool:
        """Whether one more task would be of use now."""

    def give(self, task: Task) -> None:
        """Have this shard made."""

    def answers(self, seconds: float) -> list[Answer]:
        """What has been done since the last call; returns after so many seconds at the latest, or after one batch."""

    def close(self) -> None:
        """Leave all work lying."""


class Here:
    """This process makes the shards itself, one after the other."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._tasks: deque[tuple[int, Iterator[Counted]]] = deque()

    def wants(self) -> bool:
        return not self._tasks

    def give(self, task: Task) -> None:
        number, pieces, path, about = task
        self._tasks.append((number, make_shard(self._encoder, pieces, path, about)))

    def answers(self, seconds: float) -> list[Answer]:
        number, made = self._tasks[0]
        counted = next(made, None)
        if counted is None:
            self._tasks.popleft()
        return [(number, counted)]

    def close(self) -> None:
        self._tasks.clear()


class Processes:
    """``count`` processes make the shards. `BadInput` where one of them is lost."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        content = pickle.dumps(encoder)
        try:
            for _ in range(count):
                worker = _Worker()
                self._workers.append(worker)
                self._selector.register(worker.output, selectors.EVENT_READ, worker)
            for worker in self._workers:
                worker.write(content)
        except BaseException:
            self.close()
            raise

    def wants(self) -> bool:
        return any(worker.tasks < AHEAD for worker in self._workers)

    def give(self, task: Task) -> None:
        worker = min(self._workers, key=lambda one: one.tasks)
        worker.tasks += 1
        worker.write(pickle.dumps(task))

    def answers(self, seconds: float) -> list[Answer]:
        return [answer for key, _ in self._selector.select(seconds) for answer in key.data.read()]

    def close(self) -> None:
        self._selector.close()
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            for pipe in (worker.input, worker.output):
                with contextlib.suppress(OSError):  # what was still to be written to a process that is gone
                    pipe.close()


class Shared:
    """Up to ``count`` processes; only this one where the first shard is the last, which is not worth their start."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        self._encoder, self._count = encoder, count
        self._makers: Makers | None = None

    def wants(self) -> bool:
        return self._makers is None or self._makers.wants()

    def give(self, task: Task) -> None:
        if self._makers is None:
            alone = self._count < 2 or task[3]["last"]
            self._makers = Here(self._encoder) if alone else Processes(self._encoder, self._count)
        self._makers.give(task)

    def answers(self, seconds: float) -> list[Answer]:
        return self._makers.answers(seconds) if self._makers is not None else []

    def close(self) -> None:
        if self._makers is not None:
            self._makers.close()


class _Worker:
    def __init__(self) -> None:
        folders = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONSAFEPATH": "1",
            "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
        }  # fmt: skip
        # Blocked here, these signals are blocked there from its first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "swlottery.data.tokenize_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout
        self.tasks = 0
        self._rest = b""

    def write(self, content: bytes) -> None:
        """Returns when the other side has taken it, which has a thread for that: at once."""
        try:
            self.input.write(content)
            self.input.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def read(self) -> list[Answer]:
        block = os.read(self.output.fileno(), 1 << 16)
        if not block:
            raise self._lost()
        *lines, self._rest = (self._rest + block).split(b"\n")
        answers: list[Answer] = []
        for number, what in map(json.loads, lines):
            if isinstance(what, list):
                raise OSError(*what)
            self.tasks -= what == "done"
            answers.append((number, None if what == "done" else Counted(**what)))
        return answers

    def _lost(self) -> BadInput:
        code = self.process.wait()
        how = f"killed by signal {-code}: out of memory?" if code < 0 else f"exit code {code}"
        return BadInput(f"a process that makes tokens is gone ({how}): start the same again, it goes on from there")
