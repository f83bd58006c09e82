"""Refusing, before any work is done, what could not be written at its end. Nothing is created."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from swlottery.errors import BadInput

LONGEST = 255
"""Bytes of a file's name, on all usual file systems."""


def check_file(path: Path) -> None:
    """Raise `BadInput` where a file of this name could not be written."""
    if os.path.isdir(path):
        raise BadInput(f"cannot write {path}: it is a folder")
    if len(os.fsencode(path.name)) > LONGEST:
        raise BadInput(f"cannot write {path}: its name has more than {LONGEST} bytes")
    _check(path, path.absolute().parent)


def check_folder(path: Path) -> None:
    """Raise `BadInput` where a folder of this name could not be made, or not be written to."""
    _check(path, path.absolute())


def check_name(folder: Path) -> None:
    """Raise `BadInput` for a run's folder that safetensors and tokenizers could not open."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{folder} is no UTF-8, as the name of a run's folder must be: give --runs another") from None


def check_temporary() -> None:
    """Raise `BadInput` where no file can be written for a while: torch and matplotlib could not be imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise BadInput(f"{error.strerror}: free some space there, or set TMPDIR to another folder") from None


def _check(target: Path, place: Path) -> None:
    while not os.path.exists(place):  # Path.exists raises where a folder may not be entered
        place = place.parent
    try:  # permissions alone do not say it: root passes them all, on read-only and special file systems too
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = f"{place} is not a folder that can be written to ({error.strerror})"
        raise BadInput(f"cannot write {target}: {why}") from None
