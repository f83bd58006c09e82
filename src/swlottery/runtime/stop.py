"""Being asked to stop: by a scheduler that preempts, by a time limit that comes near, by Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Asked = Callable[[], bool]


class Stopped(Exception):
    """The run was asked to stop, and did so where it can go on."""


def never() -> bool:
    """Nobody asks."""
    return False


@contextmanager
def flag(last: bool = False) -> Iterator[Asked]:
    """A function that says whether SIGTERM, SIGUSR1 or SIGINT came. The handler only sets a flag: whoever works asks it
    where the work can be left. A second Ctrl-C interrupts at once.

    last: the process ends behind this. A signal that comes then finds nothing to stop, and must not undo the exit code.
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


def here(asked: Asked) -> None:
    """Raise `Stopped` if that was asked for; for places where nothing has to be saved."""
    if asked():
        raise Stopped
