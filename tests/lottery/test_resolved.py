"""One run, one precision, one text: what its first start took is kept, on whatever machine it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lottery.runs import complaint, events, flags, only_run
from swlottery.cli import main
from swlottery.config import TrainSettings
from swlottery.lottery import branch
from swlottery.runtime import folder as folders
from swlottery.runtime import hardware


@pytest.fixture
def fast(monkeypatch):
    """Sets whether this machine multiplies bfloat16 fast."""

    def set_to(value: bool) -> None:
        monkeypatch.setattr(hardware, "bfloat16", lambda device: (value, f"bfloat16 units: {value}"))
        monkeypatch.setattr(hardware, "slowdown", lambda device: 20.0)

    return set_to


def small(model: Path, text: Path | str, folder: Path, *more: str, **changes: Any) -> list[str]:
    wanted = {"dtype": "auto", "steps": 2, "rounds": 1, "eval_steps": 2, "checkpoint_steps": 1, "super_weights": "none"}
    return flags(model, text, folder, *more, **(wanted | changes))


def test_it_follows_the_machine_and_the_log_says_so(tiny_gpt2, text, tmp_path, fast, capsys):
    for value, dtype in ((True, "bfloat16"), (False, "float32")):
        fast(value)
        assert main(small(tiny_gpt2, text, tmp_path / dtype)) == 0
        assert f"precision    {dtype} (bfloat16 units: {value})" in capsys.readouterr().out
        (start,) = events(only_run(tmp_path / dtype), "start")
        assert start["dtype"] == dtype
        assert json.loads((only_run(tmp_path / dtype) / "environment.json").read_text())["dtype"] == dtype
        assert folders.read_status(only_run(tmp_path / dtype))["dtype"] == dtype
    names = {only_run(tmp_path / dtype).name for dtype in ("bfloat16", "float32")}
    assert len(names) == 1, "the name is made from the setting, not from the machine"


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(tiny_gpt2, text, tmp_path, fast, capsys, monkeypatch):
    fast(True)
    assert main(small(tiny_gpt2, text, tmp_path / "whole")) == 0
    with monkeypatch.context() as patched:
        patched.setattr("swlottery.commands.keeper.FolderKeeper.boundary", _stops_after(3))
        assert main(small(tiny_gpt2, text, tmp_path / "half")) == 75
    capsys.readouterr()
    fast(False)
    assert main(small(tiny_gpt2, text, tmp_path / "half")) == 0
    said = capsys.readouterr().out
    assert "begun in bfloat16, and keeps it" in said and "20.0 times as long" in said
    weights = [only_run(tmp_path / part) / "final" / "model.safetensors" for part in ("whole", "half")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def _stops_after(calls: int):
    from swlottery.commands.keeper import FolderKeeper
    from swlottery.runtime.stop import Stopped

    real, count = FolderKeeper.boundary, [0]

    def boundary(self, progress, only_if_asked):
        real(self, progress, only_if_asked)
        count[0] += 1
        if count[0] == calls:
            self.save(progress)
            raise Stopped

    return boundary


@pytest.mark.parametrize("lost", ["", "environment.json"])
def test_another_precision_by_name_is_refused_also_where_the_run_is_done(tiny_gpt2, text, tmp_path, fast, capsys, lost):
    fast(True)
    assert main(small(tiny_gpt2, text, tmp_path)) == 0
    if lost:
        (only_run(tmp_path) / lost).unlink()
    capsys.readouterr()
    assert main(small(tiny_gpt2, text, tmp_path, dtype="float32")) == 2
    line = complaint(capsys.readouterr().err)
    assert "was begun with dtype bfloat16, not float32" in line
    fast(False)
    assert main(small(tiny_gpt2, text, tmp_path)) == 0
    assert "is done" in capsys.readouterr().out


def test_a_branch_takes_its_parents_precision(tiny_gpt2, text, tmp_path, fast, capsys):
    fast(True)
    assert main(small(tiny_gpt2, text, tmp_path / "parent")) == 0
    parent = only_run(tmp_path / "parent")
    fast(False)
    branch = small(tiny_gpt2, text, tmp_path / "branch", "--from-round-1", str(parent), prune_rate=0.1)
    assert main(branch) == 0
    (start,) = events(only_run(tmp_path / "branch"), "start")
    assert start["dtype"] == "bfloat16"
    by_name = small(tiny_gpt2, text, tmp_path / "x", "--from-round-1", str(parent), prune_rate=0.1, dtype="bfloat16")
    assert main(by_name) == 0
    capsys.readouterr()
    other = small(tiny_gpt2, text, tmp_path / "y", "--from-round-1", str(parent), prune_rate=0.1, dtype="float32")
    assert main(other) == 2
    assert "trained with dtype = bfloat16, this run has float32" in complaint(capsys.readouterr().err)


def test_a_run_of_an_earlier_version_keeps_what_its_settings_say(tiny_gpt2, text, tmp_path, fast, capsys):
    fast(True)
    assert main(small(tiny_gpt2, text, tmp_path, dtype="float32")) == 0
    run = only_run(tmp_path)
    as_of_an_earlier_version(run)
    capsys.readouterr()
    assert main(small(tiny_gpt2, text, tmp_path)) == 0
    assert "is done" in capsys.readouterr().out
    assert main(small(tiny_gpt2, text, tmp_path / "b", "--from-round-1", str(run), prune_rate=0.1)) == 0
    (start,) = events(only_run(tmp_path / "b"), "start")
    assert start["dtype"] == "float32"


def test_a_branch_of_a_run_of_before_a_setting_came(tiny_gpt2, text, tmp_path, capsys):
    """Its settings lack the new one: its first training had that at its default."""
    assert main(small(tiny_gpt2, text, tmp_path, dtype="float32")) == 0
    run = only_run(tmp_path)
    as_of_an_earlier_version(run)
    settings = json.loads((run / "settings.json").read_text())
    del settings["first_token"], settings["prune_at_start"]
    (run / "settings.json").write_text(json.dumps(settings))
    capsys.readouterr()
    branched = small(tiny_gpt2, text, tmp_path / "b", "--from-round-1", str(run), prune_rate=0.1, dtype="float32")
    assert main([*branched, "--first-token"]) == 2
    assert "trained with first_token = False, this run has True" in complaint(capsys.readouterr().err)
    assert main(branched) == 0


def test_a_branch_reads_as_many_tokens_as_its_parent(tiny_gpt2, tmp_path, fake_hub, capsys):
    """Fresh batches would have more; but then the same first batches would be drawn from another text."""
    fake_hub.splits = {"train": [{"text": f"row {number} of a data set, {number % 7}"} for number in range(400)]}
    given = {"data": "owner/set"}
    assert main(small(tiny_gpt2, "", tmp_path / "parent", **given)) == 0
    needed = 2 * 2 * 2 * (32 + 1)  # steps, micro-batch, passes, context and the last target
    assert f"--data-tokens auto: {needed} to train on, as many as the rounds can read" in " ".join(
        capsys.readouterr().out.split()
    )
    parent = only_run(tmp_path / "parent")
    (start,) = events(parent, "start")
    assert start["data_tokens"] == start["data"]["train_tokens"] == needed
    fresh = ["--from-round-1", str(parent), "--data-order", "fresh"]
    assert main(small(tiny_gpt2, "", tmp_path / "branch", *fresh, **given)) == 0
    (start,) = events(only_run(tmp_path / "branch"), "start")
    assert start["data_tokens"] == start["data"]["train_tokens"] == needed
    assert main(["prepare", *small(tiny_gpt2, "", tmp_path / "branch", *fresh, **given)[1:]]) == 0
    assert f"{needed} tokens to train on" in capsys.readouterr().out
    other = small(tiny_gpt2, "", tmp_path / "x", *fresh, **given, data_tokens=needed + 1)
    capsys.readouterr()
    assert main(other) == 2
    assert f"trained with data_tokens = {needed}, this run has {needed + 1}" in complaint(capsys.readouterr().err)


def as_of_an_earlier_version(run: Path) -> None:
    """Before there was ``auto``: no dtype in environment.json or the history, numbers of tokens that are no text.

    Nor are there hashes of files.
    """
    new = {"dtype", "data_tokens", "gpu", "why", "own_sha256"}
    (run / "SHA256SUMS").unlink(missing_ok=True)
    for manifest in run.glob("checkpoints/*.json"):
        state = {k: v for k, v in json.loads(manifest.read_text()).items() if k not in {"hashes", "files", *new}}
        manifest.write_text(json.dumps(state | {"schema": 1}))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({k: v for k, v in environment.items() if k not in new}))
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps({**settings, "dtype": "float32", "data_tokens": 0}))
    first, *rest = (run / "metrics.jsonl").read_bytes().splitlines()
    start = json.dumps({key: value for key, value in json.loads(first).items() if key not in new}).encode()
    # A checkpoint has the lengths of the tables.
    (run / "metrics.jsonl").write_bytes(b"\n".join([start.ljust(len(first)), *rest]) + b"\n")


def test_it_keeps_it_also_at_the_second_resume(tiny_gpt2, text, tmp_path, fast, monkeypatch):
    fast(False)
    assert main(small(tiny_gpt2, text, tmp_path / "whole")) == 0
    for turn in range(2):
        with monkeypatch.context() as patched:
            patched.setattr("swlottery.commands.keeper.FolderKeeper.boundary", _stops_after(1))
            assert main(small(tiny_gpt2, text, tmp_path / "parts")) == 75
        if turn == 0:
            as_of_an_earlier_version(only_run(tmp_path / "parts"))
            fast(True)
    assert main(small(tiny_gpt2, text, tmp_path / "parts")) == 0
    weights = [only_run(tmp_path / part) / "final" / "model.safetensors" for part in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_of_two_parents_the_one_that_was_asked_for_the_same(tiny_gpt2, text, tmp_path, fast, capsys):
    fast(True)
    folder = tmp_path / "point"
    for dtype in ("bfloat16", "auto"):
        assert main(small(tiny_gpt2, text, folder, dtype=dtype)) == 0
    settings = TrainSettings(**json.loads((next((folder / "runs").iterdir()) / "settings.json").read_text()))
    for dtype in ("bfloat16", "auto"):
        settings.dtype = dtype
        found = branch.find_parent(folder / "runs", settings)
        assert json.loads((found / "settings.json").read_text())["dtype"] == dtype


def test_a_branch_needs_its_parents_text(tiny_gpt2, tmp_path, capsys):
    text = tmp_path / "text.txt"
    for number in range(2):
        text.write_text("\n\n".join(f"Text {number}, sentence {i}, that nobody reads." for i in range(400)))
        if number == 0:
            assert main(small(tiny_gpt2, text, tmp_path / "parent", dtype="float32")) == 0
    run = str(only_run(tmp_path / "parent"))
    capsys.readouterr()
    assert main(small(tiny_gpt2, text, tmp_path / "b", "--from-round-1", run, prune_rate=0.1, dtype="float32")) == 2
    assert "was trained on other tokens" in complaint(capsys.readouterr().err)
