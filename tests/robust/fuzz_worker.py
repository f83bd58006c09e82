"""Cases in a forked child that is watched from outside: what a command answered, and whether it may answer that."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from swlottery.cli import main

SECONDS, BYTES = 30, 2 << 30
"""What one case may take."""
LONGEST = 4000
"""Characters of a refusal that a person still reads."""
REFUSED, RIGHT = "refused", "right"
Case = dict[str, bytes]
"""The files that differ from the sound ones, by their paths."""


class Wrong(Exception):
    """A command answered what it may not answer."""


class Said(NamedTuple):
    code: int
    out: str
    err: str


class Outcome(NamedTuple):
    """verdict: refused, right, or what is wrong, the same words for the same bug; detail: how it came to it."""

    verdict: str
    detail: str = ""

    @property
    def found(self) -> bool:
        return self.verdict not in (REFUSED, RIGHT)


class Kind(NamedTuple):
    """One kind of input.

    base: the folder of the sound files. files: those of them that are mutated, the more often the more often they stand
    there; change: how. check: runs the commands in a copy of the folder, given the names of the files that differ and
    the case's number; returns `REFUSED` or `RIGHT`.
    """

    name: str
    base: Path
    files: Sequence[str]
    change: Callable[[Any, bytes], bytes]
    check: Callable[[Sequence[str], int], str]


def command(*arguments: str, writes: Sequence[str] = ()) -> Said:
    """A command in this process, in the working folder. writes: what a refusal may leave, beginning so.

    Raises `Wrong` for another exit code than 0 and 2, for more than one line with the latter, for unfinished files.
    """
    before = _files()
    try:
        code = main(list(arguments))
    except SystemExit as exit:  # of argparse
        code = int(exit.code or 0)
    said = Said(code, *_streams())
    if code not in (0, 2):
        raise Wrong(f"exit code {code} of {arguments[0]}", said.err)
    lines = said.err.splitlines()
    if code == 2 and (len(lines) != 1 or not lines[0].startswith("swlottery: ")):
        raise Wrong(f"not one line from {arguments[0]}", said.err[:3000])
    if code == 2 and len(said.err) > LONGEST:
        raise Wrong(f"a line too long to read from {arguments[0]}", said.err[:300])
    new = _files() - before
    if hidden := [path for path in new if Path(path).name.startswith(".") or "/." in path]:
        raise Wrong(f"{arguments[0]} left an unfinished file", str(hidden))
    if code == 2 and (left := sorted(path for path in new if not path.startswith(("cache/", *writes)))):
        raise Wrong(f"{arguments[0]} refused, and wrote something", f"{left} {said.err}")
    for path in map(Path, new):
        _whole(path)
    return said


def _files() -> set[str]:
    return {
        str(path) for path in Path().rglob("*") if not path.is_dir() and path.name != "lock" and path.suffix != ".lock"
    }


def _whole(path: Path) -> None:
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="np"):
                pass
        elif path.suffix == ".html" and not path.read_bytes().rstrip().endswith(b"</html>"):
            raise ValueError("no end")
    except Exception as error:
        raise Wrong(f"a half-written {path.suffix} file", f"{path}: {error}") from None


def _streams() -> tuple[str, str]:
    """What went to stdout and stderr since the last call; libraries write past `sys.stderr`."""
    texts = []
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        size = os.lseek(number, 0, os.SEEK_END)
        texts.append(os.pread(number, min(size, 1 << 20), 0).decode("utf-8", "replace"))
        os.ftruncate(number, 0)
    return texts[0], texts[1]


def run(kind: Kind, cases: Sequence[tuple[int, Case]], folder: Path) -> list[Outcome]:
    """The outcome of each case, in forked children: one that dies or hangs is ended, and the next goes on behind it."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        place = Path(tempfile.mkdtemp(dir=folder))
        reader, writer = os.pipe()
        gc.freeze()  # else the child's garbage collection copies all that it shares with this process
        child = os.fork()
        if child == 0:
            os.setsid()
            os.close(reader)
            try:
                _serve(kind, cases[len(outcomes) :], place, writer)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        os.close(writer)
        try:
            for line in _lines(reader):
                outcomes.append(Outcome(*json.loads(line)))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            os.close(reader)
        if len(outcomes) < len(cases):
            last = _tail(place / "stderr")
            how = os.WTERMSIG(status)
            died = {0: "a fault of the harness", signal.SIGKILL: "a hang"}.get(how, f"a crash by signal {how}")
            outcomes.append(Outcome(f"{died} in {_place(last)}", last))
        shutil.rmtree(place, ignore_errors=True)
    return outcomes


def _lines(reader: int) -> Iterator[bytes]:
    """Lines as they come, until there is none for longer than a case may take."""
    held = b""
    while select.select([reader], [], [], SECONDS + 3)[0] and (some := os.read(reader, 1 << 16)):
        *whole, held = (held + some).split(b"\n")
        yield from whole


def _serve(kind: Kind, cases: Sequence[tuple[int, Case]], place: Path, writer: int) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(place / name, os.O_RDWR | os.O_APPEND | os.O_CREAT), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(n, "w", closefd=False), "utf-8", "backslashreplace") for n in (1, 2)
    )
    faulthandler.enable(2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_memory("VmData") + 2 * BYTES,) * 2)
    work = place / "work"
    for number, case in cases:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(kind.base, work)
        for name, content in case.items():
            (work / name).write_bytes(content)
        os.chdir(work)
        os.environ["SWLOTTERY_CACHE"] = str(work / "cache")
        faulthandler.dump_traceback_later(SECONDS, file=sys.stderr)
        outcome = one(kind, list(case), number)
        faulthandler.cancel_dump_traceback_later()
        os.write(writer, json.dumps(outcome).encode() + b"\n")


def one(kind: Kind, names: Sequence[str], number: int) -> Outcome:
    """The outcome of the case whose files lie in the working folder."""
    before = _memory("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    began = time.monotonic()
    try:
        outcome = Outcome(kind.check(names, number))
    except Wrong as error:
        outcome = Outcome(str(error.args[0]), str(error.args[1:]))
    except BaseException as error:  # a panic in Rust is no Exception
        text = traceback.format_exc(limit=-25)
        said = _streams()[1]
        first = (str(error).splitlines() or [""])[0]
        outcome = Outcome(f"{type(error).__name__} in {_place(text)}", f"{first[:300]}\n{text[-6000:]}\n{said[-1000:]}")
    if (grown := _memory("VmHWM") - before) > BYTES:
        outcome = Outcome(f"more than {BYTES >> 20} MB", f"{grown >> 20} MB; {outcome.verdict} {outcome.detail}")
    if (took := time.monotonic() - began) > SECONDS:
        outcome = Outcome("a hang, almost", f"{took:.0f} s; {outcome.verdict} {outcome.detail}")
    return outcome


def _memory(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(name))


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-6000:] if path.exists() else ""


def _place(text: str) -> str:
    """The last line of ours in a traceback, and the last of all, without what differs between machines."""
    short = [f"{path}:{line}" for path, line in re.findall(r'File "([^"]+)", line (\d+)', text)]
    if not text.startswith("Traceback"):  # of the watchdog
        short.reverse()
    ours = [frame.rpartition("swlottery/")[2] for frame in short if "/swlottery/" in frame]
    last = "/".join(short[-1].split("/")[-2:]) if short else "?"
    return f"{ours[-1] if ours else '?'} ({last})"
