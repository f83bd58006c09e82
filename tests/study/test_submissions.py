"""The files of a study's submissions: the newest counts, whatever the clocks of machines say."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from swlottery.study import states, sweep
from swlottery.study.grid import Point, Study

POINT = Point("a", {"steps": 7})


def submitted(folder: Path, name: str, job: str) -> None:
    (folder / "points" / f"{name}.jsonl").write_text(json.dumps(POINT.entry()) + "\n")
    (folder / "points" / f"{name}.job").write_text(f"{job}\n")


def task(folder: Path) -> str:
    return states._tasks(folder, {"a": {"steps": 7}})["a"]


def test_the_last_submission_counts_also_where_the_clock_is_behind(tmp_path: Path) -> None:
    sweep.write_study(tmp_path, Study("s", [POINT]))
    ahead = time.time_ns() + 10**15  # of an earlier version, on a machine whose clock is ahead
    submitted(tmp_path, str(ahead), "50")
    path = sweep._write(tmp_path, [POINT], {})
    path.with_suffix(".job").write_text("60\n")
    assert path.stem == str(ahead + 1) and task(tmp_path) == "60_0"


def test_names_are_read_as_numbers(tmp_path: Path) -> None:
    sweep.write_study(tmp_path, Study("s", [POINT]))
    (tmp_path / "points" / "copy of 3.jsonl").touch()
    for job in range(1, 12):
        path = sweep._write(tmp_path, [POINT], {})
        assert path.name == f"{job}.jsonl"
        path.with_suffix(".job").write_text(f"{job}\n")
    assert task(tmp_path) == "11_0"
    before = str(time.time_ns())
    submitted(tmp_path, before, "12")
    assert task(tmp_path) == "12_0" and states.submissions(tmp_path)[-1].stem == before


def test_two_sweeps_at_once_write_two_files(tmp_path: Path) -> None:
    points = [Point(str(number), {"steps": number}) for number in range(8)]
    sweep.write_study(tmp_path, Study("s", points))
    threads = [
        threading.Thread(target=sweep._write, args=(tmp_path, [point], {})) for point in points for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(path.read_text())["label"] for path in states.submissions(tmp_path)]
    assert sorted(found) == sorted([point.label for point in points] * 4)
