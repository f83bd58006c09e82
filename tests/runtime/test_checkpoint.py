"""Which checkpoints are there at any moment, and which of them a run goes on from."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import wait
from pathlib import Path

import pytest
import torch

from swlottery.errors import BadInput
from swlottery.runtime import checkpoint
from swlottery.runtime.checkpoint import Writer


@pytest.fixture
def save(tmp_path):
    def write(*places: tuple[int, int]) -> list[str]:
        for round_, step in places:
            tensors = {"w": torch.full((3,), 100.0 * round_ + step)}
            checkpoint.save(tmp_path, round_, step, tensors, {"losses": [round_ / 3]})
        return there(tmp_path)

    return write


def there(folder: Path) -> list[str]:
    names = {path.name for path in folder.iterdir()}
    stems = {name.partition(".")[0].removeprefix("checkpoint_") for name in names}
    assert names == {f"checkpoint_{stem}{suffix}" for stem in stems for suffix in (".json", ".safetensors")}
    return sorted(stems)


def damage(folder: Path, name: str) -> None:
    path = folder / f"checkpoint_{name}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def newest(folder: Path) -> tuple[int, int, list[str]]:
    complaints: list[str] = []
    state, tensors = checkpoint.read(checkpoint.newest(folder, complaints.append))
    assert tensors["w"].tolist() == [100.0 * state["round"] + state["step"]] * 3
    assert state["losses"] == [state["round"] / 3]
    return state["round"], state["step"], complaints


def test_two_are_kept_and_the_newest_is_read(save, tmp_path):
    assert checkpoint.newest(tmp_path, pytest.fail) is None
    assert save((1, 9)) == ["1_9"]
    assert save((1, 10)) == ["1_10", "1_9"]
    assert save((2, 0)) == ["1_10", "2_0"], "in the order of numbers, not of letters"
    assert newest(tmp_path) == (2, 0, [])


def test_a_damaged_one_is_named_and_then_gives_way(save, tmp_path):
    save((1, 2), (1, 4))
    damage(tmp_path, "1_4")
    round_, step, complaints = newest(tmp_path)
    assert (round_, step) == (1, 2) and "checkpoint_1_4.safetensors is damaged" in complaints[0]
    assert save((1, 3)) == ["1_2", "1_3"], "the sound ones"
    assert newest(tmp_path) == (1, 3, [])


def test_a_manifest_that_is_nested_deeply_gives_way_too(save, tmp_path):
    save((1, 2), (1, 4))
    (tmp_path / "checkpoint_1_4.json").write_text("[" * 100_000)
    assert newest(tmp_path)[:2] == (1, 2)


def test_a_manifest_whose_own_hash_is_gone_gives_way(tmp_path):
    for step in (2, 4):
        checkpoint.save(tmp_path, 1, step, {"w": torch.full((3,), 100.0 + step)}, {"schema": 2, "losses": [1 / 3]})
    manifest = tmp_path / "checkpoint_1_4.json"
    manifest.write_text(manifest.read_text().replace("own_sha256", "own_sha257").replace('"step": 4', '"step": 3'))
    assert newest(tmp_path)[:2] == (1, 2)


def test_a_run_that_begins_again_keeps_what_it_saves(save, tmp_path):
    """Both were damaged: what is saved on the way is older than they are."""
    save((2, 2), (2, 4))
    damage(tmp_path, "2_2")
    damage(tmp_path, "2_4")
    complaints: list[str] = []
    assert checkpoint.newest(tmp_path, complaints.append) is None and len(complaints) == 2
    assert save((1, 2)) == ["1_2"]
    assert save((1, 4)) == ["1_2", "1_4"]


def test_the_same_place_is_written_anew(save, tmp_path):
    save((1, 2), (1, 4))
    damage(tmp_path, "1_4")
    assert save((1, 4)) == ["1_2", "1_4"]
    assert newest(tmp_path) == (1, 4, [])


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_one_that_was_cut_off_counts_for_nothing_and_goes(suffix, save, tmp_path):
    save((1, 2), (1, 4))
    (tmp_path / f"checkpoint_1_4{suffix}").unlink()
    round_, step, complaints = newest(tmp_path)
    assert (round_, step) == (1, 2) and len(complaints) == (suffix == ".safetensors")
    assert save((1, 3)) == ["1_2", "1_3"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"round": 1}', b"\xff"])
def test_a_manifest_may_be_what_is_damaged(content, save, tmp_path):
    save((1, 2), (1, 4))
    (tmp_path / "checkpoint_1_4.json").write_bytes(content)
    round_, step, complaints = newest(tmp_path)
    assert (round_, step) == (1, 2) and len(complaints) == 1


@pytest.mark.parametrize("name", ["checkpoint_1_4.safetensors", "checkpoint_1_4.json", "folder"])
def test_what_cannot_be_read_now_is_no_damage(name, save, tmp_path):
    """A file server that stumbles for a moment is not to cost the work of days."""
    save((1, 2), (1, 4))
    broken = tmp_path / name
    broken.unlink(missing_ok=True)
    broken.symlink_to(broken)  # ELOOP: it is there, and cannot be opened
    with pytest.raises(BadInput, match=f"cannot use {broken}.*: nothing was changed"):
        checkpoint.newest(broken if name == "folder" else tmp_path, pytest.fail)


def test_nothing_begins_anew_over_a_sound_checkpoint(save, tmp_path):
    """A file that it needs is damaged: that one may have a copy."""
    save((1, 2), (1, 4))
    complaints: list[str] = []
    for _ in range(2):
        with pytest.raises(BadInput, match=r"theta_k.safetensors is damaged.*from a copy.*to begin anew"):
            checkpoint.newest(tmp_path, complaints.append, lambda state: "theta_k.safetensors")
        damage(tmp_path, "1_4")
    only_newer = {4: "theta_k.safetensors"}
    damage(tmp_path, "1_2")
    assert checkpoint.newest(tmp_path, complaints.append, lambda state: only_newer.get(state["step"])) is None
    save((1, 2), (1, 4))
    found = checkpoint.newest(tmp_path, complaints.append, lambda state: only_newer.get(state["step"]))
    assert found == tmp_path / "checkpoint_1_2.json"


# Written beside the training


@pytest.fixture
def gate(monkeypatch):
    """Opened, it lets checkpoints be written."""
    one, real = threading.Event(), checkpoint.save

    def save(*arguments):
        assert one.wait(30)
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save", save)
    return one


def test_what_is_written_is_what_stood_there(gate, tmp_path):
    writer = Writer(tmp_path)
    weights = torch.full((3,), 102.0)
    parts = {"w": weights, "t": weights.view(3)[1:]}
    writer.save(1, 2, parts, {"losses": [1 / 3]})
    weights.zero_()
    assert writer.place is None and not writer.failed and not list(tmp_path.iterdir()), "not yet"
    gate.set()
    writer.wait()
    assert writer.place == (1, 2) and newest(tmp_path) == (1, 2, [])
    writer.wait()


def test_at_most_one_is_on_its_way(gate, tmp_path):
    threads = threading.active_count()
    writer = Writer(tmp_path)
    writer.save(1, 2, {"w": torch.full((3,), 102.0)}, {"losses": [1 / 3]})
    timer = threading.Timer(0.2, gate.set)
    timer.start()
    writer.save(1, 4, {"w": torch.full((3,), 104.0)}, {"losses": [1 / 3]})
    assert writer.place in ((1, 2), (1, 4)), "the first is there before the second begins"
    writer.close()
    assert there(tmp_path) == ["1_2", "1_4"] and newest(tmp_path) == (1, 4, [])
    timer.join()
    assert threading.active_count() <= threads  # those of other tests may end meanwhile


def test_a_failure_is_told_once_and_the_place_is_the_one_before(save, tmp_path, monkeypatch):
    save((1, 2))
    writer = Writer(tmp_path)
    writer.place = (1, 2)

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(checkpoint, "save", full)
    for told in (writer.wait, lambda: writer.save(1, 6, {}, {})):
        writer.save(1, 4, {"w": torch.zeros(3)}, {})
        wait([writer._writing])
        assert writer.failed
        with pytest.raises(OSError, match="no space"):
            told()
        assert not writer.failed and writer.place == (1, 2)
        writer.wait()
    writer.save(1, 4, {"w": torch.zeros(3)}, {})
    writer.close()
    assert there(tmp_path) == ["1_2"]
