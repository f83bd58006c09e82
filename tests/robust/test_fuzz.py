"""The fuzzing in its short form, and that it sees what it is there to see. The long form: fuzz.py, by hand."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_worker
import pytest
from fuzz_worker import RIGHT, Kind, command, run


@pytest.mark.slow
def test_mutated_inputs_are_right_or_refused() -> None:
    """Of every kind as many as six seconds allow: always the same ones, from the first."""
    script = Path(__file__).with_name("fuzz.py")
    answer = subprocess.run(
        [sys.executable, str(script), "--fresh", "--seconds", "6"], capture_output=True, text=True, timeout=1800
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _write_and_refuse() -> str:
    fuzz_worker.main = lambda arguments: [Path("half.json").write_text("{"), sys.stderr.write("swlottery: no\n"), 2][-1]  # type: ignore[assignment]
    command("find")
    return RIGHT


def _take(size: int) -> str:
    assert len(bytearray(b"x") * size) == size
    return RIGHT


def _loop() -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass
    return RIGHT


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: RIGHT, RIGHT),
        (lambda: {}["no"], "KeyError in ?"),
        (lambda: command("find", "--no-such-flag") and RIGHT, RIGHT),
        (lambda: os.write(2, b"a warning\n") and command("find", "--no-such-flag"), "not one line"),
        (_write_and_refuse, "find refused, and wrote something"),
        (lambda: ctypes.string_at(0), "a crash by signal 11"),
        (_loop, "a hang"),
        (lambda: _take(200 << 20), "more than 128 MB"),
        (lambda: _take(1 << 40), "MemoryError"),
    ],
)
def test_what_a_case_may_not_do(
    check: Callable[[], Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the case behind it is looked at all the same."""
    monkeypatch.setattr(fuzz_worker, "SECONDS", 3)
    monkeypatch.setattr(fuzz_worker, "BYTES", 1 << 27)
    (tmp_path / "sound").mkdir()
    kind = Kind(
        "any", tmp_path / "sound", [], lambda draw, base: base, lambda names, number: check() if number else RIGHT
    )
    bad, good = run(kind, [(1, {}), (0, {})], tmp_path)
    assert bad.verdict.startswith(words), bad
    assert good.verdict == RIGHT
