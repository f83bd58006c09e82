"""The scheduler: whether it is there, how large an array may be, submitting a job, and which tasks wait or run."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from swlottery.errors import BadInput


def is_available() -> bool:
    """Whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def largest_array() -> int:
    """How many tasks an array may have on this cluster. Slurm's default is 1001: task numbers end at 1000."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(found[1])) if found else 1001


def submit(script: Path, arguments: Sequence[str], options: Sequence[str], folder: Path) -> str:
    """``sbatch OPTIONS SCRIPT ARGUMENTS``, run in ``folder``. Returns the job's number.

    Raises:
        BadInput: Slurm refused; its own words are in the message.
    """
    return _run(["sbatch", "--parsable", f"--chdir={folder}", *options, str(script), *arguments]).strip().split(";")[0]


def queued(jobs: Iterable[str]) -> dict[str, str]:
    """The tasks of these array jobs that wait or run, with their states: ``{"123_4": "PENDING"}``."""
    jobs = sorted(set(jobs))
    if not jobs or not is_available():
        return {}
    # No --jobs: squeue fails if it no longer knows one of them.
    lines = _run(["squeue", "--noheader", "--array", "--format=%F %K %T"]).splitlines()
    found = (line.split() for line in lines)
    return {f"{parts[0]}_{parts[1]}": parts[2] for parts in found if len(parts) == 3 and parts[0] in jobs}


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"{command[0]} does not work on this machine: {error}") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise BadInput(f"{command[0]} refused: {said}")
    return done.stdout
