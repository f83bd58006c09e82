"""Files that appear complete or not at all; a lock on what only one job should make; the folder of caches."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

POLL = 0.2  # seconds between two attempts to get a lock
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)  # of a file system that cannot do it


def home() -> Path:
    """The user's home; where the system knows of none /nonexistent, as passwd says it of such users."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/nonexistent")


def cache_folder() -> Path:
    """Where swlottery keeps what it can make again: $SWLOTTERY_CACHE, $XDG_CACHE_HOME/swlottery, ~/.cache/swlottery."""
    own = os.environ.get("SWLOTTERY_CACHE")
    return Path(os.path.expanduser(own or Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache", "swlottery")))


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let ``fill`` write a file beside ``path``, sync it to disk, and rename it, so that no reader sees half of it."""
    unfinished = _beside(path)
    try:
        unfinished.touch(exist_ok=False)
        mode = _mode(unfinished)
        with _system_errors(path):
            fill(unfinished)
            _finish(unfinished, mode)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], Any], replace: bool = True) -> None:
    """As `write`, for a folder of files that ``fill`` writes. replace: what is there; else that is left as it is."""
    unfinished, old = _beside(path), _beside(path)
    try:
        unfinished.mkdir()
        mode = _mode(unfinished)
        with _system_errors(path):
            fill(unfinished)
            for one in (*unfinished.rglob("*"), unfinished):
                _finish(one, mode if one.is_dir() else mode & 0o666)
        if replace and path.exists():
            os.rename(path, old)  # not removed first: of a file that is open somewhere, NFS keeps a name in its folder
        try:
            os.rename(unfinished, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            if replace or not os.path.isdir(path):
                raise
    finally:
        for one in (unfinished, old):
            shutil.rmtree(one, ignore_errors=True)
    sync(path.parent)


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Raise what safetensors and tokenizers make of an error of the system, such as a full disk, as an `OSError`.

    path: of the file, which the system does not name where a disk is full.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number and type(error).__name__ in ("SafetensorError", "Exception"):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex}")  # names have 255 bytes at most


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _finish(unfinished: Path, mode: int) -> None:
    """Give a file the mode that the umask asks for, which libraries may not (safetensors: 0600), and sync it."""
    if _mode(unfinished) != mode:
        with contextlib.suppress(OSError):  # a file system with modes of its own
            unfinished.chmod(mode)
    sync(unfinished)


def write_text(path: Path, text: str) -> None:
    """`write` a text file in UTF-8. Its folder is made where it is missing.

    What is no UTF-8, such as a part of a file's name, is written as ``\\udcff``, which JSON reads back as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8", errors="backslashreplace"))


def parse_json(text: str | bytes) -> Any:
    """What JSON says. `ValueError` for what is none, and for what is nested deeper than Python reads."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """`parse_json` of a file."""
    return parse_json(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any, allow_nan: bool = True) -> None:
    """`write_text` of JSON."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=allow_nan) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, sha256: str | None = None
) -> None:
    """`write` a safetensors file. Where it would not have this ``sha256``: `ValueError`, and none is written."""
    from safetensors.torch import save_file

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def fill(unfinished: Path) -> None:
        save_file(on_cpu, unfinished, dict(metadata or {}))
        if sha256 is not None and file_sha256(unfinished) != sha256:
            raise ValueError(f"{path} would not have the sha256 {sha256}")

    write(path, fill)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to, and not be listed
        return
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync(descriptor: int) -> None:
    """`os.fsync`, as far as the file system can do it; many cannot with a folder."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def is_locked_by_another(file: IO[Any]) -> bool:
    """Lock an open file, unless another process has it locked. The lock goes with this process, however that ends.

    On a file system without locks, every process gets it.

    Not `filelock`: without flock it leaves a file behind when killed, or fails (ENOLCK on some NFS mounts).
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # PermissionError: EACCES, as POSIX allows where flock is a record lock
        return True
    except OSError:  # a file system without locks
        pass
    return False


@contextlib.contextmanager
def lock(place: Path, say: Callable[[str], None], poll: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait to be the only job that makes ``place``.

    On a file system without locks, several jobs may make ``place`` at once. So what they make must be the same, and be
    written by `write`.

    say: called with a line when another job has the lock. poll: called while waiting, which its exceptions end.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f"{place.name}.lock").open("ab") as file:  # never removed: all jobs must lock the same file
        waiting = False
        while is_locked_by_another(file):
            if not waiting:
                say(f"waiting for another job that is making {place}")
            waiting = True
            time.sleep(POLL)
            poll()
        yield
