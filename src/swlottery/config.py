"""Every setting once: its name, default, unit, limits, and what it does. ``cli.py`` turns settings into flags."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Literal

from swlottery.errors import BadInput

KAPPA = 40.0
"""κ. One constant for all models: twice the 95th percentile of the permutation null on a real one (docs/method.md)."""
MAX_WEIGHTS = 32
"""The most weights that a search takes out."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    least: float = 0,
    below: float | None = None,
    path: bool = False,
    affects: Literal["all", "later", "nothing"] = "all",
) -> Any:
    """One setting.

    Args:
        unit: of a number.
        metavar: what ``--help`` writes for the value; N of an integer and X of a fraction where it is not given.
        least, below: the limits of a number.
        path: whether it names a file or folder; then a ``~`` in front is the home folder.
        affects: all results, only those later than the first training, or nothing.
    """
    flag: dict[str, Any] = {}
    if isinstance(default, bool):
        flag["action"] = "store_true"
    elif choices:
        flag["choices"] = choices
    else:
        flag["metavar"] = metavar or {int: "N", float: "X"}.get(type(default))
    if isinstance(default, list):
        flag["action"] = "append"
    metadata = {"help": help, "flag": flag, "unit": unit, "least": least, "below": below, "path": path}
    metadata["affects"] = affects
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


later = partial(setting, affects="later")
"""A setting that changes nothing about the first training."""


def flag_of(name: str) -> str:
    """The flag of a setting: ``--eval-tokens`` of ``eval_tokens``."""
    return f"--{name.replace('_', '-')}"


