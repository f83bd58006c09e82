"""Who makes shards: this process, or several worker processes, which run `main`.

The workers import only what tokenizing needs. They ignore signals, because Ctrl-C and ``scancel`` reach all processes
of a job and this one decides. They end with this process, also if it is killed, at the latest after a batch.
Not `concurrent.futures`: its workers import the main program again, and stay when it is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe, connection
from typing import Any

from swlottery.data.tokenize import Counted, Encoder, Task, make_shard
from swlottery.errors import BadInput
from swlottery.runtime import child, stop

Answer = tuple[int, Counted | None]
"""A shard's number, and what was added to it; None: it is complete."""


class InProcess:
    """This process makes the shards, one after the other."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._number: int | None = None  # of the shard in the making
        self._added: Iterator[Counted] = iter(())

    def wants(self) -> bool:
        """Whether there should be another task now."""
        return self._number is None

    def give(self, task: Task) -> None:
        """Have a shard made."""
        self._number, self._added = task.number, make_shard(self._encoder, task)

    def answers(self, seconds: float) -> list[Answer]:
        """What was made since the last call. Returns after one batch, or after ``seconds``."""
        assert self._number is not None
        number, added = self._number, next(self._added, None)
        if added is None:
            self._number = None
        return [(number, added)]

    def close(self) -> None:
        """Abandon all tasks."""


class Processes:
    """``count`` worker processes make the shards. Methods as in `InProcess`; `BadInput` where a worker is lost."""

    def __init__(self, encoder: Encoder, count: int) -> None:
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                self._workers.append(_Worker())
            for worker in self._workers:
                worker.send(encoder)
        except BaseException:
            self.close()
            raise

    def wants(self) -> bool:
        return any(worker.idle for worker in self._workers)

    def give(self, task: Task) -> None:
        worker = next(worker for worker in self._workers if worker.idle)
        worker.send(task)
        worker.idle = False

    def answers(self, seconds: float) -> list[Answer]:
        ready = connection.wait([worker.pipe for worker in self._workers], seconds)
        return [worker.receive() for worker in self._workers if worker.pipe in ready]

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            worker.pipe.close()


class _Worker:
    """A process that runs `main`, at the other end of a pipe."""

    def __init__(self) -> None:
        self.idle = True
        self.pipe, theirs = Pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs, stop.blocked():
            self.process = subprocess.Popen(
                child.command("swlottery.data.workers", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # whatever a library prints goes to stderr
                env={**child.variables(os.environ), **threads, "TOKENIZERS_PARALLELISM": "false"},
            )

    def send(self, content: Encoder | Task) -> None:
        try:
            self.pipe.send(content)
        except ConnectionError:
            raise self._lost() from None

    def receive(self) -> Answer:
        try:
            number, answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise self._lost() from None
        if isinstance(answer, OSError | BadInput):
            raise answer
        self.idle = answer is None
        return number, answer

    def _lost(self) -> BadInput:
        code = self.process.wait()
        how = f"killed by signal {-code}: out of memory?" if code < 0 else f"exit code {code}"
        return BadInput(f"a process that makes tokens is gone ({how}): start the same again, it goes on from there")


def main() -> None:
    """A worker: makes shard after shard, until the pipe ends because the other process is gone."""
    pipe: connection.Connection[Any, Any] = connection.Connection(int(sys.argv[1]))
    with contextlib.suppress(EOFError, ConnectionError):
        encoder = pipe.recv()
        while True:
            task = pipe.recv()
            answer = None
            try:
                for counted in make_shard(encoder, task):
                    pipe.send((task.number, counted))
            except ConnectionError:
                raise
            except (OSError, BadInput) as error:
                answer = error
            pipe.send((task.number, answer))


if __name__ == "__main__":
    main()
