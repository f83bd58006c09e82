"""The two scripts that are submitted, as tests see them that hold for both."""

from __future__ import annotations

import os
import pty
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


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

    def log_of(self, root: Path, job: str) -> Path:
        """The log of a Slurm job."""
        return root / self.folder / f"{self.log}_{job}.out"


FIND = Script("find_sw", "find", "super_weights/src/slurm_sw_out", "checkmodel", "--eval-tokens")
TRAIN = Script("func_train", "train", "logs", "lth_hf_out", "--prune-rate")
BOTH = (FIND, TRAIN)


# An environment as scripts/venv.sh accepts it, whose Python is the one that runs the tests. It says that it has
# swlottery, and has no pip: whatever a script does, it cannot install anything into the environment of the tests.
# It knows no PYTHONSAFEPATH, as Python 3.10 does not.
PYTHON = """\
#!/bin/sh
case "$*" in
"-I -c import swlottery") exit 0 ;;
*"-m pip"*) exit 1 ;;
esac
exec env -u PYTHONSAFEPATH '{python}' "$@"
"""


def make_root(root: Path) -> Path:
    """A copy of what the scripts need, with the code itself linked."""
    own = [name for script in BOTH for name in (script.file, f"{script.folder}/README.md")]
    for name in ("pyproject.toml", "requirements.txt", *own):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, root / name)
    for name in ("scripts", "configs"):
        shutil.copytree(REPOSITORY / name, root / name)
    (root / "src").symlink_to(REPOSITORY / "src")
    return root


def make_environment(folder: Path) -> dict[str, str]:
    """The variables to run a script with: those of the tests without any Slurm's, and an environment in ``folder``."""
    python = folder / "bin" / "python3"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_", "SWLOTTERY_"))
    }
    return {**kept, "SWLOTTERY_VENV": str(folder)}


def hide_modules(folder: Path) -> None:
    """Files of a user's, called like Python's own modules and like packages; whoever imports one ends with its name."""
    for name in ("token", "random", "runpy", "sitecustomize", "torch", "transformers/__init__", "swlottery/__init__"):
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise SystemExit('imported the user's {name}.py')\n")


def at_terminal(command: list[str], env: Mapping[str, str], interrupt_at: str | None = None) -> tuple[str, int]:
    """What a command shows on a terminal of its own, and its exit code; Ctrl-C is typed when a text has appeared."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, env)
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the terminal has no other end any more
            piece = b""
        if not piece:
            break
        shown += piece
        if interrupt_at and interrupt_at.encode() in shown:
            time.sleep(0.3)
            os.write(terminal, b"\x03")
            interrupt_at = None
    os.close(terminal)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
