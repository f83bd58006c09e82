"""A study of short runs of a tiny model, for the tests of sweeps with and without Slurm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write(root: Path, model: Path, arms: Mapping[str, Any], **settings: object) -> Path:
    """A study called ``small`` in ``root``, of these arms, with these settings changed for all."""
    text = root / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice, {i % 7}." for i in range(200)))
    common = {
        "model": str(model),
        "data": str(text),
        "context": 32,
        "micro_batch": 2,
        "steps": 4,
        "rounds": 1,
        "lr": 1e-2,
        "eval_steps": 2,
        "eval_sequences": 4,
        "threads": 1,
        "device": "cpu",
        "super_weights": "none",
    }
    path = root / "study.yaml"
    path.write_text(
        yaml.safe_dump({"name": "small", "settings": common | settings, "arms": dict(arms)}, sort_keys=False)
    )
    return path
