"""`bench/verification.py` on a planted super weight: the verdict, and the forward tokens that hooks have counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_prints_verdicts_and_their_cost(planted_gpt2, tmp_path):
    planted, _ = planted_gpt2
    (tmp_path / "t.txt").write_text("The quick brown fox jumps over the lazy dog, again and again.\n\n" * 100)
    command = [sys.executable, ROOT / "bench" / "verification.py", "--model", planted, "--eval-text", "t.txt"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    ran = [*map(str, command), "--eval-tokens", "640", "--device", "cpu"]
    done = subprocess.run(ran, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\(1, 5, 60\) +(critical|jointly critical|weak|inert|undetermined)", done.stdout, re.MULTILINE)
    passes = {
        what: float(number) for what, number in re.findall(r"^(\w+) +[\d,]+ +([\d.]+)", done.stdout, re.MULTILINE)
    }
    assert 1 < passes["verdicts"] < 22 and passes["description"] > 0
