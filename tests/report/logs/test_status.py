"""`swlottery status`: `swlottery.report.logs.status`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from swlottery.report.logs.status import runs, table

ALIVE: dict[str, Any] = {
    "state": "running",
    "round": 2,
    "rounds": 5,
    "step": 120,
    "steps": 300,
    "train_loss": 3.41234,
    "val_loss": 3.5,
    "followed": 3,
    "kind": "super_weight",
    "alive": 2,
    "seconds_left": 3725.0,
    "tokens_per_second": 1e4,
    "pid": os.getpid(),
    "host": socket.gethostname(),
}


def make(folder: Path, name: str, status: Any = None, **changed: Any) -> None:
    run = folder / name
    run.mkdir(parents=True)
    (run / "settings.json").write_text("{}")
    if status is None:
        status = json.dumps(ALIVE | {"updated": "2026-11-22T20:00:00+0000"} | changed)
    if status:
        (run / "status.json").write_text(status)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 22, 20, 1, 5, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr("swlottery.report.logs.status.time.time", lambda: now)


def state(folder: Path) -> dict[str, str]:
    return {row["run"]: row["state"] for row in runs(folder)}


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_row_a_run_with_all_that_it_says(tmp_path: Path) -> None:
    make(tmp_path, "b", kind="leader", followed=1, alive=1, round=6, state="finished", seconds_left=0.0)
    make(tmp_path, "a")
    text = table(runs(tmp_path)).split("\n")
    assert [" ".join(line.split()) for line in text] == [
        "run state round step train val time left updated alive",
        "a running 2 of 5 120 of 300 3.4123 3.5000 1 h 02 min 1 min 05 s ago 2/3 super weights",
        "b finished final (5) 120 of 300 3.4123 3.5000 — 1 min 05 s ago 1/1 leader",
    ]


def test_a_run_whose_process_has_gone_is_dead(tmp_path: Path, gone: int) -> None:
    make(tmp_path, "alive")
    make(tmp_path, "dead", pid=gone)
    make(tmp_path, "elsewhere", pid=gone, host="another")
    make(tmp_path, "ended", pid=gone, state="stopped")
    make(tmp_path, "nobody", pid=None)
    make(tmp_path, "strange", pid=0)
    make(tmp_path, "huge", pid=10**30)
    assert state(tmp_path) == {
        "alive": "running",
        "dead": "dead",
        "elsewhere": "running",
        "ended": "stopped",
        "nobody": "running",
        "strange": "running",
        "huge": "dead",
    }


def test_a_process_of_another_user_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int, number: int) -> None:
        assert number == 0
        raise PermissionError

    make(tmp_path, "run")
    monkeypatch.setattr(os, "kill", forbidden)
    assert state(tmp_path) == {"run": "running"}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("", "no status"),
        ('{"state": "runn', "unreadable"),
        ("[]", "unreadable"),
        ("null", "unreadable"),
        ('{"round": 3}', "unreadable"),
        ('{"state": 7}', "unreadable"),
        ("\x00\x00", "unreadable"),
        ('{"state": "running"}', "running"),
        ('{"state": "running", "round": "two", "val_loss": null, "alive": true, "updated": 5, "kind": 3}', "running"),
        ('{"state": "running", "val_loss": NaN, "followed": 2, "seconds_left": Infinity}', "running"),
    ],
)
def test_a_status_that_is_missing_or_broken_is_shown_as_such(tmp_path: Path, status: str, said: str) -> None:
    make(tmp_path, "run", status)
    (row,) = runs(tmp_path)
    assert row["state"] == said
    assert table([row]).split("\n")[1].startswith(f"run  {said}")


def test_a_status_that_is_not_text_is_unreadable(tmp_path: Path) -> None:
    make(tmp_path, "run", "")
    (tmp_path / "run" / "status.json").write_bytes(b"\xff\xfe{}")
    assert state(tmp_path) == {"run": "unreadable"}
    (tmp_path / "run" / "status.json").unlink()
    (tmp_path / "run" / "status.json").mkdir()
    assert state(tmp_path) == {"run": "unreadable"}


def test_only_runs_are_listed_and_a_run_lists_itself(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make(tmp_path, name)
    (tmp_path / "not a run").mkdir()
    (tmp_path / "file").touch()
    make(tmp_path, ".hidden")
    assert [row["run"] for row in runs(tmp_path)] == ["a", "b"]
    assert [row["run"] for row in runs(tmp_path / "a")] == ["a"]


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_where_no_run_is_it_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert runs(tmp_path / name) == []
    assert table([]) == "no run here"


def test_why_a_run_failed_is_below_the_table(tmp_path: Path) -> None:
    make(tmp_path, "run", state="failed", message="the loss is not finite at step 7")
    assert table(runs(tmp_path)).split("\n")[2:] == ["", "run: the loss is not finite at step 7"]


def test_nothing_in_a_run_can_steer_the_terminal(tmp_path: Path) -> None:
    make(tmp_path, "a\x1b[2Jb\nc", state="\x1b[31mred", message="\x1b]0;title\x07")
    text = table(runs(tmp_path))
    assert "\x1b" not in text and "\x07" not in text and "a?[2Jb?c" in text and len(text.split("\n")) == 4


def test_what_is_tracked_is_named(tmp_path: Path) -> None:
    make(tmp_path, "1", followed=1, alive=0, round=5)
    make(tmp_path, "2", followed=0, alive=0, kind=None)
    make(tmp_path, "3", followed=2, alive=None, kind="unheard of")
    assert "5 of 5  120 of 300" in table(runs(tmp_path))
    ends = [line.split(" ago  ")[1].strip() for line in table(runs(tmp_path)).split("\n")[1:]]
    assert ends == ["0/1 super weight", "—", "?/2 weights"]


def test_status_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, swlottery.report.logs.status; print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
