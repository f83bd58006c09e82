"""What a model's name means: a preset, a GGUF file, a folder, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from swlottery.errors import BadInput


def slug(name: str) -> str:
    """A model's name as one safe path component: ``openai-community/gpt2`` → ``openai-community__gpt2``."""
    last = Path(name).name if is_path(name) else name.replace("/", "__")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", last.removesuffix(".gguf")).lstrip(".")
    return safe or "model"


def is_path(name: str) -> bool:
    """Whether a model's name means something on this machine's disk rather than on the hub."""
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1 or Path(name).exists()


def path_of(name: str) -> Path | None:
    """The file or folder that a model's name means; None for a preset or a hub id.

    Raises `BadInput` for a path where there is nothing.
    """
    if not is_path(name):
        return None
    where = Path(name).expanduser()
    if not where.exists():
        raise BadInput(f"no such file or folder: {name}")
    return where


def locate(name: str) -> tuple[str | Path, str]:
    """(a GGUF file, a folder or a hub id; a note on what the model is, or "").

    Raises `BadInput` for a path where there is no model.
    """
    from swlottery.models import gguf

    where = path_of(name)
    if where is None:
        if name == "gpt2-mini":
            raise BadInput("gpt2-mini exists from scratch only: add --start scratch")
        return (gguf.smollm2_file(), gguf.SMOLLM2_NOTE) if name == "smollm2" else (name, "")
    if where.is_file() and where.suffix != ".gguf":
        raise BadInput(f"{name} is a file, but not a GGUF file: give a folder, a .gguf file or a hub id")
    if where.is_dir() and not (where / "config.json").is_file():
        raise BadInput(f"{name} holds no model: there is no config.json in it")
    return where, ""
