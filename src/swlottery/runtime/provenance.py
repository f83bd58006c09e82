"""Which code made a run, and what was installed; a frozen copy of the code.

In a run's environment.json is ``code``: the ``commit`` (None where it is not known: ``why``), whether the tree was
``changed`` since (the difference is in code.diff beside it), and a ``sha256`` of what runs of it. A frozen copy is
a folder as the repository is, with only what a job needs, and with frozen.json: the ``code`` that it is a copy of.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from swlottery.runtime import files, sums

PACKAGE = Path(__file__).parents[1]
"""The folder of the code that runs here."""
BESIDE = ("scripts", "func_train.sh", "requirements.txt", "pyproject.toml")
"""What a job needs of a repository besides the package."""
DIFF, FROZEN = "code.diff", "frozen.json"
MOST = 1_000_000  # bytes of a difference that are kept
PATIENCE = 5.0  # seconds in which git has to answer
_PATCH = [
    "--binary",
    "--relative",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--src-prefix=a/",
    "--dst-prefix=b/",
]
_NOT_CODE = re.compile(r"(^|/)([.#]|__pycache__/)|~$")  # what Python and editors leave

Code = dict[str, Any]


def packages() -> dict[str, str]:
    """The version of each installed package, by its name."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        with suppress(Exception):  # a broken installation says no name or version
            if name := one.metadata["Name"]:
                found.setdefault(name, one.version)  # of two, the first in Python's path is imported
    return dict(sorted(found.items()))


def package_of(root: Path) -> Path:
    """The package in a repository; the one that runs here where ``root`` is none."""
    inside = root.absolute() / "src" / "swlottery"
    return inside if inside.is_dir() else PACKAGE


def sha256_of(package: Path) -> str | None:
    """That of `code`, without asking git."""
    return _hash(_files(package))


def code(package: Path = PACKAGE) -> tuple[Code, bytes]:
    """Which code a package is, and its difference from the commit, as ``git apply`` takes it. Raises nothing.

    ``frozen``: it is a frozen copy; ``edited``: and is no more what it was then.
    """
    root, found = package.parents[1], _files(package)
    own = {"sha256": _hash(found)}
    with suppress(OSError, ValueError):
        frozen = sums.read_sealed(root / FROZEN)
        edited = {"edited": True} if frozen.get("sha256") != own["sha256"] else {}
        diff = (root / DIFF).read_bytes() if (root / DIFF).exists() else b""
        return {**frozen, **own, "frozen": True, **edited}, diff
    what: Code = {"commit": None, "changed": None, **own}
    diff = b""
    try:
        if package.parent.name != "src":
            raise OSError("an installed package")
        # HEAD:./src: of a copy without a .git, inside of another repository, the commit is not that one's.
        what["commit"] = _git(root, "rev-parse", "HEAD", "HEAD:./src/swlottery").split()[0].decode()
        diff = _git(root, "diff", *_PATCH, "HEAD", "--", "src/swlottery", *BESIDE)
        others = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", "src/swlottery", *BESIDE)
        for name in others.decode("utf-8", "replace").split("\0"):
            if name in found and len(diff) <= MOST:
                diff += _git(root, "diff", *_PATCH, "--no-index", "--", os.devnull, name)
        what["changed"] = bool(diff)
    except OSError as error:
        what["why"] = str(error)
    if len(diff) > MOST:
        note = b"\n# cut here: of a difference at most 1 MB is kept\n"
        diff = diff[: MOST - len(note)] + note
    return what, diff


def freeze(package: Path, place: Path) -> None:
    """Make the frozen copy of a package's code, with what a job needs beside it, unless there is one."""

    def fill(folder: Path) -> None:
        what, diff = code(package)
        for name, path in _files(package).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
        if diff:
            (folder / DIFF).write_bytes(diff)
        files.write_json(folder / FROZEN, sums.sealed(what))

    with files.lock(place, print):
        if not place.exists():
            for unfinished in place.parent.glob(f".{place.name}.*"):  # of a process that was killed
                shutil.rmtree(unfinished, ignore_errors=True)
            files.write_folder(place, fill, replace=False)


def record(folder: Path, stored: Mapping[str, Any] | None, command: str) -> dict[str, Any]:
    """``code``, ``packages`` and ``command`` of the run in this folder, ``later`` those of later starts that differ.

    stored: of the start that the run goes on from; None where it begins now. The difference is written to code.diff;
    that of the n-th later one to code_n.diff.
    """
    what, diff = code()
    now = {"code": what, "packages": packages(), "command": command or None}
    if stored is None:
        for one in folder.glob("code*.diff"):  # of a start that saved nothing
            one.unlink()
        _keep(folder / DIFF, diff)
        return now
    starts = _starts(stored)
    kept = {name: stored.get(name) for name in now} if stored in starts else {}  # what an earlier version began
    later = starts[len(kept) > 0 :]
    if not starts or (starts[-1]["code"].get("sha256"), starts[-1].get("packages")) != (
        what["sha256"],
        now["packages"],
    ):
        later.append(now)
        _keep(folder / f"code_{len(later)}.diff", diff)
    return {**kept, "later": later} if later else kept


def _keep(path: Path, diff: bytes) -> None:
    path.unlink(missing_ok=True)  # of a start that was killed here
    if diff:
        files.write(path, lambda unfinished: unfinished.write_bytes(diff))


def codes(run: Path) -> list[Code]:
    """The ``code`` of each start of a run, as far as they differ; empty where it is not known."""
    with suppress(OSError, ValueError):
        return [one["code"] for one in _starts(sums.read_sealed(run / "environment.json"))]
    return []


def _starts(stored: Mapping[str, Any]) -> list[Any]:
    later = stored.get("later")
    starts = [stored, *(later if isinstance(later, list) else [])]
    return [one for one in starts if isinstance(one, dict) and isinstance(one.get("code"), dict)]


def _files(package: Path) -> dict[str, Path]:
    """The files of the code, by their names in a repository. Of an installed package there are only its own."""
    places = {"src/swlottery": package}
    if package.parent.name == "src":
        places |= {name: package.parents[1] / name for name in BESIDE}
    inside = {
        Path(name, path.relative_to(place)).as_posix(): path
        for name, place in places.items()
        for path in [place, *place.rglob("*")]
    }
    return {name: path for name, path in sorted(inside.items()) if path.is_file() and not _NOT_CODE.search(name)}


def _hash(found: Mapping[str, Path]) -> str | None:
    """Of the files that run; None where one cannot be read, such as one that is being saved."""
    run = {name: path for name, path in found.items() if name not in ("requirements.txt", "pyproject.toml")}
    with suppress(OSError):
        lines = "".join(f"{files.file_sha256(path)}  {name}\n" for name, path in run.items())
        return sha256(os.fsencode(lines)).hexdigest()
    return None


def _git(root: Path, *arguments: str) -> bytes:
    """What git says. Raises `OSError` with the reason where it says nothing."""
    # A hook of git sets GIT_DIR and others, of another repository it may be.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"  # many jobs may ask at a time
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
    except FileNotFoundError:
        raise OSError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"git did not answer within {PATIENCE:g} s") from None
    if done.returncode not in ((0, 1) if "--no-index" in arguments else (0,)):  # 1: there is a difference
        said = done.stderr.decode("utf-8", "replace").splitlines() or [f"exit code {done.returncode}"]
        raise OSError(f"git: {said[0]}")
    return done.stdout
