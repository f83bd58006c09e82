"""`bench/references.py` on local stand-ins, with a table of its own of what is published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TABLE = """\
model,layer,out,in,source,note
lab/planted,1,5,60,"somebody, Table 1",perplexity 7 to 9
lab/planted,1,5,61,"somebody, Table 1",
lab/control,0,3,7,somebody else,negative control: a value of 15
lab/gone,0,1,2,somebody,
lab/other,99,1,2,somebody,
lab/none,,,,somebody,negative control: no massive activations reported
"""
FEW = ["--eval-tokens", "640", "--controls", "2", "--null-draws", "3", "--device", "cpu"]


class Bench:
    """The script with a copy of the package whose published.csv is TABLE."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"PYTHONPATH": str(folder / "src"), "HF_HUB_OFFLINE": "1"}
        shutil.copytree(ROOT / "src" / "swlottery", folder / "src" / "swlottery")
        (folder / "src" / "swlottery" / "find" / "published.csv").write_text(TABLE, encoding="utf-8")
        (folder / "t.txt").write_text("The quick brown fox jumps over the lazy dog, again and again.\n\n" * 100)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, str(ROOT / "bench" / "references.py"), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def row(said: str, name: str) -> list[str]:
    """The cells of the first table behind a model's name."""
    return next(line for line in said.splitlines() if line.startswith(name)).removeprefix(name).split()


@pytest.mark.slow
def test_recall_extras_and_effects_as_planted(bench, planted_gpt2):
    """An array job has run one model; then all are run, of which one cannot be had, and one is another network."""
    planted, _ = planted_gpt2
    places = [f"lab/gone={bench.folder}/gone", f"lab/planted={planted}", f"LAB/control={planted}", "lab/other=nowhere"]
    own, flags = [*places, "--out", "o u t"], ["--", "--eval-text", "t.txt", *FEW]
    said = bench(*own, "--list", *flags, code=1)
    assert "  0  lab/gone\n  1  lab/planted\n" in said and said.count("not run yet") == 4
    run_task(bench, next(line.strip() for line in said.splitlines() if "sbatch" in line), 1)
    out = bench.folder / "o u t"
    assert [path.name for path in out.glob("*.json")] == ["lab__planted.json"] and not list(out.glob("*.png"))
    record = (out / "lab__planted.json").read_text(encoding="utf-8")
    other = {key: value for key, value in json.loads(record).items() if not key.startswith("published")}
    (out / "lab__other.json").write_text(json.dumps(other))

    said = bench(*own, *flags, code=1)
    assert "lab/planted: its record is there" in said
    assert (out / "lab__planted.json").read_text(encoding="utf-8") == record
    assert row(said, "lab/planted  ")[:5] == ["2", "1", "50%", "0", "0"]
    assert row(said, "lab/control (control)")[:4] == ["1", "0", "0%", "1"]
    text = " ".join(said.split())
    assert "(1, 5, 61) was not found: removal 1, (1, 5, 60), makes the spike of its channel" in text
    assert "(0, 3, 7) was not found: its channel has no spike" in text
    assert "Found and not published: (1, 5, 60) (" in text
    assert "Source: somebody, Table 1; (1, 5, 60): perplexity 7 to 9." in text
    assert f"NOT THERE: lab/gone: swlottery: no such file or folder: {bench.folder}/gone" in text
    assert "NOT THERE: lab/other: it is another network: it has no place for each of the published weights, (99" in text
    alone, together = (effect(line) for line in said.splitlines() if line.startswith(("(1, 5, 60)", "all of them")))
    assert alone == pytest.approx(together, rel=1e-3) and alone != 1
    assert Image.open(out / "references.png").width > 1000


def effect(line: str) -> float:
    return float(line.partition("×")[2].split()[0])


def run_task(bench: Bench, line: str, number: int) -> None:
    """What sbatch would run as the task with a number, from the line that --list prints."""
    assert "--array=0-3 --output='o u t'/task_%a.out --wrap " in line
    wrapped = ["bash", "-c", f'sbatch() {{ printf "%s" "${{@: -1}}"; }}; {line}']
    script = subprocess.run(wrapped, capture_output=True, text=True, check=True).stdout
    environment = bench.environment | {"SLURM_ARRAY_TASK_ID": str(number)}
    subprocess.run(["sh", "-c", script], cwd=bench.folder, env=environment, check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lab/unheard-of"], "nothing is published of lab/unheard-of"),
        (["--task", "5"], "the models have the numbers 0 to 4"),
    ],
)
def test_what_cannot_be_meant(bench, arguments, words):
    assert words in bench(*arguments, code=2)
    assert not (bench.folder / "references").exists()
