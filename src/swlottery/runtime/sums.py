"""Hashes of files that are not to change, so that a damaged one is named and never used.

A finished run's folder has a file SHA256SUMS, which ``sha256sum -c`` reads too; its last line is the hash of those
before it. Of a run that is not finished, the manifests of its checkpoints hold hashes. A small JSON object can hold a
hash of itself.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from swlottery.errors import BadInput
from swlottery.runtime import files

NAME = "SHA256SUMS"
_LAST = "# sha256 of the lines above: "
_OWN = "own_sha256"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a hash of itself."""
    return {**content, _OWN: _hash(json.dumps(content))}


def unsealed(content: Any) -> dict[str, Any]:
    """What `sealed` was given. One without a hash, of an earlier version, is taken as it is.

    Raises `ValueError` where it has another hash.
    """
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    own = content.pop(_OWN, None)
    if own is None and content.get("schema", 1) != 1:
        raise ValueError("its own hash is missing")
    if own not in (None, _hash(json.dumps(content))):
        raise ValueError("it has another hash than the one in it")
    return content


def read_sealed(path: Path) -> dict[str, Any]:
    """The object in a JSON file, `unsealed`."""
    return unsealed(files.read_json(path))


def names(folder: Path, *patterns: str) -> list[str]:
    """The files in a folder that these patterns fit; no hidden ones, such as what NFS keeps of an open file."""
    found = [name for pattern in patterns for name in glob.glob(pattern, root_dir=folder, recursive=True)]
    return [name for name in found if (folder / name).is_file()]


def write(folder: Path, hashes: Mapping[str, str]) -> None:
    """Write SHA256SUMS. hashes: by the file's name, relative to the folder."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    files.write_text(folder / NAME, f"{lines}{_LAST}{_hash(lines)}\n")


def damaged(folder: Path, hashes: Mapping[str, str], lengths: Mapping[str, int] | None = None) -> str | None:
    """The first file that is missing or has another hash.

    lengths: of how many first bytes the hash is, where it is not of all.

    Raises `ValueError` for the name of a file outside, `OSError` for one that is there and cannot be read.
    """
    for name, digest in hashes.items():
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"{name} is no file of this folder")
        try:
            if _file_hash(folder / name, (lengths or {}).get(name)) != digest:
                return name
        except FileNotFoundError:
            return name
    return None


def are_sound(folder: Path) -> bool:
    """Whether a folder's SHA256SUMS is there, and all files are as it says."""
    with suppress(OSError, ValueError):
        return damaged(folder, _read(folder / NAME)) is None
    return False


def check(path: Path) -> None:
    """Raise `BadInput` where a file of a run, or one in a folder of a run, is not as the run has written it.

    A file passes that is missing, or whose hash is not known. It lies in the run's folder, or in a folder there.
    """
    path = path.resolve()
    for run in [path, *path.parents][:3]:
        finished = (run / NAME).exists() and (run / "status.json").exists()
        where = run / (NAME if finished else "checkpoints")
        try:
            known = _read(where) if finished else _of_checkpoints(where)
            inside = [name for name in known if path == run or (run / name).is_relative_to(path)]
            name = damaged(run, {name: known[name] for name in inside if (run / name).exists()})
        except ValueError as error:
            raise BadInput(
                f"{where} is damaged ({error}): remove it to use the files beside it without a check"
            ) from None
        if name:
            instead = "remove the run's folder and run the same again" if finished else "start that run again"
            raise BadInput(
                f"{run / name} is damaged (its hash is not the one in {where}): take it from a copy, or {instead}"
            )


def _read(where: Path) -> dict[str, str]:
    lines, _, own = where.read_text(encoding="utf-8").rpartition(_LAST)
    if own != _hash(lines) + "\n":
        raise ValueError("its last line is not the hash of those above")
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines.splitlines())}


def _of_checkpoints(where: Path) -> dict[str, str]:
    known: dict[str, str] = {}
    for manifest in where.glob("checkpoint_*.json"):
        with suppress(OSError, ValueError, TypeError):  # a run that goes on removes them; a damaged one says nothing
            known |= read_sealed(manifest).get("files", {})
    return known


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_hash(path: Path, length: int | None) -> str:
    """Once per process, for as long as nobody writes the file."""
    stat = path.stat()
    return _cached(path, length, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _cached(path: Path, length: int | None, size: int, time: int) -> str:
    if length is None:
        return files.file_sha256(path)
    with path.open("rb") as file:
        return hashlib.sha256(file.read(length)).hexdigest()
