"""Files that appear whole: with which mode, on which file systems, and what becomes of what cannot be removed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tokenizers
import torch

from swlottery.runtime import checkpoint, files
from swlottery.runtime import folder as folders

UMASKS = (0o022, 0o077, 0o002)


def modes(folder: Path) -> dict[str, int]:
    """The modes of all that is below a folder."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def private(path: Path) -> None:
    """As safetensors writes it."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    path.chmod(0o600)


def test_a_file_has_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    files.write_text(tmp_path / "new" / "text", "a")
    files.write_tensors(tmp_path / "new" / "tensors", {"a": torch.zeros(2)})
    files.write(tmp_path / "new" / "other", private)

    def fill(folder: Path) -> None:
        private(folder / "file")
        (folder / "inner").mkdir(mode=0o700)
        private(folder / "inner" / "file")

    files.write_folder(tmp_path / "new" / "folder", fill)
    found = modes(tmp_path)
    directories = {"new", "new/folder", "new/folder/inner"}
    assert found == {name: (0o777 if name in directories else 0o666) & ~umask for name in found} and len(found) == 8


def test_a_folder_takes_the_place_of_another_or_leaves_it(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    files.write_folder(place, lambda folder: (folder / "a").write_text("1"))
    files.write_folder(place, lambda folder: (folder / "b").write_text("2"))
    assert [path.name for path in place.iterdir()] == ["b"]
    files.write_folder(place, lambda folder: (folder / "c").write_text("3"), replace=False)
    assert [path.name for path in place.iterdir()] == ["b"], "another job was first"
    with pytest.raises(ZeroDivisionError):
        files.write_folder(place, lambda folder: 1 / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"] and (place / "b").read_text() == "2"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails between the two renames: what was there is there again."""
    place = tmp_path / "folder"
    files.write_folder(place, lambda folder: (folder / "a").write_text("1"))
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if target == place and (Path(source) / "b").exists():
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        files.write_folder(place, lambda folder: (folder / "b").write_text("2"))
    assert [one.name for one in place.iterdir()] == ["a"] and [one.name for one in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        descriptor = os.open("/proc", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    files.sync(Path("/proc"))
    real, broken = os.fsync, errno.EINVAL

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(broken, os.strerror(broken))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for broken in (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP):
        files.write_text(tmp_path / "file", f"{broken}")
        assert (tmp_path / "file").read_text() == f"{broken}"
    broken = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(tmp_path / "file", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_an_error_of_the_system_whoever_meets_it(tmp_path: Path) -> None:
    tokenizer, written = tokenizers.Tokenizer(tokenizers.models.BPE()), tmp_path / "file"
    for write, fill in (
        (files.write, lambda path: Path("/dev/full").write_text("a")),
        (files.write, lambda path: tokenizer.save("/dev/full")),
        (files.write_folder, lambda path: tokenizer.save("/dev/full")),
    ):
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(written, fill)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(written)
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs to become another user")
def test_a_folder_that_may_be_written_to_and_not_be_listed(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if "pytest" in str(folder):  # one more of them where tests run side by side
            folder.chmod(0o711)
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind").chmod(0o733)
    program = (
        "import os; from pathlib import Path; from swlottery.runtime import files; os.setgid(12345); os.setuid(12345);"
        f"files.write_text(Path({str(tmp_path / 'blind' / 'file')!r}), 'whole')"
    )
    subprocess.run([shutil.which("python3") or "python3", "-c", program], check=True, env=here())
    assert (tmp_path / "blind" / "file").read_text() == "whole"


def here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127):
        files.write_text(tmp_path / name, "a")
        assert (tmp_path / name).read_text() == "a"


def test_what_is_no_utf_8_is_written_so_that_json_reads_it_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \\ \xff")
    files.write_json(tmp_path / "a.json", {name: name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {name: name}


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes what unlink refuses: a mount point (EBUSY, as a `.nfs` file of another machine), or else a folder."""

    def make(path: Path) -> None:
        path.write_text("held")
        mount = ["mount", "--bind", str(path), str(path)]
        if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            path.unlink()
            path.mkdir()
            (path / "held").touch()

    yield make
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in places:  # a folder may have been renamed since
        if place.startswith(f"{tmp_path}/"):
            subprocess.run(["umount", "-l", place], check=True)


def test_a_file_that_cannot_be_removed_stops_no_run(tmp_path: Path, stuck: Callable[[Path], None]) -> None:
    place = tmp_path / "checkpoints"
    place.mkdir()
    stuck(place / ".nfs000000000001")
    stuck(place / f".checkpoint_1_1.json.{'0' * 32}")
    with folders.held(tmp_path):
        pass
    for step in (1, 2):
        checkpoint.save(place, 1, step, {"w": torch.ones(1)}, {})
    (place / "checkpoint_1_1.safetensors").unlink()
    stuck(place / "checkpoint_1_1.safetensors")
    for step in (3, 4):
        checkpoint.save(place, 1, step, {"w": torch.ones(1)}, {})
    newest = checkpoint.newest(place, print)
    assert newest is not None and newest.name == "checkpoint_1_4.json"
    checkpoint.clear(place)
    assert not list(place.glob("*.json"))


def test_a_folder_that_keeps_an_open_file_is_replaced(tmp_path: Path, stuck: Callable[[Path], None]) -> None:
    place = tmp_path / "final"
    place.mkdir()
    stuck(place / ".nfs000000000001")
    files.write_folder(place, lambda folder: (folder / "new").touch())
    assert [path.name for path in place.iterdir()] == ["new"]
    assert not any(path.name == "new" for path in tmp_path.rglob("*") if path.parent != place)
