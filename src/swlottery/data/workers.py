"""Who makes shards: this process, or several worker processes (``python -m swlottery.data.workers FD``).

The workers are plain child processes. They import only what tokenizing needs. They ignore signals, because Ctrl-C and
``scancel`` reach all processes of a job and this one decides. They end with this process, also if it is killed. (Those
of ``concurrent.futures`` import the main program again, and stay when it is killed.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing import Pipe, connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from swlottery.data.tokenize import Counted, Encoder, Task, make_shard
from swlottery.errors import BadInput

AHEAD = 2  # tasks that a worker has at a time: the one it works on, and the next, so that it never waits

Answer = tuple[int, Counted | None]
"""A shard's number, and how much of it has been made; None: it is complete."""


class InProcess:
    """This process makes the shards, one after the other."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._task: tuple[int, Iterator[Counted]] | None = None

    def wants(self) -> bool:
        """Whether there should be another task now."""
        return self._task is None

    def give(self, task: Task) -> None:
        """Have a shard made."""
        self._task = task.number, make_shard(self._encoder, task)

    def answers(self, seconds: float) -> list[Answer]:
        """What was made since the last call. Returns after one batch, or after ``seconds``."""
        if self._task is None:
            return []
        number, progress = self._task
        counted = next(progress, None)
        if counted is None:
            self._task = None
        return [(number, counted)]

    def close(self) -> None:
        """Abandon all tasks."""
        self._task = None


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
        return any(worker.tasks < AHEAD for worker in self._workers)

    def give(self, task: Task) -> None:
        worker = min(self._workers, key=lambda one: one.tasks)
        worker.tasks += 1
        worker.send(task)

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
        self.tasks = 0
        self.pipe, theirs = Pipe()
        # A child inherits the blocked signals, so it ignores them from its first moment on.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "swlottery.data.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # whatever a library prints goes to stderr
                env=_environment(),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def send(self, content: Encoder | Task) -> None:
        """Returns when the worker has it; a thread there receives at once."""
        try:
            self.pipe.send(content)
        except ConnectionError:
            raise self._lost() from None

    def receive(self) -> Answer:
        try:
            number, answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise self._lost() from None
        if isinstance(answer, OSError):
            raise answer
        self.tasks -= answer is None
        return number, answer

    def _lost(self) -> BadInput:
        code = self.process.wait()
        how = f"killed by signal {-code}: out of memory?" if code < 0 else f"exit code {code}"
        return BadInput(f"a process that makes tokens is gone ({how}): start the same again, it goes on from there")


def _environment() -> dict[str, Any]:
    """This package in reach, the current folder not, and one thread."""
    folders = (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    python = {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "PYTHONSAFEPATH": "1"}
    return {**os.environ, **python, **threads, "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    """A worker: makes shard after shard, until the pipe ends because the other process is gone."""
    pipe: connection.Connection[Any, Any] = connection.Connection(int(sys.argv[1]))
    received: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, received), daemon=True).start()
    encoder = received.get()
    while True:
        task = received.get()
        answer = None
        try:
            for counted in make_shard(encoder, task):
                pipe.send((task.number, counted))
        except OSError as error:
            answer = error
        except BaseException:
            _give_up()
        pipe.send((task.number, answer))


def _receive(pipe: connection.Connection[Any, Any], received: SimpleQueue[Any]) -> None:
    try:
        while True:
            received.put(pipe.recv())
    except (EOFError, ConnectionError):
        os._exit(0)
    except BaseException:
        _give_up()


def _give_up() -> None:
    traceback.print_exc()
    os._exit(1)  # a normal exit would wait for the thread that receives


if __name__ == "__main__":
    main()
