"""The folder of a run: what a process that was killed has left in it."""

from __future__ import annotations

import errno
import os
import uuid

import pytest

from swlottery.errors import BadInput
from swlottery.runtime import files
from swlottery.runtime import folder as folders


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    random = uuid.uuid4().hex
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / f".round_1.safetensors.{random}").write_text("half")
    (tmp_path / "masks" / ".tmpPM8EEZ").write_text("half, by safetensors")
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks" / "lost-17-4").touch()
    for name in ("final", "round_1"):
        (tmp_path / f".{name}.{random}").mkdir()
        (tmp_path / f".{name}.{random}" / "model.safetensors").write_text("half")
    kept = {"masks/round_0.safetensors", ".gitignore", ".notes.txt", "final/config.json", ".kept.folder/x.json"}
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("whole")
    with folders.held(tmp_path):
        there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert there == kept | {"lock"}
        assert not list(tmp_path.glob(f".*.{random}")) and not (tmp_path / "ranks").exists()
        with pytest.raises(BadInput, match="is in use by process"), folders.held(tmp_path):
            pass
    with folders.held(tmp_path):
        pass


@pytest.mark.parametrize(
    ("code", "taken"),
    [
        *((code, False) for code in (errno.EACCES, errno.EAGAIN)),
        *((code, True) for code in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)),
    ],
)
def test_a_lock_that_is_denied_is_another_process_s_and_one_that_is_unknown_is_ours(tmp_path, monkeypatch, code, taken):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    if taken:
        with folders.held(tmp_path):
            assert (tmp_path / "lock").read_text().startswith("process ")
    else:
        with pytest.raises(BadInput, match="is in use"), folders.held(tmp_path):
            pass
