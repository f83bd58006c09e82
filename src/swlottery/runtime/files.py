"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let ``fill`` write a file beside ``path``, make it durable, and rename it: no reader sees half of it."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        fill(unfinished)
        sync(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any, allow_nan: bool = True) -> None:
    """A JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=allow_nan) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with system_errors():
        write(path, lambda unfinished: save_file(whole, unfinished, dict(metadata or {})))


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """What safetensors says of the system, such as that a disk is full, as the `OSError` that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        raise


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
