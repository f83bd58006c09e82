"""Every setting once: its name, default, and what it does. ``cli.py`` turns them into flags."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, get_type_hints

from swlottery.errors import BadInput

KAPPA = 40.0
"""κ. One constant for all models: twice the 95th percentile of the permutation null on a real one (docs/method.md)."""
MAX_WEIGHTS = 32
"""The most weights that a search takes out."""
BOS_MODES = ("both", "with", "without")
DTYPES = ("auto", "float32", "bfloat16")
"""Precisions of training."""


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
        "auto",
        "precision to run in; auto: as stored, float32 on a CPU that is slow at 16 bits",
        choices=("auto", "float32", "bfloat16", "float16"),
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
        "both", "run prompts with the beginning-of-sequence token, without it, or both ways", choices=BOS_MODES
    )
    kappa: float = setting(KAPPA, "a spike stands κ times above both medians", metavar="X")
    max_weights: int = setting(MAX_WEIGHTS, "the most weights to take out", metavar="N")
    null_draws: int = setting(199, "draws of each permutation null", metavar="N")
    eval_text: str = setting("builtin", "held-out text: builtin, a file, a folder, or a hub data set", metavar="SRC")
    eval_tokens: int = setting(1024, "tokens of it to verify on", metavar="N")
    eval_context: int = setting(512, "the most tokens in one document of it", metavar="N")
    controls: int = setting(20, "ordinary weights to compare with", metavar="N")
    seed: int = setting(0, "seed of the nulls, the random sets and the bootstrap", metavar="N")
    out: str | None = setting(None, "the record (default: super_weights/<model>.json)", metavar="RECORD.json")
    plots: str | None = setting(None, "folder of the figures (default: plots/<model>)", metavar="FOLDER")
    check: str | None = setting(None, "only say whether this record belongs to the model", metavar="RECORD.json")


ELSEWHERE = frozenset({"runs", "plots", "checkpoint_steps", "checkpoint_seconds", "rank_timeout"})
"""Settings of training that change nothing about what a run computes."""

LATER = ELSEWHERE | {
    "rounds", "prune_rate", "schedule", "one_shot", "data_order", "scope", "criterion", "rewind", "rewind_step", "from_round_1",
    "super_weights", "allow_foreign", "follow", "protect", "force_prune", "eval_steps", "eval_sequences", "compile",
}  # fmt: skip
"""Those that change nothing about the first training."""


@dataclass
class TrainSettings:
    """The settings of ``swlottery train``; a config file holds the same names."""

    # the network at step 0
    model: str = setting("openai-community/gpt2", "a preset, a hub id, a folder, a GGUF file; from scratch a GPT-2 size",
                         metavar="NAME")  # fmt: skip
    revision: str | None = setting(None, "branch, tag or commit on the hub", metavar="REV")
    start: str = setting("pretrained", "pretrained weights, or from scratch", choices=("pretrained", "scratch"))
    init: str = setting("gpt2", "initialisation from scratch", choices=("gpt2", "xavier", "kaiming"))
    tokenizer: str = setting("auto", "from scratch: builtin, a hub id or a folder; auto: GPT-2's where the data come from "
                             "the hub, else builtin", metavar="NAME")  # fmt: skip
    vocabulary: int = setting(0, "rows of the embedding from scratch; 0: as many as the tokenizer has", metavar="N")
    freeze_biases: bool = setting(False, "all biases, LayerNorm's too, stay at zero", action="store_true")
    # the data
    data: str = setting("builtin", "builtin, a text file, a folder, wikitext, openwebtext, or another hub data set",
                        metavar="SRC")  # fmt: skip
    data_tokens: str = setting("auto", "use so many tokens of it (of a hub data set: to train on); 0: all; auto: of a hub "
                               "data set as many as the rounds can read, else all", metavar="N|auto")  # fmt: skip
    context: int = setting(0, "tokens of a sequence; 0: as many as the model was made for, at most 1024", metavar="N")
    micro_batch: int = setting(8, "sequences in one forward pass", metavar="N")
    grad_accum: int = setting(1, "forward passes in one step, over all GPUs", metavar="N")
    # the rounds
    steps: int = setting(300, "steps T of a round", metavar="N")
    rounds: int = setting(5, "rounds of training, pruning and rewinding", metavar="N")
    prune_rate: str = setting("0.2", "fraction of the remaining weights that a round prunes", metavar="P")
    schedule: str = setting("", "one fraction a round, instead of --prune-rate", metavar="A,B,…")
    one_shot: bool = setting(False, "one prune, to what all rounds would leave", action="store_true")
    data_order: str = setting("same", "the same batches each round, or fresh ones", choices=("same", "fresh"))
    scope: str = setting("attn+c_proj", "what may be pruned", choices=("attn+c_proj", "linear", "mlp", "all"))
    criterion: str = setting("global-magnitude", "which weights go first",
                             choices=("global-magnitude", "layer-magnitude", "random"))  # fmt: skip
    rewind: str = setting("weights", "rewind weights, only the learning rate, or nothing",
                          choices=("weights", "lr", "none"))  # fmt: skip
    rewind_step: int = setting(0, "step k of the first training to rewind to", metavar="K")
    from_round_1: str | None = setting(None, "branch from this run's trained round-1 network", metavar="RUN")
    # the super weights
    super_weights: str = setting(
        "discover", "a record of find_sw.sh; discover: find them in the round-1 network; or none", metavar="RECORD"
    )
    allow_foreign: bool = setting(False, "follow a record of another network too, labelled foreign",
                                  action="store_true")  # fmt: skip
    follow: list[str] = setting([], "follow this coordinate too, labelled foreign; may be repeated", action="append",
                                metavar="LAYER,OUT,IN")  # fmt: skip
    protect: str = setting("none", "sw: the super weights are never pruned", choices=("none", "sw"))
    force_prune: str = setting("none", "sw: masked from the start; controls: as many matched controls instead",
                               choices=("none", "sw", "controls"))  # fmt: skip
    # the optimiser
    lr: float = setting(6e-4, "peak learning rate", metavar="X")
    lr_schedule: str = setting("constant", "after the warm-up: constant, or cosine to a tenth",
                               choices=("constant", "cosine"))  # fmt: skip
    warmup: int = setting(0, "steps of linear warm-up", metavar="N")
    weight_decay: float = setting(0.1, "AdamW's weight decay, of matrices only", metavar="X")
    beta1: float = setting(0.9, "AdamW's β1", metavar="X")
    beta2: float = setting(0.95, "AdamW's β2", metavar="X")
    clip: float = setting(1.0, "largest norm of the gradient; 0: no clipping", metavar="X")
    # how it runs
    dtype: str = setting("auto", "of matrix products; weights stay float32. auto: bfloat16 where the device multiplies it "
                         "fast, else float32", choices=DTYPES)  # fmt: skip
    device: str = setting("auto", "cpu, cuda, cuda:1, … or auto", metavar="DEVICE")
    compile: bool = setting(False, "torch.compile", action="store_true")
    threads: int = setting(0, "CPU threads; 0: as many as there are cores, kept for the whole run", metavar="N")
    seed: int = setting(0, "seed of the initialisation and of ties", metavar="N")
    data_seed: int = setting(0, "seed of the batches", metavar="N")
    eval_steps: int = setting(100, "steps between evaluations", metavar="N")
    eval_sequences: int = setting(32, "held-out sequences of an evaluation", metavar="N")
    checkpoint_steps: int = setting(1000, "most steps between checkpoints", metavar="N")
    checkpoint_seconds: float = setting(300, "most seconds between checkpoints", metavar="X")
    rank_timeout: float = setting(300, "several tasks: seconds after which a silent one is given up", metavar="X")
    runs: str | None = setting(None, "folder of the runs (default: runs)", metavar="FOLDER")
    plots: str | None = setting(None, "folder of the figures (default: plots/<run>)", metavar="FOLDER")

    def rates(self) -> list[Decimal]:
        """The fraction of each prune, one a round."""
        if not self.schedule:
            return [_rate("--prune-rate", self.prune_rate)] * self.rounds
        rates = [_rate("--schedule", part) for part in self.schedule.split(",")]
        if len(rates) != self.rounds:
            raise BadInput(f"--schedule has {len(rates)} fractions for {self.rounds} rounds: give one a round")
        return rates

    def coordinates(self) -> list[tuple[int, int, int]]:
        """The coordinates of ``--follow``: (layer, out, in)."""
        found = []
        for text in self.follow:
            parts = text.replace("(", "").replace(")", "").split(",")
            if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
                raise BadInput(f"--follow {text}: give a coordinate as LAYER,OUT,IN, such as 2,447,666")
            layer, out, in_ = (int(part) for part in parts)
            found.append((layer, out, in_))
        return found

    def data_tokens_given(self) -> int | Literal["auto"] | None:
        """``--data-tokens`` as a number, None for all, or ``auto``. `BadInput` for anything else."""
        text = str(self.data_tokens)  # a number in the files of earlier versions
        if text == "auto":
            return "auto"
        if not (text.isascii() and text.isdecimal() and int(text) < 2**63):
            raise BadInput(f"--data-tokens {text}: give a number of tokens, 0 for all, or auto")
        return int(text) or None

    def check(self) -> None:
        """Raise `BadInput` for what cannot be meant; what depends on the model or the data is checked there."""
        least = {"micro_batch": 1, "grad_accum": 1, "steps": 1, "rounds": 1, "eval_steps": 1, "eval_sequences": 1,
                 "checkpoint_steps": 1}  # fmt: skip
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            flag = f"--{one.name.replace('_', '-')}"
            choices = one.metadata["flag"].get("choices")
            if choices and value not in choices:
                raise BadInput(f"{flag} {value}: choose from {', '.join(choices)}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                low = least.get(one.name, 0)
                if not low <= value < 2**63:
                    raise BadInput(f"{flag} {value:g}: must be at least {low}, and finite")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise BadInput(f"--{name} {getattr(self, name):g}: must be below 1")
        if self.rewind_step >= self.steps:
            raise BadInput(
                f"--rewind-step {self.rewind_step}: a round has {self.steps} steps; rewind to an earlier one"
            )
        self.rates()
        self.coordinates()
        self.data_tokens_given()
        if self.one_shot and self.schedule:
            raise BadInput("--one-shot prunes once; leave --schedule away")
        if self.protect == "sw" and self.force_prune == "sw":
            raise BadInput("--protect sw and --force-prune sw contradict each other: choose one")
        if self.super_weights == "none" and (self.protect, self.force_prune) != ("none", "none"):
            raise BadInput("--super-weights none leaves nothing to protect or to force-prune")


@dataclass
class SweepSettings:
    """The settings of ``swlottery sweep``; ``study`` is its only argument."""

    study: str
    dry_run: bool = setting(False, "print every point's flags, and do nothing", action="store_true")
    local: bool = setting(False, "run the points here, though there is a Slurm", action="store_true")
    at_once: int = setting(
        0,
        "most points that run at the same time; 0: as many as the cluster lets; here, one after the other",
        metavar="N",
    )
    sbatch: str = setting(
        "", "options for sbatch, in one word: --sbatch='--partition=gpu --gres=gpu:1'", metavar="OPTIONS"
    )


def _rate(flag: str, text: str) -> Decimal:
    try:
        rate = Decimal(str(text).strip())
    except InvalidOperation:
        raise BadInput(f"{flag} {text}: give a fraction such as 0.2") from None
    # No smaller than 1e-19: the exact count of 1e-999999999 takes for ever.
    if not (rate.is_finite() and 0 < rate < 1 and rate.adjusted() > -20):
        raise BadInput(f"{flag} {text}: a fraction between 0 and 1, such as 0.2 for 20 %")
    return rate


def from_file(path: Path, kind: type) -> dict[str, Any]:
    """The settings in a config file: a flat YAML mapping of setting names to values.

    Raises `BadInput` for a file that cannot be read, an unknown name (with the nearest known one), a value of another
    type.
    """
    return check_values(path, read_yaml(path, "config", "settings: write one 'name: value' a line"), kind)


def read_yaml(path: Path, what: str, holds: str) -> dict[Any, Any]:
    """The mapping in a YAML file. what: the file is called that; holds: what it should hold, in a complaint.

    Raises `BadInput` for a file that cannot be read, and for anything but a mapping.
    """
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the {what} {path}: {error}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise BadInput(f"{path} holds no {holds}")
    return loaded


def check_values(path: Path, values: Mapping[str, Any], kind: type | None = None) -> dict[str, Any]:
    """Settings as a file gives them, of the types that they should have; path: the file, for complaints."""
    hints = get_type_hints(kind or TrainSettings)
    return {name: _value(path, name, value, hints) for name, value in values.items()}


def _value(path: Path, name: Any, value: Any, hints: dict[str, Any]) -> Any:
    if name not in hints:
        near = difflib.get_close_matches(str(name), hints, n=1)
        raise BadInput(f"{path}: unknown setting {name}" + (f": did you mean {near[0]}?" if near else ""))
    wanted = hints[name]
    if wanted == list[str]:
        items = value if isinstance(value, list) else [value]
        return [",".join(map(str, item)) if isinstance(item, list) else str(item) for item in items]
    if wanted is float:
        try:
            return float(str(value))  # YAML reads 6e-4 as text
        except ValueError:
            raise BadInput(f"{path}: {name}: {value!r} is not a number") from None
    if wanted in (int, bool):
        if type(value) is not wanted:
            raise BadInput(f"{path}: {name}: {value!r} is not {'a whole number' if wanted is int else 'true or false'}")
        return value
    if value is None and wanted is not str:
        return None
    if value is None or isinstance(value, dict):
        raise BadInput(f"{path}: {name}: {value!r} is not text")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
