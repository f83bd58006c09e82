"""Requests to stop: from a scheduler that preempts or whose time limit is near, by Ctrl-C, or by a closed terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
"""What asks a command to stop."""
Asked = Callable[[], bool]
"""Whether this process was asked to stop."""


class Stopped(Exception):
    """The command was asked to stop, and stopped where it can go on later."""


def never() -> bool:
    """An `Asked` where nobody asks."""
    return False


def handle(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> dict[signal.Signals, Any]:
    """Have signals handled. Returns what handled them before.

    A SIGHUP that is ignored stays so: whoever started this process wants it to outlive the terminal (``nohup``).
    """
    handled = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in handled}


@contextmanager
def blocked() -> Iterator[None]:
    """A process that is started in here ignores these signals from its first moment on; this one gets them later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def flag(last: bool = False) -> Iterator[Asked]:
    """Yield a function that says whether SIGTERM, SIGHUP, SIGUSR1 or SIGINT came.

    The handler only sets a flag: whoever works asks for it where the work can be left. A second Ctrl-C interrupts at
    once.

    last: the process ends after this. A later signal has nothing to stop, and must not change the exit code.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = handle(ask, *SIGNALS)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def raise_if_asked(asked: Asked) -> None:
    """Raise `Stopped` if asked to stop; for places where nothing has to be saved."""
    if asked():
        raise Stopped
