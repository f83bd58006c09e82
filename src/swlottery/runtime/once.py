"""A folder that several jobs may want at the same time: one makes it, the others wait; killed at any moment, no harm."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from swlottery.runtime.files import sync

ABANDONED = 3600.0  # seconds without a write, after which another machine's unfinished folder counts as left behind
POLL = 0.2  # seconds


def make_once(
    place: Path,
    whole: Callable[[], bool],
    fill: Callable[[Path], None],
    say: Callable[[str], None],
    poll: Callable[[], None] = lambda: None,
) -> None:
    """Have ``fill`` write the files of a folder, durable and complete before it appears as ``place``.

    Nothing is done where the folder is ``whole`` once no other job is making it; one that is there and is not whole is
    replaced. What jobs that were killed have left is removed. ``say`` is called with a line on what is out of the
    ordinary, ``poll`` while waiting, which it may end by an exception. Raises `OSError` where the folder cannot be written; nothing of it is left then.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with _lock(place, say, poll) as locked:
        if whole():  # another job made it meanwhile
            return
        if place.exists():
            say(f"{place} is damaged: it is made again")
            _discard(place)
        _remove_leftovers(place, locked)
        unfinished = _beside(place)
        try:
            unfinished.mkdir()
            fill(unfinished)
            for path in (*unfinished.iterdir(), unfinished):
                sync(path)
            try:
                unfinished.rename(place)
            except OSError:  # where there are no locks, another job may have been first
                if not whole():
                    raise
            sync(place.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _lock(place: Path, say: Callable[[str], None], poll: Callable[[], None]) -> Iterator[bool]:
    """Wait to be the only job that makes ``place``. The lock goes with its process, however that ends.

    Yields False on a file system without locks (some NFS mounts). There, jobs may do the same work at once, each in a
    folder of its own, and the first to rename its folder has made it.
    """
    with place.with_name(f"{place.name}.lock").open("ab") as file:  # stays: all that wait must lock one and the same
        locked = waiting = False
        with contextlib.suppress(OSError):
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
        yield locked


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.{socket.gethostname()}.{uuid.uuid4().hex}")


def _discard(place: Path) -> None:
    aside = _beside(place)
    with contextlib.suppress(FileNotFoundError):  # without a lock, another job may have been first
        place.rename(aside)  # before its files go one by one, so that nobody meets half of it
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(place: Path, locked: bool) -> None:
    """With the lock held no other job of this machine is at work; of other machines' jobs, not every NFS tells."""
    for leftover in place.parent.glob(f".{place.name}.*"):
        with contextlib.suppress(OSError):
            own = leftover.name.startswith(f".{place.name}.{socket.gethostname()}.")
            touched = max(path.stat().st_mtime for path in (leftover, *leftover.iterdir()))
            if (own and locked) or time.time() - touched > ABANDONED:
                shutil.rmtree(leftover)
