"""A run whose disk fills says so in one line, and ends with the same bits once there is room."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from lottery.runs import complaint, flags, only_run, traces
from swlottery.cli import main
from swlottery.lottery.training import Training
from swlottery.runtime import files


@pytest.fixture
def steps(monkeypatch) -> Counter:
    """How often each (round, step) is taken."""
    taken, real = Counter(), Training.step

    def step(self, number, round_, see=None):
        taken[round_, number] += 1
        return real(self, number, round_, see)

    monkeypatch.setattr(Training, "step", step)
    return taken


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_gpt2, text) -> dict:
    """A run that always had room."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SWLOTTERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(flags(tiny_gpt2, text, folder)) == 0
    return traces(only_run(folder))


def is_first_checkpoint(path: Path) -> bool:
    return path.name == "checkpoint_1_2.safetensors"


MOMENTS = {
    "the settings": lambda path: path.name == "settings.json",
    "the initial weights": lambda path: path.name == "theta_0.safetensors",
    "the first checkpoint": is_first_checkpoint,
    "a manifest": lambda path: path.name == "checkpoint_2_4.json",
    "a mask": lambda path: path.name == "round_2.safetensors",
    "round 1": lambda path: path.name == "round.json",
    "the last word": lambda path: path.name == "status.json" and path.with_name("final").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_fills_at_some_write(moment, alone, steps, tiny_gpt2, text, tmp_path, monkeypatch, capsys):
    real, full = files.write, []

    def write(path, fill):
        if full or MOMENTS[moment](path):  # and stays full
            full.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, fill)

    arguments = flags(tiny_gpt2, text, tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(files, "write", write)
        assert main(arguments) == 2
    assert full
    said = complaint(capsys.readouterr().err)
    assert "No space left" in said and str(only_run(tmp_path)) in said and "it goes on" in said
    assert main(arguments) == 0
    assert traces(only_run(tmp_path)) == alone
    assert len(steps) == 18 and sum(steps.values()) <= 22, "from the newest checkpoint, or the one before it"
    assert not (only_run(tmp_path) / "checkpoints").exists()
    assert main(arguments) == 0 and sum(steps.values()) <= 22, "it is done"


def test_a_disk_that_is_full_when_the_run_is_stopped(alone, steps, tiny_gpt2, text, tmp_path, monkeypatch, capsys):
    """What it was asked to save is not there, and it does not say so."""
    real, real_step = files.write, Training.step

    def write(path, fill):
        if path.name.startswith("checkpoint_2_4"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, fill)

    def step(self, number, round_, see=None):
        if (round_, number) == (2, 3):
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(self, number, round_, see)

    arguments = flags(tiny_gpt2, text, tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(files, "write", write)
        patched.setattr(Training, "step", step)
        assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert "No space left" in complaint(error) and "saved at" not in out
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "failed"
    assert main(arguments) == 0
    assert traces(only_run(tmp_path)) == alone and sum(steps.values()) == 20


def test_the_tables_may_be_what_finds_the_disk_full(alone, tiny_gpt2, text, tmp_path, monkeypatch, capsys):
    """Half a line is written: it is cut off when the run goes on."""
    from swlottery.runtime.tables import Tables

    real = Tables.watch

    def watch(self, rows):
        rows = list(rows)
        if rows[0]["round"] == 2 and rows[0]["step"] == 3:
            os.write(self.files["watch.csv"].fileno(), b"2,3,lea")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, rows)

    arguments = flags(tiny_gpt2, text, tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(Tables, "watch", watch)
        assert main(arguments) == 2
    assert "No space left" in complaint(capsys.readouterr().err)
    assert (only_run(tmp_path) / "watch.csv").read_bytes().endswith(b"2,3,lea")
    assert main(arguments) == 0
    assert traces(only_run(tmp_path)) == alone


@pytest.mark.parametrize("network", ["round_1", "final"])
def test_a_network_half_written_leaves_nothing(network, alone, steps, tiny_gpt2, text, tmp_path, monkeypatch, capsys):
    from transformers import PreTrainedTokenizerBase

    real = PreTrainedTokenizerBase.save_pretrained

    def save_pretrained(self, folder, *args, **kwargs):
        if Path(folder).name.startswith(f".{network}."):
            assert (Path(folder) / "model.safetensors").exists()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, folder, *args, **kwargs)

    arguments = flags(tiny_gpt2, text, tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedTokenizerBase, "save_pretrained", save_pretrained)
        assert main(arguments) == 2
    assert "No space left" in complaint(capsys.readouterr().err)
    assert not [path for path in only_run(tmp_path).iterdir() if path.name.startswith(".")]
    assert not (only_run(tmp_path) / network).exists()
    assert main(arguments) == 0
    assert traces(only_run(tmp_path)) == alone and sum(steps.values()) == 20


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, and a function that sets its size in KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(place)], check=True)

    yield place, resize
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("size", [40, 300, 800, 1100, 1500, 1900])
def test_a_small_disk(size, disk, alone, steps, tiny_gpt2, text, capsys):
    """A real one: safetensors has words of its own for it, and every file may be the one that no longer fits."""
    place, resize = disk
    resize(size)
    arguments = flags(tiny_gpt2, text, place)
    capsys.readouterr()
    assert main(arguments) == 2
    assert "No space left" in complaint(capsys.readouterr().err)
    run = only_run(place)
    done = sum(steps.values())
    kept = sorted(path.stem for path in (run / "checkpoints").glob("*.json")) if (run / "checkpoints").exists() else []
    assert not [path for path in run.rglob(".*.*") if len(path.suffix) == 33], "nothing half written takes room"
    resize(60_000)
    assert main(arguments) == 0
    assert traces(run) == alone
    assert len(steps) == 18 and sum(steps.values()) <= 18 + (4 if kept else done)
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
