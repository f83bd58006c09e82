"""Children of a process that has imported everything: they start in milliseconds, and so do theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any


def fork(run: Callable[[], int]) -> int:
    """Run a function in a child, which ends with its code. Returns the child's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = run()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        code = 120  # as at Python's own end
    sys.stderr.flush()
    os._exit(code)


def redirect(out: int, err: int) -> None:
    """Let stdout and stderr of this process go to these descriptors."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))


class Forked:
    """What `subprocess.Popen` does for a sweep: a point's training, forked."""

    def __init__(self, command: Sequence[str], stdout: Any, stderr: Any, env: Mapping[str, str], **_: Any) -> None:
        self.code: int | None = None

        def run() -> int:
            redirect(stdout.fileno(), stderr.fileno())
            os.environ.clear()
            os.environ.update(env)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            from swlottery.cli import main

            return main(list(command[command.index("train") :]))

        self.pid = fork(run)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or 1e9)
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("train", timeout or 0)
            time.sleep(0.001)
        return self.code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def patch(cores: int, figures: bool) -> None:
    """Make runs small: a small model from scratch, small shards, so many cores, empty figures, and those of a training
    only where they are asked for. The points of a sweep are forked."""
    from matplotlib.figure import Figure

    from swlottery.commands import train
    from swlottery.data import store
    from swlottery.models.load import SHAPES
    from swlottery.runtime import environment, provenance
    from swlottery.study import sweep

    def no_git(*_: Any) -> bytes:
        raise OSError("a program of its own, which the shim would end")

    provenance._git = no_git
    SHAPES["gpt2-mini"] = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 192}
    store.SMALL = store.LARGE = 1500
    environment.cores = lambda: cores
    Figure.draw = lambda *_: None
    if not figures:
        train._draw = lambda *_: []
    sweep.subprocess = SimpleNamespace(Popen=Forked, TimeoutExpired=subprocess.TimeoutExpired)


def adopt() -> None:
    """Let the children of killed children come to this process, which then waits for them."""
    import ctypes

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def warm() -> None:
    """Import what any command needs, and nothing that starts a thread."""
    import jsonschema  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import PIL.Image
    import pyarrow.pandas_compat  # noqa: F401
    import safetensors.numpy  # noqa: F401
    import scipy.integrate
    import scipy.stats  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import swlottery.commands.find
    import swlottery.commands.report
    import swlottery.commands.sweep
    import swlottery.commands.train
    import swlottery.find.run
    import swlottery.lottery.loop
    import swlottery.report.figures.find
    import swlottery.report.figures.train
    import swlottery.report.logs.find
    import swlottery.report.page.make
    import swlottery.watch.recorder  # noqa: F401

    PIL.Image.preinit()
    torch.set_num_threads(1)
