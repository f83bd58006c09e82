"""The scheduler: whether it is there, how large an array may be, submitting a job, and which tasks wait or run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from swlottery.errors import BadInput

PATIENCE = 120.0  # seconds in which a program of Slurm has to answer
UNKNOWN = "it may have submitted the job all the same: look with squeue, and cancel that job before you try again"
# SLURM_CONF, SLURM_CONF_SERVER, SLURM_CLUSTERS, SLURM_JWT and SLURM_SACK_… say which Slurm, and are the user's.
_OF_A_JOB = re.compile(
    r"SLURM_(?!CONF(_SERVER)?$|CLUSTERS$|JWT$|SACK_)|SLURMD_|SRUN_|PMI|MASTER_(ADDR|PORT)$|SWLOTTERY_BATCH_JOB$"
    r"|((LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME)$|TORCHELASTIC_"
)


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
        BadInput: Slurm refused, and its own words are in the message; or it did not say the job's number.
    """
    said = _run(["sbatch", "--parsable", f"--chdir={folder}", *options, str(script), *arguments], UNKNOWN)
    # A site's own sbatch may print more, before and behind; a federation puts the cluster's name after the number.
    found = [line[1] for line in re.finditer(r"^\s*(\d+)(;\S+)?\s*$", said, re.MULTILINE)]
    if len(found) != 1:
        raise BadInput(f"sbatch did not print one job's number but '{' '.join(said.split())}': {UNKNOWN}")
    return found[0]


def queued(jobs: Iterable[str]) -> dict[str, str]:
    """The tasks of these array jobs that wait or run, with their states: ``{"123_4": "PENDING"}``."""
    jobs = sorted(set(jobs))
    if not jobs or not is_available():
        return {}
    # No --jobs: squeue fails if it no longer knows one of them. --federation: also where a sibling cluster runs them.
    lines = _run(["squeue", "--noheader", "--array", "--federation", "--format=%F %K %T"]).splitlines()
    found = (line.split() for line in lines)
    return {f"{parts[0]}_{parts[1]}": parts[2] for parts in found if len(parts) == 3 and parts[0] in jobs}


def outside(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process without those of the job, the step or the rank that it may itself be.

    A job gets its variables from whoever submits it, and `srun` in it takes them as its options.
    """
    return {name: value for name, value in given.items() if not _OF_A_JOB.match(name)}


def _run(command: Sequence[str], late: str = "try again later") -> str:
    # A user's SQUEUE_STATES or SQUEUE_PARTITION would hide tasks.
    variables = {name: value for name, value in outside(os.environ).items() if not name.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False, env=variables
        )
    except subprocess.TimeoutExpired:
        raise BadInput(f"{command[0]} did not answer within {PATIENCE:g} s: {late}") from None
    except OSError as error:
        raise BadInput(f"{command[0]} does not work on this machine: {error}") from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise BadInput(f"{command[0]} refused: {said}")
    return done.stdout
