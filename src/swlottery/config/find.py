"""The settings of ``swlottery find``, and those of them that ``evaluate`` takes."""

from __future__ import annotations

from dataclasses import dataclass

from swlottery.config.setting import KAPPA, MAX_WEIGHTS, Settings, coordinate, setting


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
        return list(dict.fromkeys(coordinate("--ablate", text) for text in self.ablate))

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
