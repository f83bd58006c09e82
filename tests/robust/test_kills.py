"""The short forms of two long campaigns: thirty kills, and a fault at forty places."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def harness(name: str, *flags: str) -> str:
    """What a harness says, in a process of its own: it forks, and every child of its children comes to it."""
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(name)), *flags], capture_output=True, text=True, timeout=1200
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_thirty_kills_leave_the_bits_of_undisturbed_runs() -> None:
    said = harness("kills.py", "--more", "30")
    name, kills, runs, differing = said.splitlines()[-1].split()
    assert name == "all" and int(kills) >= 30 and int(runs) > 0 and int(differing) == 0, said


@pytest.mark.slow
def test_a_fault_at_forty_places_loses_nothing() -> None:
    said = harness("faults.py", "--sample", "40")
    if said.startswith("no faults"):
        pytest.skip(said.strip())
    rows = [line.rsplit(maxsplit=4) for line in said.splitlines()[1:]]
    assert sum(int(tried) for *_, tried, _, _ in rows) >= 35, said
    assert all(found == "0" for *_, found in rows), said
