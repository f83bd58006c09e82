"""``swlottery sweep``: run every point of a study, as one array job or one after the other.

Nothing is kept of how a point stands but what its run's folder says. So the same command, given again, leaves out what
is done or under way, and runs the rest: what failed, what was stopped, what is new in the study.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.config import SweepSettings, TrainSettings
from swlottery.errors import BadInput
from swlottery.runtime import files, slurm
from swlottery.runtime.folder import changed, read_status
from swlottery.study import Point, read

DONE, FAILED, STOPPED = 0, 1, 75
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
        print(f"{_count(len(study.points), 'point')}; nothing was submitted")
        return DONE
    script = root.absolute() / "func_train.sh"
    by_slurm = slurm.here() and not settings.local
    if by_slurm and not script.is_file():
        raise BadInput(f"{script} is missing: run sweeps from the root of the swlottery repository")
    for name in ("points", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    content = [{"label": p.label, "settings": _settings(p, folder, root), "parent": p.parent} for p in study.points]
    files.write_json(folder / "study.json", {"name": study.name, "points": content})
    standings = {one.label: one for one in stand(folder)}
    waiting = [point for point in study.points if standings[point.label].state in OPEN]
    _report(standings.values())
    if not waiting:
        print("nothing to run")
        return DONE
    if by_slurm:
        _submit(waiting, settings, folder, root, script)
        return DONE
    return _run_here(waiting, folder, root)


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
        found: dict[str, Any] = json.loads(lines[int(task)])["settings"]
    except (OSError, ValueError, LookupError) as error:
        raise BadInput(f"--point {path}: no line {task or '(SLURM_ARRAY_TASK_ID is not set)'} of a sweep's points there "
                       f"({error})") from None  # fmt: skip
    return found


# --- how the points stand


def stand(folder: Path) -> list[Standing]:
    """How every point of the study in ``folder`` stands, in its order."""
    try:
        points = json.loads((folder / "study.json").read_text(encoding="utf-8"))["points"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder} holds no study: {error}") from None
    tasks = _tasks(folder)
    queue = slurm.queued(job.partition("_")[0] for job in tasks.values() if job != HERE)
    return [_stands(folder, point, tasks.get(point["label"], ""), queue) for point in points]


def _tasks(folder: Path) -> dict[str, str]:
    """The task that each point was last submitted as, by label: ``123_4``; ``here`` if it was run without Slurm."""
    found = {}
    for path in sorted((folder / "points").glob("*.jsonl")):
        with suppress(OSError, ValueError):
            job = path.with_suffix(".job").read_text(encoding="utf-8").strip()
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
                found[json.loads(line)["label"]] = HERE if job == HERE else f"{job}_{number}"
    return found


def _stands(folder: Path, point: dict[str, Any], task: str, queue: dict[str, str]) -> Standing:
    label, status = point["label"], _status(folder / point["label"], point["settings"])
    log = folder / "logs" / (f"{label}.out" if task == HERE else f"{task}.out") if task else None
    state, reason = str(status.get("state", "")), ""
    if state == "finished":
        state = "done"
    elif task in queue:
        state = "pending" if queue[task] == "PENDING" else "running"
    elif task == HERE and state == "running" and _lives(status):
        pass
    elif state == "stopped":
        reason = "stopped; run the sweep again, and it goes on"
    elif state or (task and not (task == HERE and log is not None and not log.exists())):
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
    named = changed(TrainSettings(**settings))
    return {name: value for name, value in named.items() if name not in ("from_round_1", "super_weights")}


def _lives(status: dict[str, Any]) -> bool:
    with suppress(OSError, TypeError, ValueError):
        os.kill(int(status["pid"]), 0)
        return True
    return False


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


def _report(standings: Any) -> None:
    counts: dict[str, int] = {}
    for one in standings:
        counts[one.state] = counts.get(one.state, 0) + 1
        if one.state == "failed":
            print(f"failed: {one.label}: {one.reason}")
    print(
        f"{_count(sum(counts.values()), 'point')}: "
        + ", ".join(f"{number} {state}" for state, number in counts.items())
    )


# --- running them


def _submit(waiting: list[Point], settings: SweepSettings, folder: Path, root: Path, script: Path) -> None:
    """One array for the points that stand alone, one behind it for those that branch from another; more of each where the
    cluster's arrays are too small. Arrays follow each other, so that never more run than --at-once says."""
    size = slurm.largest_array()
    last = ""
    for points in ([p for p in waiting if not p.parent], [p for p in waiting if p.parent]):
        for first in range(0, len(points), size):
            part = points[first : first + size]
            path = _write(folder, part, root)
            at_once = f"%{settings.at_once}" if settings.at_once else ""
            options = [
                f"--array=0-{len(part) - 1}{at_once}", f"--job-name={folder.name}",
                f"--output={folder / 'logs' / '%A_%a.out'}", *([f"--dependency=afterany:{last}"] if last else []),
                *shlex.split(settings.sbatch),
            ]  # fmt: skip
            last = slurm.submit(script, ["--point", str(path)], options, root.absolute())
            path.with_suffix(".job").write_text(last + "\n", encoding="utf-8")
            print(f"submitted {_count(len(part), 'point')} as job {last}; logs {folder / 'logs'}/{last}_*.out")
    print(f"how they stand: swlottery status {os.path.relpath(folder)}")


