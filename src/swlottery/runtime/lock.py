"""A lock on what several jobs may want to make at the same time: one makes it, the others wait."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL = 0.2  # seconds


@contextlib.contextmanager
def lock(place: Path, say: Callable[[str], None], poll: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Wait to be the only job that makes ``place``. The lock goes with its process, however that ends.

    ``say`` is called with a line when another job has it, ``poll`` while waiting, which it may end by an exception.

    Yields False on a file system without locks (some NFS mounts). There, jobs may do the same work at once, so whatever
    is made must be the same, whole or not at all, whoever makes it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("ab") as file:  # stays: all that wait must lock one and the same
        locked = waiting = False
        while not locked:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError:
                if not waiting:
                    say(f"waiting for another job that is making {place}")
                waiting = True
                time.sleep(POLL)
                poll()
            except OSError:  # no locks here; an error of `say` or `poll` is none of this
                break
        yield locked