@dataclass
class Settings:
    """What the settings of all commands have in common."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            if one.metadata.get("path") and (value := getattr(self, one.name)):
                setattr(self, one.name, os.path.expanduser(value))

    def check_limits(self) -> None:
        """Raise `BadInput` for a value that is not among its setting's choices, or not within its limits."""
        for one in dataclasses.fields(self):
            value, flag, about = getattr(self, one.name), flag_of(one.name), one.metadata
            if about.get("path") and value == "":
                raise BadInput(f"{flag} is empty: give a path, or leave it away")
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and re.search("[\0\ud800-\udfff]", text):
                    raise BadInput(f"{flag} {text!a}: is not UTF-8, or holds a zero byte")
            choices = about.get("flag", {}).get("choices")
            if choices and value not in (*choices, one.default):
                raise BadInput(f"{flag} {value}: choose from {', '.join(choices)}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                if not about["least"] <= value < 2**63:
                    raise BadInput(f"{flag} {value:g}: must be at least {about['least']:g}, and finite")
                if about["below"] is not None and value >= about["below"]:
                    raise BadInput(f"{flag} {value:g}: must be below {about['below']:g}")

    def check_idle(self, *cases: tuple[str, object, str]) -> None:
        """Raise `BadInput` for a setting that is given and could not act.

        cases: (names of settings, whether they cannot act, with what); only these settings are looked at.
        """
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        for names, idle, why in cases:
            for name in names.split() if idle else ():
                default = [] if defaults[name] is dataclasses.MISSING else defaults[name]
                if (value := getattr(self, name)) != default:
                    shown = "" if value is True else f" {value}"
                    away = "leave it away" if not default else f"leave it at {default}, its default"
                    raise BadInput(f"{flag_of(name)}{shown} changes nothing {why}: {away}")


@dataclass
class FindSettings(Settings):
    """The settings of ``swlottery find``."""

    model: str = setting("smollm2", "a preset (smollm2), a hub id, a folder, or a GGUF file", metavar="NAME")
    revision: str | None = setting(None, "branch, tag or commit on the hub", metavar="REV")
    start: str = setting(
        "pretrained",
        "pretrained weights, or scratch: gpt2, gpt2-medium, -large or -xl, gpt2-mini or llama-mini with random ones",
        choices=("pretrained", "scratch"),
    )
    dtype: str = setting(
        "auto",
        "precision to run in; auto: as stored, or float32 on a CPU that is slow at 16 bits",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, … or auto", metavar="DEVICE")
    device_map: str | None = setting(
        None,
        "for a model that does not fit on the device. auto: on all GPUs, then in CPU memory, then on disk (in TMPDIR); "
        "cpu: in CPU memory, then on disk; disk: on disk. It is computed on the device",
        choices=("auto", "cpu", "disk"),
    )
    max_memory: str | None = setting(
        None, "with --device-map: the most weights in memory, such as 600MB or 24GiB; on GPUs on each", metavar="SIZE"
    )
    prompt: list[str] = setting([], "look for spikes with this one, not with the six; repeatable", metavar="TEXT")
    prompt_file: str | None = setting(None, "a file of prompts, one a line", metavar="FILE", path=True)
    bos: str = setting(
        "both", "the prompts with BOS in front, without it, or both", choices=("both", "with", "without")
    )
    kappa: float = setting(KAPPA, "a spike is so many times as large as both medians (κ)", unit="× median", least=2)
    max_weights: int = setting(MAX_WEIGHTS, "the most weights to take out", unit="weights", least=1)
    null_draws: int = setting(199, "draws of each permutation null", unit="draws", least=1)
    protocol: str = setting(
        "quick",
        "how to measure the loss; wikitext2: on the first 32 windows of 2,048 tokens of its raw test split",
        choices=("quick", "wikitext2"),
    )
    eval_text: str = setting("builtin", "held-out text: builtin, a file, a folder, or a hub data set", metavar="SRC")
    eval_tokens: int = setting(
        0, "how much of it to verify on; 0: 1,024 tokens on a CPU, 65,536 on a GPU", unit="tokens"
    )
    eval_context: int = setting(512, "the longest document of it", unit="tokens", least=16)
    controls: int = setting(20, "ordinary weights to compare with", unit="weights", least=1)
    seed: int = setting(0, "seed of the nulls, the random sets and the bootstrap")
    ablate: list[str] = setting(
        [], "verify this weight too, found or not; of a mixture LAYER,OUT,IN,EXPERT; repeatable", metavar="LAYER,OUT,IN"
    )
    out: str | None = setting(
        None, "the record (default: super_weights/<model>.json)", metavar="RECORD.json", path=True
    )
    plots: str | None = setting(None, "folder of the figures (default: plots/<record>)", metavar="FOLDER", path=True)
    check: str | None = setting(
        None, "only say whether this record belongs to the model", metavar="RECORD.json", path=True
    )

    def coordinates(self) -> list[tuple[int, ...]]:
        """The coordinates of ``--ablate``, none twice: (layer, out, in), and the expert where one is given."""
        return list(dict.fromkeys(_coordinate("--ablate", text) for text in self.ablate))

    def validate(self) -> None:
        """Raise `BadInput` for what cannot be meant; what depends on the model or the text is checked there."""
        self.check_limits()
        self.coordinates()
        self.check_idle(
            ("revision device_map", self.start == "scratch", "with --start scratch"),
            ("max_memory", self.device_map is None, "without --device-map"),
            ("eval_tokens eval_context", self.protocol == "wikitext2", "with --protocol wikitext2, which fixes it"),
        )


EVALUATED = (
    *("revision", "dtype", "device", "device_map", "max_memory"),
    *("protocol", "eval_text", "eval_tokens", "eval_context"),
)
"""Those of `FindSettings` that ``swlottery evaluate`` takes: which model, and how its loss is measured."""


@dataclass
class TrainSettings(Settings):
    """The settings of ``swlottery train``; a config file holds the same names."""

    # the network at step 0
    model: str = setting(
        "openai-community/gpt2",
        "a preset, a hub id, a folder, a GGUF file; from scratch a GPT-2 size or llama-mini",
        metavar="NAME",
    )
    revision: str | None = setting(None, "branch, tag or commit on the hub", metavar="REV")
    start: str = setting("pretrained", "pretrained weights, or from scratch", choices=("pretrained", "scratch"))
    init: str = setting(
        "gpt2",
        "initialisation from scratch; xavier-zero-gains: with norms' gains at zero, only to repeat earlier scripts",
        choices=("gpt2", "xavier", "kaiming", "xavier-zero-gains"),
    )
    tokenizer: str = setting(
        "auto",
        "from scratch: builtin, a hub id or a folder; auto: GPT-2's for data from the hub, else builtin",
        metavar="NAME",
        path=True,
    )
    vocabulary: int = setting(
        0,
        "rows of the embedding from scratch; 0: as many as the tokenizer has. The built-in tokenizer has no more",
        unit="tokens",
    )
    freeze_biases: bool = setting(False, "all biases, LayerNorm's too, stay at zero")
    # the data
    data: str = setting("builtin", "builtin, a file, a folder, wikitext, openwebtext, or a hub data set", metavar="SRC")
    data_tokens: str = setting(
        "auto",
        "use so many of the data (of a hub data set: to train on); 0: all; auto: what the rounds can read, else all",
        unit="tokens",
        metavar="N|auto",
    )
    context: int = setting(0, "length of a sequence; 0: what the model was made for, at most 1024", unit="tokens")
    first_token: bool = setting(False, "every sequence begins with BOS, here and wherever the tokenizer is used")
    micro_batch: int = setting(8, "size of one forward pass", unit="sequences", least=1)
    grad_accum: int = setting(1, "forward passes in one step, over all GPUs", least=1)
    # the rounds
    steps: int = setting(300, "length T of a round", unit="steps", least=1)
    rounds: int = later(5, "how often to train, prune and rewind", unit="rounds", least=1)
    prune_rate: str = later("0.2", "fraction of the remaining weights that a round prunes", metavar="P")
    schedule: str = later("", "one fraction a round, instead of --prune-rate", metavar="A,B,…")
    one_shot: bool = later(False, "one prune, to what all rounds would leave")
    prune_at_start: bool = setting(False, "the first prune is that of θ_0, before any training: it makes m_0")
    data_order: str = later("same", "the same batches each round, or fresh ones", choices=("same", "fresh"))
    scope: str = later("attn+c_proj", "what may be pruned", choices=("attn+c_proj", "linear", "mlp", "all"))
    criterion: str = later(
        "global-magnitude", "which weights go first", choices=("global-magnitude", "layer-magnitude", "random")
    )
    rewind: str = later(
        "weights", "rewind weights, only the learning rate, or nothing", choices=("weights", "lr", "none")
    )
    rewind_step: int = later(0, "step k of the first training to rewind to", unit="steps", metavar="K")
    from_round_1: str | None = later(None, "branch from this run's trained round-1 network", metavar="RUN", path=True)
    # the super weights
    super_weights: str = later(
        "discover",
        "a record of find_sw.sh; discover: find them in the round-1 network; or none",
        metavar="RECORD",
        path=True,
    )
    allow_foreign: bool = later(False, "track a record of another network too, labelled foreign")
    follow: list[str] = later([], "track this coordinate too, labelled foreign; repeatable", metavar="LAYER,OUT,IN")
    protect: str = later("none", "sw: the super weights are never pruned", choices=("none", "sw"))
    force_prune: str = later(
        "none",
        "sw: masked from the start; controls: as many matched controls instead",
        choices=("none", "sw", "controls"),
    )
    trace: str = later(
        "none",
        "log: look for super weights after steps 1, 2, 4, … of round 1, and follow each through all of them",
        choices=("none", "log"),
    )
    # the optimiser
    lr: float = setting(6e-4, "peak learning rate")
    lr_schedule: str = setting(
        "constant", "after the warm-up: constant, or cosine to a tenth", choices=("constant", "cosine")
    )
    warmup: int = setting(0, "length of the linear warm-up", unit="steps")
    weight_decay: float = setting(0.1, "AdamW's weight decay, of matrices only")
    beta1: float = setting(0.9, "AdamW's β1", below=1)
    beta2: float = setting(0.95, "AdamW's β2", below=1)
    clip: float = setting(1.0, "largest norm of the gradient; 0: no clipping")
    # how it runs
    dtype: str = setting(
        "auto",
        "of matrix products; weights stay float32. auto: bfloat16 where the device multiplies it fast, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    device: str = setting("auto", "cpu, cuda, cuda:1, … or auto", metavar="DEVICE")
    compile: bool = later(False, "torch.compile")
    threads: int = setting(0, "CPU threads; 0: as many as there are cores, kept for the whole run", unit="threads")
    seed: int = setting(0, "seed of the initialisation and of ties")
    data_seed: int = setting(0, "seed of the batches")
    eval_steps: int = later(100, "between evaluations", unit="steps", least=1)
    eval_sequences: int = later(32, "size of an evaluation's held-out text", unit="sequences", least=1)
    checkpoint_steps: int = setting(1000, "most steps between checkpoints", unit="steps", least=1, affects="nothing")
    checkpoint_seconds: float = setting(
        300, "most seconds between checkpoints", unit="seconds", metavar="X", affects="nothing"
    )
    rank_timeout: float = setting(
        300, "how long a silent task is waited for, before the run ends", unit="seconds", metavar="X", affects="nothing"
    )
    tracker: str = setting(
        "none",
        "send losses, thresholds, sparsity and the tracked weights' sizes to this experiment tracker too",
        choices=("none", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"),
        affects="nothing",
    )
    runs: str | None = setting(
        None, "folder of the runs (default: runs)", metavar="FOLDER", path=True, affects="nothing"
    )
    plots: str | None = setting(
        None, "folder of the figures (default: plots/<run>)", metavar="FOLDER", path=True, affects="nothing"
    )

    def rates(self) -> list[Decimal]:
        """The fraction of each prune, one a round."""
        if not self.schedule:
            return [_rate("--prune-rate", self.prune_rate)] * self.rounds
        rates = [_rate("--schedule", part) for part in self.schedule.split(",")]
        if len(rates) != self.rounds:
            raise BadInput(f"--schedule has {len(rates)} fractions for {self.rounds} rounds: give one a round")
        return rates

    @property
    def trainings(self) -> int:
        """How often the network is trained: once behind every prune, and before the first if that is no start's."""
        return (1 if self.one_shot else self.rounds) + (not self.prune_at_start)

    def coordinates(self) -> list[tuple[int, ...]]:
        """The coordinates of ``--follow``: (layer, out, in), and the expert where one is given."""
        return [_coordinate("--follow", text) for text in self.follow]

    def token_count(self) -> int | Literal["auto"] | None:
        """``--data-tokens`` as a number, None for all, or ``auto``. `BadInput` for anything else."""
        text = str(self.data_tokens)  # a number in the files of earlier versions
        if text == "auto":
            return "auto"
        if not (text.isascii() and text.isdecimal() and int(text) < 2**63):
            raise BadInput(f"--data-tokens {text}: give a number of tokens, 0 for all, or auto")
        return int(text) or None

    def check(self) -> None:
        """Raise `BadInput` for what cannot be meant; what depends on the model or the data is checked there."""
        self.check_limits()
        if self.rewind_step >= self.steps:
            raise BadInput(
                f"--rewind-step {self.rewind_step}: a round has {self.steps} steps; rewind to an earlier one"
            )
        self.rates()
        self.coordinates()
        self.token_count()
        self.check_idle(
            ("tokenizer vocabulary init freeze_biases", self.start == "pretrained", "without --start scratch"),
            ("revision", self.start == "scratch", "with --start scratch"),
            ("prune_rate", self.schedule, "with --schedule"),
            ("allow_foreign", self.super_weights in ("discover", "none"), "without a record (--super-weights)"),
            ("rewind rewind_step data_order", self.trainings == 1, "where the only prune is at the start"),
            (
                "protect force_prune",
                self.trainings == 1 and self.super_weights == "discover",
                "where the only prune is at the start, before any is found: give a record (--super-weights)",
            ),
        )
        if self.prune_at_start and self.scope == "all" and self.init == "xavier-zero-gains":
            raise BadInput(
                "--prune-at-start takes the gains that --init xavier-zero-gains has at zero: give another scope"
            )
        if self.prune_at_start and self.from_round_1:
            raise BadInput("--prune-at-start makes another first training than that of --from-round-1: leave one away")
        if self.one_shot and self.schedule:
            raise BadInput("--one-shot prunes once; leave --schedule away")
        if self.protect == "sw" and self.force_prune == "sw":
            raise BadInput("--protect sw and --force-prune sw contradict each other: choose one")
        if self.super_weights == "none" and (self.protect, self.force_prune) != ("none", "none"):
            raise BadInput("--super-weights none leaves nothing to protect or to force-prune")


@dataclass
class TraceSettings(Settings):
    """The settings of ``swlottery trace``; ``model`` is its argument, and a config file holds the same names."""

    model: list[str] = field(default_factory=list)
    revisions: str = setting("", "branches, tags or commits of the one MODEL on the hub, in order", metavar="A,B,…")
    tokens_per_step: int = setting(0, "of the training, where its checkpoints' names do not say", unit="tokens")
    dtype: str = setting("auto", "precision to run in, as for find", choices=("auto", "float32", "bfloat16", "float16"))
    device: str = setting("auto", "cpu, cuda, cuda:1, … or auto", metavar="DEVICE")
    kappa: float = setting(KAPPA, "a spike is so many times as large as both medians (κ)", unit="× median", least=2)
    max_weights: int = setting(MAX_WEIGHTS, "the most weights to take out of a checkpoint", unit="weights", least=1)
    eval_text: str = setting("builtin", "held-out text: builtin, a file, a folder, or a hub data set", metavar="SRC")
    eval_tokens: int = setting(2048, "how much of it to set each weight to zero on", unit="tokens", least=1)
    out: str | None = setting(
        None, "folder of the tables and the figure (default: traces/<model>)", metavar="FOLDER", path=True
    )

    def checkpoints(self) -> list[tuple[str, str | None]]:
        """(model, revision) of each checkpoint. Raises `BadInput` for less than two, and for one that stands twice."""
        self.check_limits()
        revisions: list[str | None] = [name.strip() for name in self.revisions.split(",")] if self.revisions else [None]
        if self.revisions and len(self.model) != 1:
            raise BadInput("--revisions are those of one model: give one MODEL, or folders without --revisions")
        found = [(model, revision) for model in self.model for revision in revisions]
        if "" in revisions or len(found) < 2:
            raise BadInput("nothing to follow: give a MODEL with --revisions A,B,…, or two folders or more")
        for model, revision in found:
            if found.count((model, revision)) > 1:
                raise BadInput(f"{revision or model} stands twice: give each checkpoint once")
        return found


@dataclass
class SweepSettings(Settings):
    """The settings of ``swlottery sweep``; ``study`` is its only argument."""

    study: str = field(metadata={"path": True})
    dry_run: bool = setting(False, "print every point's flags, and what each arm will take; and do nothing")
    tokens_per_second: float = setting(
        0, "with --dry-run: the pace of one GPU; 0: that of the study's own runs", unit="tokens", metavar="X"
    )
    local: bool = setting(False, "run the points here, though there is a Slurm")
    at_once: int = setting(
        0, "the most at a time; 0: as many as the cluster lets, or here one after the other", unit="points"
    )
    sbatch: str = setting(
        "", "options for sbatch, in one word: --sbatch='--partition=gpu --gres=gpu:1'", metavar="OPTIONS"
    )
    live: bool = setting(False, "run the code as it is when each point starts, not a frozen copy of it as it is now")

    def check(self, by_slurm: bool) -> None:
        """Raise `BadInput` for what cannot be meant. by_slurm: whether the points go to Slurm."""
        self.check_limits()
        self.check_idle(
            ("sbatch", not by_slurm and not self.dry_run, "with --local, or without a Slurm"),
            ("tokens_per_second", not self.dry_run, "without --dry-run"),
        )


def _affecting(*results: str) -> frozenset[str]:
    return frozenset(one.name for one in dataclasses.fields(TrainSettings) if one.metadata["affects"] in results)


OPERATIONAL = _affecting("nothing")
"""Settings of training that change nothing about what a run computes."""
AFTER_ROUND_1 = OPERATIONAL | _affecting("later")
"""Those that change nothing about the first training."""


def _coordinate(flag: str, text: str) -> tuple[int, ...]:
    numbers = re.fullmatch(r"\(?((\s*\d{1,18}\s*,){2,3}\s*\d{1,18}\s*)\)?", str(text))
    if not numbers:
        raise BadInput(f"{flag} {text}: give a coordinate as LAYER,OUT,IN, such as 2,447,666")
    return tuple(map(int, numbers[1].split(",")))


def _rate(flag: str, text: str) -> Decimal:
    try:
        rate = Decimal(str(text).strip())
    except InvalidOperation:
        raise BadInput(f"{flag} {text}: give a fraction such as 0.2") from None
    # No smaller than 1e-19: the exact count of 1e-999999999 takes for ever.
    if not (rate.is_finite() and 0 < rate < 1 and rate.adjusted() > -20):
        raise BadInput(f"{flag} {text}: a fraction between 0 and 1, such as 0.2 for 20 %")
    return rate
