"""How much the long campaigns have tried so far: counts.json, so that they can go on another day."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PATH = FOLDER / "counts.json"


def count(kind: str, counts: dict[str, Any]) -> None:
    """Keep the counts of a harness beside those of the others."""
    lock = os.open(FOLDER, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stored = json.loads(PATH.read_text()) if PATH.exists() else {}
        fresh = PATH.with_name(".counts.json")
        fresh.write_text(json.dumps({**stored, kind: counts}, indent=1) + "\n")
        fresh.replace(PATH)
    finally:
        os.close(lock)


def counted(kind: str) -> dict[str, Any]:
    """What `count` kept."""
    return dict(json.loads(PATH.read_text()).get(kind, {})) if PATH.exists() else {}
