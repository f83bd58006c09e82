"""Every setting once: its name, default, and what it does. ``cli.py`` turns them into flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swlottery.find import probe, search, spikes


def setting(default: Any, help: str, **flag: Any) -> Any:
    """A setting; ``flag`` holds what its command-line flag needs beyond name, type and default."""
    metadata = {"help": help, "flag": flag}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class FindSettings:
    """The settings of ``swlottery find``."""

    model: str = setting("smollm2", "a preset (smollm2), a hub id, a folder, or a GGUF file", metavar="NAME")
    revision: str | None = setting(None, "branch, tag or commit on the hub", metavar="REV")
    start: str = setting(
        "pretrained",
        "pretrained weights, or scratch: gpt2, gpt2-medium, gpt2-large, gpt2-xl or gpt2-mini from its config, at random",
        choices=("pretrained", "scratch"),
    )
    dtype: str = setting(
        "auto", "precision to run in; auto: as stored", choices=("auto", "float32", "bfloat16", "float16")
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, … or auto", metavar="DEVICE")
    prompt: list[str] = setting(
        [],
        "a prompt to look for spikes with, instead of the default ones; may be repeated",
        action="append",
        metavar="TEXT",
    )
    prompt_file: str | None = setting(None, "a file of prompts, one a line", metavar="FILE")
    bos: str = setting(
        "both", "run prompts with the beginning-of-sequence token, without it, or both ways", choices=probe.BOS_MODES
    )
    kappa: float = setting(spikes.KAPPA, "a spike stands κ times above both medians", metavar="X")
    max_weights: int = setting(search.MAX_WEIGHTS, "the most weights to take out", metavar="N")
    null_draws: int = setting(199, "draws of each permutation null", metavar="N")
    eval_text: str = setting("builtin", "held-out text: builtin, a file, a folder, or a hub data set", metavar="SRC")
    eval_tokens: int = setting(1024, "tokens of it to verify on", metavar="N")
    eval_context: int = setting(512, "the most tokens in one document of it", metavar="N")
    controls: int = setting(20, "ordinary weights to compare with", metavar="N")
    seed: int = setting(0, "seed of the nulls, the random sets and the bootstrap", metavar="N")
    out: str | None = setting(None, "the record (default: super_weights/<model>.json)", metavar="RECORD.json")
    plots: str | None = setting(None, "folder of the figures (default: plots/<model>)", metavar="FOLDER")
    check: str | None = setting(None, "only say whether this record belongs to the model", metavar="RECORD.json")
