"""What a model's name means: a preset, a GGUF file, a folder, or a hub id."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from swlottery.errors import BadInput
from swlottery.runtime import sums

FROM_SCRATCH = ("gpt2-mini", "llama-mini")
PRESETS = ("smollm2", *FROM_SCRATCH)
"""They win over a folder of that name, unless it is written with ``./``."""
LONGEST = 190
"""Characters of a model's name in the name of a file, which may have 255 bytes in all."""


def slug(name: str) -> str:
    """A model's name as one safe path component: ``openai-community/gpt2`` → ``openai-community__gpt2``."""
    last = Path(name).name if is_path(name) else name.replace("/", "__")
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", last.removesuffix(".gguf")).lstrip(".")
    return shortened(safe or "model", LONGEST)


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters: of a longer one the beginning, and a hash of all."""
    return name if len(name) <= longest else f"{name[: longest - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_path(name: str) -> bool:
    """Whether a model's name means something on this machine's disk rather than a preset or something on the hub."""
    written = name.startswith((".", "/", "~")) or name.endswith((".gguf", "/")) or name.count("/") > 1
    return written or (name not in PRESETS and os.path.exists(name))


def path_of(name: str) -> Path | None:
    """The file or folder that a model's name means; None for a preset or a hub id.

    Raises `BadInput` for a path where there is nothing.
    """
    if not is_path(name):
        return None
    where = Path(os.path.expanduser(name))
    if not os.path.exists(where):  # Path.exists raises for a name that is too long
        raise BadInput(f"no such file or folder: {name}")
    return where


def locate(name: str, revision: str | None = None) -> tuple[str | Path, str]:
    """(a GGUF file, a folder or a hub id; a note on what the model is, or "").

    Raises `BadInput` for a path where there is no model, or a run's that is damaged, and for a revision of what is not
    on the hub.
    """
    from swlottery.models import gguf

    where = path_of(name)
    if revision is not None and (where is not None or name in PRESETS):
        raise BadInput(f"--revision {revision} changes nothing: {name} is not on the hub; leave it away")
    if where is None:
        if name in FROM_SCRATCH:
            here = f", or write ./{name} for the folder" if os.path.exists(name) else ""
            raise BadInput(f"{name} exists from scratch only: add --start scratch{here}")
        return (gguf.smollm2_file(), gguf.SMOLLM2_NOTE) if name == "smollm2" else (name, "")
    if where.is_file() and where.suffix != ".gguf":
        raise BadInput(f"{name} is a file, but not a GGUF file: give a folder, a .gguf file or a hub id")
    if where.is_dir() and not (where / "config.json").is_file():
        raise BadInput(f"{name} holds no model: there is no config.json in it")
    sums.check(where)
    return where, ""
