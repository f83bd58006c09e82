"""Requests to stop: from a scheduler that preempts or whose time limit is near, or by Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Asked = Callable[[], bool]
"""Whether this process was asked to stop."""


class Stopped(Exception):
    """The command was asked to stop, and stopped where it can go on later."""


def never() -> bool:
    """An `Asked` where nobody asks."""
    return False


@contextmanager
def flag(last: bool = False) -> Iterator[Asked]:
    """Yield a function that says whether SIGTERM, SIGUSR1 or SIGINT came.

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

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last else handler)


def raise_if_asked(asked: Asked) -> None:
    """Raise `Stopped` if asked to stop; for places where nothing has to be saved."""
    if asked():
        raise Stopped
