"""The settings of ``swlottery trace``."""

from __future__ import annotations

from dataclasses import dataclass, field

from swlottery.config.setting import KAPPA, MAX_WEIGHTS, Settings, setting
from swlottery.errors import BadInput


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
