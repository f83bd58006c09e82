"""The settings of ``swlottery sweep``."""

from __future__ import annotations

from dataclasses import dataclass, field

from swlottery.config.setting import Settings, setting


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
