"""``swlottery sweep``: run every point of a study, as one array job or one after the other.

Nothing is kept of how a point stands but what its run's folder says. So the same command, given again, leaves out what
is done or under way, and runs the rest: what failed, what was stopped, what is new in the study.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.config import SweepSettings, TrainSettings, check_values
from swlottery.errors import DONE, FAILED, STOPPED, BadInput
from swlottery.report import words
from swlottery.report.logs import status as statuses
from swlottery.runtime import files, slurm, stop
from swlottery.runtime.folder import read_status
from swlottery.study.grid import Point, read
from swlottery.study.naming import changed

OPEN = ("new", "stopped", "failed")
"""The states of points that a sweep runs."""

HERE = "here"
"""In place of a job's number: run without Slurm."""


@dataclass
class Standing:
    """How a point stands: ``done``, ``running``, ``pending``, ``stopped``, ``failed`` or ``new``; reason: of a failure;
    job: the last task it was submitted as; log: what that wrote to; status: the run's own status.json."""

    label: str
    state: str
    reason: str
    job: str
    log: Path | None
    status: dict[str, Any]


def sweep(settings: SweepSettings, root: Path) -> int:
    """Submit the open points of a study, or run them here; returns the exit code.

    Raises:
        BadInput: a study that cannot be read; no func_train.sh in ``root``; Slurm refuses.
    """
    study = read(Path(settings.study), root)
    folder = root.absolute() / "runs" / study.name
    if settings.dry_run:
        for point in study.points:
            behind = f"   (behind {point.parent})" if point.parent else ""
            print(f"{point.label}{behind}: swlottery train {flags_of(_settings(point, folder, root))}")
        print(f"{words.count(len(study.points), 'point')}; nothing was submitted")
        return DONE
    script = root.absolute() / "func_train.sh"
    by_slurm = slurm.here() and not settings.local
    options = _options(settings.sbatch)
    if by_slurm and not script.is_file():
        raise BadInput(f"{script} is missing: run sweeps from the root of the swlottery repository")
    for name in ("points", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    content = [_entry(point, folder, root) for point in study.points]
    files.write_json(folder / "study.json", {"name": study.name, "points": content}, allow_nan=False)
    standings = {one.label: one for one in stand(folder)}
    waiting = [point for point in study.points if standings[point.label].state in OPEN]
    for one in standings.values():
        if one.state == "failed":
            print(f"failed: {one.label}: {one.reason}")
    print(_counts(standings.values()))
    if not waiting:
        print("nothing to run")
        return DONE
    if by_slurm:
        _submit(waiting, standings, settings.at_once, options, folder, root, script)
        return DONE
    return _run_here(waiting, settings.at_once, folder, root)


def _entry(point: Point, folder: Path, root: Path) -> dict[str, Any]:
    return {"label": point.label, "settings": _settings(point, folder, root)}


def _settings(point: Point, folder: Path, root: Path) -> dict[str, Any]:
    """A point's settings with its own folders, and its parent's in place of that one's label."""
    found = {
        **point.settings,
        "runs": str(folder / point.label),
        "plots": str(root.absolute() / "plots" / folder.name / point.label),
    }
    return found | ({"from_round_1": str(folder / point.parent)} if point.parent else {})


def flags_of(settings: dict[str, Any]) -> str:
    """Settings as flags of ``swlottery train``."""
    parts: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            parts.append(flag)
        elif isinstance(value, list):
            parts += [part for one in value for part in (flag, str(one))]
        elif value is not False and value is not None:
            parts += [flag, str(value)]
    return shlex.join(parts)


def point_settings(path: Path, task: str) -> dict[str, Any]:
    """The settings in line ``task`` (from 0) of a file that a sweep has written.

    Raises:
        BadInput: no such file or line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = check_values(path, dict(json.loads(lines[int(task)])["settings"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"--point {path}: no line {task or '(SLURM_ARRAY_TASK_ID is not set)'} of a sweep's points there "
                       f"({error})") from None  # fmt: skip
    return found


# --- how the points stand


def stand(folder: Path) -> list[Standing]:
    """How every point of the study in ``folder`` stands, in its order."""
    try:
        points = {
            str(point["label"]): check_values(folder / "study.json", dict(point["settings"]))
            for point in json.loads((folder / "study.json").read_text(encoding="utf-8"))["points"]
        }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"{folder}: study.json is damaged ({error}): the same sweep writes it again") from None
    tasks = _tasks(folder, points)
    queue = slurm.queued(job.partition("_")[0] for job in tasks.values() if job != HERE)
    return [_stands(folder, label, own, tasks.get(label, ""), queue) for label, own in points.items()]


def _tasks(folder: Path, points: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The task that each point was last submitted as, by label: ``123_4``; ``here`` if it was run without Slurm. What was
    submitted under its name with other settings is another point."""
    found = {}
    for path in sorted((folder / "points").glob("*.jsonl")):
        with suppress(OSError, ValueError, LookupError, TypeError, BadInput):
            job = path.with_suffix(".job").read_text(encoding="utf-8").strip()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                point = json.loads(line)
                if points.get(point["label"]) == check_values(path, point["settings"]):
                    found[point["label"]] = HERE if job == HERE else f"{job}_{number}"
    return found


def _stands(folder: Path, label: str, settings: dict[str, Any], task: str, queue: dict[str, str]) -> Standing:
    status = _status(folder / label, settings)
    log = folder / "logs" / (f"{label}.out" if task == HERE else f"{task}.out") if task else None
    begun = log is not None and (task != HERE or log.exists())  # those that run in turn have no log before
    state, reason = str(status.get("state", "")), ""
    if state == "finished":
        state = "done"
    elif task in queue:
        state = "pending" if queue[task] == "PENDING" else "running"
    elif task == HERE and state == "running" and not statuses.is_gone(status):
        pass
    elif state == "stopped":
        reason = "stopped; run the sweep again, and it goes on"
    elif state or begun:
        # What says that it runs, and is in no queue, was killed; what says nothing has failed before its folder was there.
        state, reason = "failed", str(status.get("message", "")) or _last_words(log)
    else:
        state = "new"
    return Standing(label, state, reason, task, log, status)


def _status(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """status.json of the run in a point's folder that has these settings; a study that was edited leaves others."""
    wanted = _named(settings)
    for path in sorted(folder.glob("*/settings.json")):
        with suppress(OSError, ValueError, TypeError):
            if _named(json.loads(path.read_text(encoding="utf-8"))) == wanted:
                return read_status(path.parent)
    return {}


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    """What tells runs of one point apart. A path may be given in more than one way, and a parent by its point's folder."""
    if settings.get("data_tokens") == 0:  # an earlier version's default; since then numbers are texts
        settings = {name: value for name, value in settings.items() if name != "data_tokens"}
    named = changed(TrainSettings(**settings))
    if named.get("super_weights") not in (None, "none"):
        named["super_weights"] = Path(named["super_weights"]).name
    if parent := named.get("from_round_1"):
        is_run = (Path(parent) / "lock").exists()
        named["from_round_1"] = (Path(parent).parent if is_run else Path(parent)).name
    return named


def _last_words(log: Path | None) -> str:
    """The last line of a log that says something: not those with which the batch script or srun ends each."""
    if log is None or not log.exists():
        return "it left no log"
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    ends = ("func_train: log ", "func_train: exit code", "srun: ", "stopped after", "failed after")
    return next(
        (line.strip() for line in reversed(lines) if line.strip() and not line.startswith(ends)), "its log is empty"
    )


def _counts(standings: Iterable[Standing]) -> str:
    counts = Counter(one.state for one in standings)
    return f"{words.count(counts.total(), 'point')}: " + ", ".join(
        f"{number} {state}" for state, number in counts.items()
    )


# --- running them


OURS = ("--array", "-a", "--dependency", "-d", "--output", "-o", "--chdir", "-D")
"""The options of sbatch by which a sweep keeps its word."""


def _options(given: str) -> list[str]:
    try:
        options = shlex.split(given)
    except ValueError as error:
        raise BadInput(f"--sbatch {given}: {error}") from None
    for option in options:
        if option.partition("=")[0] in OURS:
            raise BadInput(
                f"--sbatch {given}: {option.partition('=')[0]} is the sweep's own (at most so many at a time: --at-once)"
            )
    return options


def _submit(
    waiting: list[Point], standings: Mapping[str, Standing], at_once: int, options: Sequence[str], folder: Path, root: Path,
    script: Path,
) -> None:  # fmt: skip
    """One array for the points that stand alone, one behind it for those that branch from another; more of each where the
    cluster's arrays are too small. Arrays follow each other, so that never more run than --at-once says; and parents that
    are in the queue already."""
    size = slurm.largest_array()
    last = ""
    for points in ([p for p in waiting if not p.parent], [p for p in waiting if p.parent]):
        for first in range(0, len(points), size):
            part = points[first : first + size]
            path = _write(folder, part, root)
            parents = [standings[p.parent] for p in part if p.parent]
            before = {
                one.job.partition("_")[0] for one in parents if one.state in ("pending", "running") and one.job != HERE
            }
            behind = ":".join(sorted(before | ({last} if last else set())))
            own = [
                f"--array=0-{len(part) - 1}" + (f"%{at_once}" if at_once else ""), f"--job-name={folder.name}",
                f"--output={folder / 'logs' / '%A_%a.out'}", *([f"--dependency=afterany:{behind}"] if behind else []),
            ]  # fmt: skip
            last = slurm.submit(script, ["--point", str(path)], [*options, *own], root.absolute())
            path.with_suffix(".job").write_text(last + "\n", encoding="utf-8")
            print(f"submitted {words.count(len(part), 'point')} as job {last}; logs {folder / 'logs'}/{last}_*.out")
    print(f"how they stand: swlottery status {os.path.relpath(folder)}")


def _write(folder: Path, points: Sequence[Point], root: Path) -> Path:
    """One file for each submission, never changed: a task may start, or start again, long after the study was edited."""
    path = folder / "points" / f"{time.time_ns()}.jsonl"
    lines = [json.dumps(_entry(point, folder, root)) for point in points]
    files.write(path, lambda unfinished: unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return path


def _run_here(waiting: list[Point], at_once: int, folder: Path, root: Path) -> int:
    """In turn, or so many at once; those first from which others branch. A signal goes on to all that run, and ends it."""
    ordered = sorted(waiting, key=lambda point: point.parent is not None)
    path = _write(folder, ordered, root)
    path.with_suffix(".job").write_text(f"{HERE}\n", encoding="utf-8")

    def one(number: int) -> int:
        if asked():
            return STOPPED
        point = ordered[number]
        log = folder / "logs" / f"{point.label}.out"
        print(f"{number + 1} of {len(ordered)}: {point.label}, log {log}", flush=True)
        code = _train(f"{path}:{number}", log, root, asked)
        if code not in (DONE, STOPPED):
            print(f"failed: {point.label}: exit code {code}: {_last_words(log)}", flush=True)
        return code

    branches = sum(point.parent is not None for point in ordered)
    first, then = range(len(ordered) - branches), range(len(ordered) - branches, len(ordered))
    with stop.flag() as asked, ThreadPoolExecutor(max(1, at_once)) as pool:
        codes = list(pool.map(one, first))
        codes += pool.map(one, then)
    if STOPPED in codes:
        print("stopped: the same command goes on from there")
        return STOPPED
    print(f"{codes.count(DONE)} done, {len(codes) - codes.count(DONE)} failed")
    return DONE if codes.count(DONE) == len(codes) else FAILED


def _train(point: str, log: Path, root: Path, asked: stop.Asked) -> int:
    """One point in a process of its own, which is told to stop (never twice: that would not let it save) if we are."""
    command = [sys.executable, "-m", "swlottery.cli", "train", "--point", point]
    variables = {**os.environ, "SWLOTTERY_ROOT": str(root.absolute())}
    told = False
    with open(log, "ab") as file, subprocess.Popen(command, stdout=file, stderr=file, env=variables) as process:
        while process.poll() is None:
            if asked() and not told:
                process.terminate()
                told = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        return process.returncode


def table(folder: Path) -> Iterator[str]:
    """The lines of ``swlottery status`` for a study."""
    standings = stand(folder)
    cells = []
    for one in standings:
        row = dict.fromkeys(statuses.NUMBERS) | one.status
        at, step = statuses.where(row), statuses.of(row["step"], row["steps"])
        cells.append([one.label, one.state, at, step, words.number(row["val_loss"]), one.job or words.NOTHING])
    yield from words.table(["point", "state", "round", "step", "val", "task"], cells, left=2, width=10_000)
    reasons = [f"{one.label}: {one.reason}" for one in standings if one.reason]
    if reasons:
        yield ""
        yield from reasons
    yield ""
    yield _counts(standings)
