"""Refusing, before any work is done, what could not be written at its end. Nothing is created."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from swlottery.errors import BadInput


def check_file(path: Path) -> None:
    """Raise `BadInput` where a file of this name could not be written."""
    if os.path.isdir(path):
        raise BadInput(f"cannot write {path}: it is a folder")
    _check(path, path.absolute().parent)


def check_folder(path: Path) -> None:
    """Raise `BadInput` where a folder of this name could not be made, or not be written to."""
    _check(path, path.absolute())


def _check(target: Path, place: Path) -> None:
    while not os.path.exists(place):  # Path.exists raises where a folder may not be entered
        place = place.parent
    try:  # permissions alone do not say it: root passes them all, on read-only and special file systems too
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = f"{place} is not a folder that can be written to ({error.strerror})"
        raise BadInput(f"cannot write {target}: {why}") from None