def _write(folder: Path, points: Sequence[Point], root: Path) -> Path:
    """One file for each submission, never changed: a task may start, or start again, long after the study was edited."""
    path = folder / "points" / f"{time.time_ns()}.jsonl"
    lines = [json.dumps({"label": p.label, "settings": _settings(p, folder, root)}, ensure_ascii=False) for p in points]
    files.write(path, lambda unfinished: unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return path


def _run_here(waiting: list[Point], folder: Path, root: Path) -> int:
    """One after the other, those first from which others branch. A signal goes on to the one that runs, and ends it all."""
    ordered = sorted(waiting, key=lambda point: point.parent is not None)
    path = _write(folder, ordered, root)
    path.with_suffix(".job").write_text(f"{HERE}\n", encoding="utf-8")
    failed = 0
    for number, point in enumerate(ordered):
        log = folder / "logs" / f"{point.label}.out"
        print(f"{number + 1} of {len(ordered)}: {point.label}, log {log}", flush=True)
        with open(log, "ab") as file:
            command = [sys.executable, "-m", "swlottery.cli", "train", "--point", f"{path}:{number}"]
            code = _wait(
                subprocess.Popen(
                    command, stdout=file, stderr=file, env={**os.environ, "SWLOTTERY_ROOT": str(root.absolute())}
                )
            )
        if code == STOPPED:
            print("stopped: the same command goes on from there")
            return STOPPED
        if code != DONE:
            failed += 1
            print(f"failed: {point.label}: exit code {code}: {_last_words(log)}", flush=True)
    print(f"{len(ordered) - failed} done, {failed} failed")
    return FAILED if failed else DONE


def _wait(process: subprocess.Popen[bytes]) -> int:
    def pass_on(number: int, frame: object) -> None:
        process.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def table(folder: Path) -> Iterator[str]:
    """The lines of ``swlottery status`` for a study."""
    from swlottery.report import words

    standings = stand(folder)
    cells = []
    for one in standings:
        status = one.status
        at = (
            f"{status['round']} of {status['rounds']}" if status.get("rounds") and one.state != "new" else words.NOTHING
        )
        step = f"{status['step']} of {status['steps']}" if status.get("steps") and one.state != "new" else words.NOTHING
        cells.append([one.label, one.state, at, step, words.number(status.get("val_loss")), one.job or words.NOTHING])
    yield from words.table(["point", "state", "round", "step", "val", "task"], cells, left=2, width=10_000)
    reasons = [f"{one.label}: {one.reason}" for one in standings if one.reason]
    if reasons:
        yield ""
        yield from reasons
    counts: dict[str, int] = {}
    for one in standings:
        counts[one.state] = counts.get(one.state, 0) + 1
    yield ""
    yield f"{_count(len(standings), 'point')}: " + ", ".join(f"{number} {state}" for state, number in counts.items())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
