"""The folder of a run: named from its settings, held by one process at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swlottery.config import ELSEWHERE, TrainSettings
from swlottery.data.sources import is_on_hub
from swlottery.errors import BadInput
from swlottery.runtime import files


def changed(settings: TrainSettings) -> dict[str, Any]:
    """The settings that are not at their default, so that a new setting does not rename old runs.

    Before there was ``auto``, a run was in float32 by default, and numbers of tokens were no text.
    """
    defaults = TrainSettings()
    found = {
        one.name: getattr(settings, one.name)
        for one in dataclasses.fields(settings)
        if one.name not in ELSEWHERE and getattr(settings, one.name) != getattr(defaults, one.name)
    }
    if found.get("dtype") == "float32":
        del found["dtype"]
    if "data_tokens" in found:
        found["data_tokens"] = settings.data_tokens_given() or 0  # a number, as before there was auto
        if not found["data_tokens"] and not is_on_hub(settings.data):
            del found["data_tokens"]  # all, as with auto; of a local source that was the default
    return found


def name(settings: TrainSettings, slug: str, contents: Mapping[str, str]) -> str:
    """A readable stem and a hash: same settings, same name.

    contents: hashes of the files that settings name (the record, the round-1 network): a path alone says too little.
    """
    named = {key: value for key, value in changed(settings).items() if key not in contents}
    text = json.dumps([named, dict(contents)], sort_keys=True, ensure_ascii=False)
    rate = "schedule" if settings.schedule else f"p{settings.prune_rate}"
    parts = [
        slug if settings.start == "scratch" else f"{slug}-{settings.start}",
        rate + ("-one-shot" if settings.one_shot else ""),
        f"T{settings.steps}",
        f"d{settings.data_seed}",
        hashlib.sha256(text.encode()).hexdigest()[:8],
    ]
    return "-".join(parts)


@contextlib.contextmanager
def held(folder: Path, patience: float = 0) -> Iterator[None]:
    """Hold the run's folder; a second process gets `BadInput`, after waiting so many seconds for the first.

    The lock goes with the process, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    file.seek(0)
                    by = file.read().strip() or "another process"
                    raise BadInput(f"{folder} is in use by {by}: wait for it") from None
                time.sleep(0.5)
            except OSError:  # a file system without locks
                break
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for leftover in list(folder.rglob(".*.*")):  # unfinished files and folders of a process that was killed
            if len(leftover.suffix) == 33:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        yield


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` came to its end."""
    return read_status(folder).get("state") == "finished"


def read_status(folder: Path) -> dict[str, Any]:
    """status.json; empty where it is missing or unreadable."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def write_status(folder: Path, state: str, content: Mapping[str, Any]) -> None:
    """Say for ``swlottery status`` how the run stands."""
    process = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    files.write_json(folder / "status.json", {"state": state, **content, **process})
