"""`bench/gpu.py` as it runs on a GPU's machine: uninstalled, without network, without missing packages."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MISSING = ("datasets", "gguf", "jsonschema")


HIDE = f"""
import importlib.machinery, importlib.metadata

find_spec, from_name = importlib.machinery.PathFinder.find_spec, importlib.metadata.Distribution.from_name

def no_spec(_, name, *more):
    return None if name.partition(".")[0] in {MISSING} else find_spec(name, *more)

def no_version(name):
    if name in {MISSING}:
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(name)

importlib.machinery.PathFinder.find_spec = classmethod(no_spec)  # bound, as pytest takes it over
importlib.metadata.Distribution.from_name = staticmethod(no_version)
"""


def bench(tmp_path: Path, *flags: str, code: int = 0, more: str = "") -> dict:
    """Run it small, with the packages hidden from Python as it starts; returns its gpu.json."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(HIDE + more)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "start"), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--small", "--out", str(tmp_path / "out"), *flags]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.strip() == (tmp_path / "out" / "gpu.txt").read_text().strip()
    assert not list(tmp_path.glob("swlottery-gpu-*")), "it cleans up"
    result: dict = json.loads((tmp_path / "out" / "gpu.json").read_text())
    return result


def test_a_part_that_fails_stops_no_other(tmp_path):
    """No part can import torch: each is tried all the same, and shows the end of its log."""
    result = bench(tmp_path, "--parts", "prune,finder", code=1, more="import sys; sys.modules['torch'] = None\n")
    for name in ("prune", "finder"):
        assert result["parts"][name]["state"] == "FAILED"
        assert "import of torch halted" in "\n".join(result["parts"][name]["log"])


def test_a_part_is_ended_at_its_limit_with_all_that_it_started(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    gpu = importlib.import_module("gpu")
    process = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert gpu.ended(process, 0.1).startswith("OVER ITS LIMIT")
    assert process.stdout.read() == b"", "the child held this pipe open"
    assert child != process.pid


@pytest.mark.slow
def test_all_parts(tmp_path):
    result = bench(tmp_path)
    parts = result["parts"]
    assert list(parts) == ["tests", "resume", "speed", "finder", "prune", "offload", "seed"]
    assert {part["state"] for part in parts.values()} == {"done"}
    assert all(row["result"] in ("passed", "skipped") for row in parts["tests"]["rows"])
    runs = {row["run"]: row for row in parts["resume"]["rows"]}
    assert len(runs) == 2 and all(row[name] == "same" for row in runs.values() for name in ("final", "watch", "masks"))
    steps = {row["step of"]: row for row in parts["speed"]["rows"] if "step of" in row}
    assert len(steps) == 6 and all(row["tokens/s"] > 0 for row in steps.values())
    found = [row[""] for row in parts["finder"]["rows"] if row["what"].endswith("found")]
    assert found == ["[(1, 5, 60)], planted (1, 5, 60)"] * 2
    (row,) = parts["seed"]["rows"]  # the command itself: the product works without the packages
    assert row["exit code"] == 0 and row["steps"] == 12 and row["tokens a step"] == 128
    assert "torch" in result["machine"]


@pytest.mark.slow
def test_the_study_leaves_tables_that_join_a_report(tmp_path):
    from swlottery.cli import main

    result = bench(tmp_path, "--parts", "study")
    pilot, study, trace = result["parts"]["study"]["rows"]
    assert (
        pilot["steps"] == 8 and study["steps"] >= 12 and study["found"].startswith("round 1: ") and trace["steps"] > 2
    )
    out = tmp_path / "out"
    assert (out / "run" / "round_1" / "trace.csv").exists() and not list(out.rglob("*.safetensors"))
    assert main(["report", str(out / "study_tables"), "--out", str(tmp_path / "page.html")]) == 0
    assert "gpt2-mini" in (tmp_path / "page.html").read_text()
