"""The settings of ``swlottery train``, and which of them change what."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from swlottery.config.setting import Settings, coordinate, later, setting
from swlottery.errors import BadInput


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
        return [coordinate("--follow", text) for text in self.follow]

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


def _rate(flag: str, text: str) -> Decimal:
    try:
        rate = Decimal(str(text).strip())
    except InvalidOperation:
        raise BadInput(f"{flag} {text}: give a fraction such as 0.2") from None
    # No smaller than 1e-19: the exact count of 1e-999999999 takes for ever.
    if not (rate.is_finite() and 0 < rate < 1 and rate.adjusted() > -20):
        raise BadInput(f"{flag} {text}: a fraction between 0 and 1, such as 0.2 for 20 %")
    return rate


def _affecting(*results: str) -> frozenset[str]:
    return frozenset(one.name for one in dataclasses.fields(TrainSettings) if one.metadata["affects"] in results)


OPERATIONAL = _affecting("nothing")
"""Settings of training that change nothing about what a run computes."""
AFTER_ROUND_1 = OPERATIONAL | _affecting("later")
"""Those that change nothing about the first training."""


def other_first_training(mine: TrainSettings, theirs: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The first of these settings, with its value, that asks for another first training than ``mine``; None: no such.

    What precision and how many tokens are taken is known later, where one of both says auto.
    """
    known = AFTER_ROUND_1 | {"dtype", "data_tokens"}
    return next(((n, v) for n, v in theirs.items() if n not in known and getattr(mine, n, v) != v), None)
