"""The folder of a run: held by one process at a time, with its state for whoever asks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.runtime import files, sums

UNFINISHED = re.compile(r"\..*\.[0-9a-f]{32}|\.tmp[A-Za-z0-9]{6}", re.DOTALL)  # the second is safetensors' own


@contextlib.contextmanager
def held(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold the run's folder; a second process gets `BadInput`, after waiting so many seconds for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        until = time.monotonic() + patience
        while files.is_locked_by_another(file):
            if time.monotonic() >= until:
                file.seek(0)
                by = file.read().strip() or "another process"
                raise BadInput(f"{folder} is in use by {by}: wait for it")
            time.sleep(0.5)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        shutil.rmtree(folder / "ranks", ignore_errors=True)  # of tasks that were lost
        for leftover in list(folder.rglob(".*")):  # unfinished files and folders of a process that was killed
            if UNFINISHED.fullmatch(leftover.name):
                with contextlib.suppress(OSError):
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end. Where its status.json is damaged, its SHA256SUMS says so.

    Raises `OSError` where that cannot be read now.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        return sums.read_sealed(folder / "status.json").get("state") == "finished"
    return (folder / sums.NAME).exists()


def read_status(folder: Path) -> dict[str, Any]:
    """status.json; empty where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return sums.read_sealed(folder / "status.json")
    return {}


def write_status(folder: Path, state: str, content: Mapping[str, Any]) -> None:
    """Say for ``swlottery status`` how far the run is."""
    process = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    files.write_json(folder / "status.json", sums.sealed({"state": state, **content, **process}))


def is_gone(status: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this status ran here, and runs no more. Of another host nothing is known."""
    pid = status.get("pid")
    if status.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is there, and another user's
        return False
    return False
