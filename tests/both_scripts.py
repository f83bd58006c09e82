"""The two scripts that are submitted, as tests see them that hold for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Script:
    """One of the scripts. folder: of its logs, below the root; log: how their names begin; flag: one of its command."""

    name: str
    command: str
    folder: str
    log: str
    flag: str

    @property
    def file(self) -> str:
        """Its file's name, at the repository's root."""
        return f"{self.name}.sh"

    def logs(self, root: Path) -> list[Path]:
        """All its logs, by name."""
        return sorted((root / self.folder).glob(f"{self.log}_*.out"))


FIND = Script("find_sw", "find", "super_weights/src/slurm_sw_out", "checkmodel", "--eval-tokens")
TRAIN = Script("func_train", "train", "logs", "lth_hf_out", "--prune-rate")
BOTH = (FIND, TRAIN)
