"""How far every point of a study has come, from the files of its folder and from Slurm's queue.

runs/<study>/study.json      the points, each with its label and settings
runs/<study>/points/*.jsonl  what one submission ran, a point a line; beside it *.job, with the number of that job, and
                             *.json, with its code
runs/<study>/.code/          a frozen copy of the code that the points run
runs/<study>/logs/           a log a task
runs/<study>/<label>/        the run of a point
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.runtime import files, provenance, slurm, sums
from swlottery.runtime.folder import is_gone, read_status
from swlottery.runtime.provenance import Code
from swlottery.settings_file import check_values
from swlottery.study.naming import changed

OPEN = ("new", "stopped", "failed")
"""The states of points that a sweep runs."""
HERE = "here"
"""In place of a job's number: run without Slurm."""


@dataclass(frozen=True)
class PointState:
    """The state of a point.

    state: ``done``, ``running``, ``pending``, ``stopped``, ``failed`` or ``new``. reason: why it is not done, where
    known. task: what it was last submitted as, ``123_4`` or ``here``. status: the run's own status.json. codes: that
    its run had.
    """

    label: str
    state: str
    reason: str
    task: str
    status: Mapping[str, Any]
    codes: Sequence[Code] = ()

    @property
    def job(self) -> str | None:
        """The number of the Slurm job that it waits or runs in."""
        if self.state not in ("pending", "running") or self.task == HERE:
            return None
        return self.task.partition("_")[0]


def states(folder: Path) -> list[PointState]:
    """The state of every point of the study in ``folder``, in its order, as its study.json says.

    Raises:
        BadInput: study.json cannot be read; Slurm does not answer.
    """
    try:
        stored = sums.read_sealed(folder / "study.json")["points"]
        points = {str(point["label"]): check_values(point["settings"]) for point in stored}
        if not all(re.fullmatch(r"[\w+=-][\w.+=-]*", label) for label in points):
            raise ValueError("a label is no name of a folder in it")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BadInput) as error:
        raise BadInput(f"{folder}: study.json is damaged ({error}): the same sweep writes it again") from None
    return states_of(folder, points)


def states_of(folder: Path, points: Mapping[str, Mapping[str, Any]]) -> list[PointState]:
    """`states`, for these points: their settings, by label."""
    tasks = _tasks(folder, points)
    queue = slurm.queued(task.partition("_")[0] for task in tasks.values() if task != HERE)
    return [_state(folder, label, settings, tasks.get(label, ""), queue) for label, settings in points.items()]


def submissions(folder: Path) -> list[Path]:
    """The files of a study's submissions, oldest first: their names are numbers (of before: times)."""
    numbered = [path for path in (folder / "points").glob("*.jsonl") if path.stem.isdecimal()]
    return sorted(numbered, key=lambda path: int(path.stem))


def _tasks(folder: Path, points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The task that each point was last submitted as. What was submitted with other settings is another point.

    Raises `BadInput` where that cannot be told: to submit a point again that is in the queue would do it twice.
    """
    found = {}
    for path in submissions(folder):
        try:
            job = path.with_suffix(".job").read_text(encoding="utf-8").strip()
            if job != HERE and not job.isdecimal():
                raise ValueError(f"{path.with_suffix('.job').name} holds no number of a job")
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                point = sums.unsealed(files.parse_json(line))
                with suppress(LookupError, TypeError, BadInput):  # of a version with other settings
                    if points.get(point["label"]) == check_values(point["settings"]):
                        found[point["label"]] = HERE if job == HERE else f"{job}_{number}"
        except OSError:  # it never came to a job
            continue
        except ValueError as error:
            raise BadInput(f"{path} is damaged ({error}): remove it when its job has ended") from None
    return found


def _state(folder: Path, label: str, settings: Mapping[str, Any], task: str, queue: Mapping[str, str]) -> PointState:
    run = next(_runs_with(folder / label, settings), None)
    status, codes = (read_status(run), provenance.codes(run)) if run else ({}, [])
    log = log_of(folder, label, task) if task else None
    begun = log is not None and (task != HERE or log.exists())  # those that run in turn have no log before
    state, reason = str(status.get("state", "")), ""
    if state == "finished":
        state = "done"
    elif task in queue:
        state = "pending" if queue[task] == "PENDING" else "running"
    elif task == HERE and state == "running" and not is_gone(status):
        pass
    elif state == "stopped":
        reason = "stopped; run the sweep again, and it goes on"
    elif state or begun:
        # A run in no queue that says it runs was killed; one that says nothing failed before it had a folder.
        state, reason = "failed", str(status.get("message", "")) or last_line(log)
    else:
        state = "new"
    return PointState(label, state, reason, task, status, codes)


def _runs_with(folder: Path, settings: Mapping[str, Any]) -> Iterator[Path]:
    """The runs in a point's folder that have these settings; a study that was edited leaves others."""
    wanted = _identity(settings)
    for path in sorted(folder.glob("*/settings.json")):
        with suppress(OSError, ValueError, TypeError, BadInput):
            if _identity(files.read_json(path)) == wanted:
                yield path.parent


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes the runs of one point.

    A path may be given in more than one way: of a record only its name counts, of a parent only its point's folder.
    """
    if settings.get("data_tokens") == 0:  # an earlier version's default; since then numbers are texts
        settings = {name: value for name, value in settings.items() if name != "data_tokens"}
    named = changed(TrainSettings(**settings))
    if named.get("super_weights") not in (None, "none"):
        named["super_weights"] = Path(named["super_weights"]).name
    if parent := named.get("from_round_1"):
        is_run = (Path(parent) / "lock").exists()
        named["from_round_1"] = (Path(parent).parent if is_run else Path(parent)).name
    return named


def log_of(folder: Path, label: str, task: str) -> Path:
    """The log of a point's task."""
    return folder / "logs" / f"{label if task == HERE else task}.out"


def last_line(log: Path | None) -> str:
    """The last line of a log that says something: not those with which the batch script or srun ends each."""
    if log is None or not log.exists():
        return "it left no log"
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    ends = ("func_train: log ", "func_train: exit code", "srun: ", "stopped after", "failed after")
    said = (line.strip() for line in reversed(lines) if line.strip() and not line.startswith(ends))
    return next(said, "its log is empty")
