"""The points of a study as jobs: arrays of Slurm, or processes here.

Nothing is kept of a point's state but what its run's folder says. So the same sweep, started again, leaves out what is
done or under way, and runs the rest: what failed, what was stopped, what is new in the study.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from swlottery.config import flag_of
from swlottery.errors import BAD_INPUT, DONE, FAILED, STOPPED, BadInput
from swlottery.runtime import child, files, provenance, slurm, stop, sums
from swlottery.runtime.provenance import Code
from swlottery.settings_file import check_values
from swlottery.study.grid import Point, Study
from swlottery.study.states import HERE, PointState, log_of, submissions

OURS = ("--array", "-a", "--dependency", "-d", "--output", "-o", "--chdir", "-D")
"""The options of sbatch that a sweep needs for itself."""


def code_home(folder: Path, root: Path, live: bool) -> tuple[Path, Code]:
    """Where the code of the points is, and which it is: that of a frozen copy, made if there is none.

    live: that in ``root``, as it will be when a point starts.

    Raises:
        BadInput: the code is not the one that was frozen.
    """
    root, place = root.absolute(), folder / ".code"
    package = provenance.package_of(root)
    if live:
        return root, provenance.code(package)[0]
    provenance.freeze(package, place)
    frozen, _ = provenance.code(provenance.package_of(place))
    running = provenance.PACKAGE.resolve().is_relative_to(place.resolve())  # the sweep is of that copy itself
    if frozen.get("edited"):
        raise BadInput(f"{place} was edited since it was frozen: take that back, or run the checkout with --live")
    if not running and frozen["sha256"] != provenance.sha256_of(package):
        quoted, source, python = map(shlex.quote, map(str, (place, place / "src", sys.executable)))
        raise BadInput(
            f"the code is not the one that this study froze: where no point waits, runs or is done, rm -r {quoted} "
            "and start the sweep again; else run it with --live, give the study another name, or go on with the frozen "
            f"code: PYTHONPATH={source} {python} -m swlottery.cli sweep …"
        )
    return place, frozen


def write_study(folder: Path, study: Study) -> None:
    """Make the folder of a study, and study.json in it."""
    for name in ("points", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    content = {"name": study.name, "points": [point.entry() for point in study.points]}
    files.write_json(folder / "study.json", sums.sealed(content), allow_nan=False)


def flags_of(settings: Mapping[str, Any]) -> str:
    """Settings as flags of ``swlottery train``."""
    parts: list[str] = []
    for name, value in settings.items():
        if value is True:
            parts.append(flag_of(name))
        elif isinstance(value, list):
            parts += [part for one in value for part in (flag_of(name), str(one))]
        elif value is not False and value is not None:
            parts += [flag_of(name), str(value)]
    return shlex.join(parts)


def point_settings(path: Path, task: str) -> dict[str, Any]:
    """The settings in line ``task`` (from 0) of a file that a sweep has written.

    Raises:
        BadInput: no such file or line.
    """
    try:
        # All of them are read: behind a damaged line the others may have moved.
        points = [sums.unsealed(files.parse_json(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        return check_values(points[int(task)]["settings"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BadInput) as error:
        line = task or "(SLURM_ARRAY_TASK_ID is not set)"
        raise BadInput(f"--point {path}: no line {line} of a sweep's points there ({error})") from None


def sbatch_options(given: str) -> list[str]:
    """The options of ``--sbatch``. `BadInput` for those that the sweep gives itself."""
    try:
        options = shlex.split(given)
    except ValueError as error:
        raise BadInput(f"--sbatch {given}: {error}") from None
    for option in options:
        name = option.partition("=")[0]
        if name in OURS:
            raise BadInput(f"--sbatch {given}: {name} is the sweep's own (at most so many at a time: --at-once)")
    return options


def submit(
    points: Sequence[Point],
    states: Mapping[str, PointState],
    folder: Path,
    root: Path,
    home: Path,
    code: Code,
    options: Sequence[str] = (),
    at_once: int = 0,
) -> Iterator[tuple[str, int]]:
    """Submit points as array jobs, one after the other; (the job's number, how many points) of each.

    The points that train from the start come first, those that branch from another after them. There are more arrays
    where the cluster's are too small. Each waits for the one before it, so that never more than ``at_once`` tasks run,
    and for parents that are in the queue already.

    Args:
        states: of all points of the study, by label.
        root: the folder that the jobs run in.
        home, code: of `code_home`; func_train.sh is there too.
        at_once: most tasks at a time; 0: as many as the cluster lets.
    """
    size, last = slurm.largest_array(), ""
    for some in ([p for p in points if not p.parent], [p for p in points if p.parent]):
        for first in range(0, len(some), size):
            part = some[first : first + size]
            path = _write(folder, part, code)
            before = {states[point.parent].job for point in part if point.parent} | {last}
            behind = ":".join(sorted(job for job in before if job))
            own = [
                f"--array=0-{len(part) - 1}" + (f"%{at_once}" if at_once else ""),
                f"--job-name={folder.name}",
                f"--output={str(folder).replace('%', '%%')}/logs/%A_%a.out",
                *([f"--dependency=afterany:{behind}"] if behind else []),
            ]
            script = home / "func_train.sh" if home == root else _frozen_script(path, home)
            last = slurm.submit(script, ["--point", str(path)], [*options, *own], root)
            files.write_text(path.with_suffix(".job"), last + "\n")
            yield last, len(part)


def _frozen_script(points: Path, home: Path) -> Path:
    """func_train.sh of one submission: it knows the frozen code and our interpreter, whatever becomes of variables."""
    given, script = os.environ.get("SWLOTTERY_VENV"), points.with_suffix(".sh")
    python = Path(given, "bin", "python3").absolute() if given else Path(sys.executable)
    empty = "swlottery_code='' swlottery_python='' "
    own = f"swlottery_code={shlex.quote(str(home))} swlottery_python={shlex.quote(str(python))} "
    files.write_text(script, (home / "func_train.sh").read_text(encoding="utf-8").replace(empty, own))
    return script


def _write(folder: Path, points: Sequence[Point], code: Code) -> Path:
    """One file a submission, never changed: a task may start, or start again, long after the study was edited.

    Beside it is one with the code, and whether the points run that or what it has become by then (``live``).
    Its number is one more than the largest, whatever the clocks of machines say. Two sweeps at once get two numbers.
    """
    number = max((int(path.stem) for path in submissions(folder)), default=0)
    while True:
        number += 1
        path = folder / "points" / f"{number}.jsonl"
        with suppress(FileExistsError), open(path, "x", encoding="utf-8") as file:
            file.writelines(json.dumps(sums.sealed(point.entry())) + "\n" for point in points)
            break
    for written in (path, path.parent):
        files.sync(written)
    files.write_json(path.with_suffix(".json"), {**code, "live": "frozen" not in code})
    return path


def run_here(
    points: Sequence[Point],
    folder: Path,
    root: Path,
    home: Path,
    code: Code,
    began: Callable[[int, Point, Path], None],
    ended: Callable[[Point, Path, int], None],
    at_once: int = 1,
) -> list[int]:
    """Run points on this machine, so many at a time, in their order: arm by arm. Returns their exit codes.

    A point that branches waits for the one that it branches from; others go first meanwhile. A signal goes on to all
    that run, and ends the sweep: the points that had not begun have the code of a stopped run.

    Args:
        root: the folder that paths in settings are relative to.
        home, code: of `code_home`.
        began: called with a point's number (from 1), the point and its log; in a thread of its own.
        ended: called with the point, its log and its exit code; likewise.
    """
    path, package = _write(folder, points, code), provenance.package_of(home)
    files.write_text(path.with_suffix(".job"), f"{HERE}\n")

    def one(number: int) -> int:
        if asked():
            return STOPPED
        point = points[number]
        log = log_of(folder, point.label, HERE)
        began(number + 1, point, log)
        exit_code = _train(f"{path}:{number}", log, root, asked, package)
        ended(point, log, exit_code)
        return exit_code

    waiting, codes = list(range(len(points))), dict[int, int]()
    running: dict[Future[int], int] = {}
    with stop.flag() as asked, ThreadPoolExecutor(max(1, at_once)) as pool:
        while waiting or running:
            open_ = {points[number].label for number in (*waiting, *running.values())}
            ready = [number for number in waiting if points[number].parent not in open_]
            for number in ready[: max(1, at_once) - len(running)]:
                waiting.remove(number)
                running[pool.submit(one, number)] = number
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                codes[running.pop(task)] = task.result()
    return [codes[number] for number in range(len(points))]


def _train(point: str, log: Path, root: Path, asked: stop.Asked, package: Path) -> int:
    """One point in a process of its own. It is asked to stop if we are; only once, for twice it would not save."""
    cores = {name: value for name, value in os.environ.items() if name == "SLURM_CPUS_PER_TASK"}  # are its own too
    own = {"SWLOTTERY_ROOT": str(root.absolute()), "PYTHONIOENCODING": "utf-8"}
    variables = child.variables(slurm.outside(os.environ), package) | cores | own
    command = child.command("swlottery.cli", "train", "--point", point)
    with open(log, "ab") as file, subprocess.Popen(command, stdout=file, stderr=file, env=variables) as process:
        while not asked():
            with suppress(subprocess.TimeoutExpired):
                return process.wait(0.2)
        process.terminate()
        code = process.wait()
    return code if code in (DONE, FAILED, BAD_INPUT) else STOPPED  # a signal may end it before it can save
