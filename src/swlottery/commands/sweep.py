"""``swlottery sweep``: run every point of a study, as array jobs or here."""

from __future__ import annotations

import os
from pathlib import Path

from swlottery.config import SweepSettings
from swlottery.errors import DONE, FAILED, STOPPED, BadInput
from swlottery.report import words
from swlottery.report.logs.status import counts
from swlottery.report.words import which_code
from swlottery.runtime import slurm
from swlottery.runtime.provenance import Code
from swlottery.study import sweep as sweeps
from swlottery.study.grid import Point, Study, read
from swlottery.study.states import OPEN, last_line, states_of


def sweep(settings: SweepSettings, root: Path) -> int:
    """Submit the open points of a study, or run them here. Returns the exit code: 0 done, 75 stopped, 1 a point failed.

    root: the folder of ``runs``, ``plots`` and func_train.sh.

    Raises:
        BadInput: a study that cannot be read; no func_train.sh in ``root``; Slurm refuses; the code has changed.
    """
    by_slurm = slurm.is_available() and not settings.local
    settings.check(by_slurm)
    study = read(Path(settings.study), root).placed(root)
    folder = root.absolute() / "runs" / study.name
    if settings.dry_run:
        return _dry_run(study, settings.tokens_per_second, folder)
    script = root.absolute() / "func_train.sh"
    options = sweeps.sbatch_options(settings.sbatch)
    if by_slurm and not script.is_file():
        raise BadInput(f"{script} is missing: run sweeps from the root of the swlottery repository")
    now = {one.label: one for one in states_of(folder, {point.label: point.settings for point in study.points})}
    waiting = [point for point in study.points if now[point.label].state in OPEN]
    home, code = sweeps.code_home(folder, root, settings.live) if waiting else (folder, {})
    sweeps.write_study(folder, study)
    for one in now.values():
        if one.state == "failed":
            print(f"failed: {one.label}: {one.reason}")
    print(counts(list(now.values())))
    if not waiting:
        print("nothing to run")
        return DONE
    print(f"code: {which_code(code)}{', or what it is when a point starts' if settings.live else ''}")
    if not by_slurm:
        return _run_here(waiting, settings.at_once, folder, root, home, code)
    for job, number in sweeps.submit(waiting, now, folder, root.absolute(), home, code, options, settings.at_once):
        print(f"submitted {words.count(number, 'point')} as job {job}; logs {folder / 'logs'}/{job}_*.out")
    print(f"to see their states: swlottery status {os.path.relpath(folder)}")
    return DONE


def _dry_run(study: Study, pace: float, folder: Path) -> int:
    from swlottery.report.logs.dry_run import lines

    for point in study.points:
        branch = f"   (branches from {point.parent})" if point.parent else ""
        print(f"{point.label}{branch}: swlottery train {sweeps.flags_of(point.settings)}")
    print(*lines(study.points, pace, folder), sep="\n")
    print(f"{words.count(len(study.points), 'point')}; nothing was submitted")
    return DONE


def _run_here(waiting: list[Point], at_once: int, folder: Path, root: Path, home: Path, code: Code) -> int:
    def began(number: int, point: Point, log: Path) -> None:
        print(f"{number} of {len(waiting)}: {point.label}, log {log}", flush=True)

    def ended(point: Point, log: Path, code: int) -> None:
        if code not in (DONE, STOPPED):
            print(f"failed: {point.label}: exit code {code}: {last_line(log)}", flush=True)

    codes = sweeps.run_here(waiting, folder, root, home, code, began, ended, at_once)
    if STOPPED in codes:
        print("stopped: the same command goes on from there")
        return STOPPED
    print(f"{codes.count(DONE)} done, {len(codes) - codes.count(DONE)} failed")
    return DONE if codes.count(DONE) == len(codes) else FAILED
