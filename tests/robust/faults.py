"""Let each system call that writes fail once, at every place that small runs reach, with each of four errors.

    python tests/robust/faults.py                 # goes on from the counts in counts.json
    python tests/robust/faults.py --sample 60     # so many places, the errors in turn, from the start and not kept
    python tests/robust/faults.py --again NAME N  # fault N of a scenario once more, with what each start said

A place is a call, the file that it is about, and how often that came before. A call that is repeated at once is one
place, and so is one that an earlier scenario has reached. After the fault the command ends with one line and exit code
2, or goes on where the file does not matter; and the next start goes on to the end of an undisturbed run, from the
newest checkpoint that was there.
"""

from __future__ import annotations

import argparse
import errno
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
import counts as stored
import scenario as scenarios
from scenario import End, Scenario, contents, difference, start
from shim import Shim

ERRORS = (errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EACCES)
KINDS = ("pretrained", "scratch", "branch", "prepare", "find", "report", "sweep")
AT_ONCE = 8  # faults one after the other in one folder, where a start begins anew anyway
RUN = re.compile(r"(runs|plots)/(small/p\d0/)?gpt2[^/]*")


@dataclass(frozen=True)
class Place:
    """One call on one file: the ``nth`` of that kind."""

    call: str
    path: str
    nth: int


class Faults:
    """The harness, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.log = folder, folder / "run", folder / "calls"
        self.shim = Shim(folder)
        self.kinds = scenarios.scenarios(folder / "inputs")
        self.alone: dict[str, dict[str, Any]] = {}
        self.places: dict[str, list[Place]] = {}
        known: set[tuple[str, str, int]] = set()
        for name in KINDS:
            shutil.rmtree(self.run, ignore_errors=True)
            ended = self.start(self.kinds[name])
            if any(ended.codes) or ended.err:
                raise SystemExit(f"{name} fails though nothing disturbs it: {ended}")
            self.alone[name] = contents(self.run)
            self.places[name] = self._places(known)

    def _places(self, known: set[tuple[str, str, int]]) -> list[Place]:
        found, seen, last = [], Counter[tuple[str, str]](), None
        for call in self.calls():
            seen[call] += 1
            like = (call[0], RUN.sub(r"\1/RUN", call[1]), seen[call])
            if call != last and like not in known:
                found.append(Place(*call, seen[call]))
                known.add(like)
            last = call
        return found

    def calls(self) -> list[tuple[str, str]]:
        """What the last start called: (call, path)."""
        return [(call, path) for call, _, path in (line.partition("\t") for line in self.log.read_text().splitlines())]

    def start(self, kind: Scenario, place: Place | None = None, error: int = 0) -> End:
        """One start, with a fault."""

        def traced() -> None:
            _tell_steps(self.folder / "steps")
            self.shim.begin()

        (self.folder / "steps").write_text("")
        with open(self.log, "wb") as log:
            at = (place.call, place.path, place.nth) if place else ("", "", 1)
            self.shim.plan(self.run, "fail" if place else "nothing", *at, error, log.fileno())
            return start(kind, self.run, traced=traced)

    def steps(self) -> list[tuple[int, int]]:
        """(round, step) of each that the last start trained."""
        lines = (self.folder / "steps").read_text().split()
        return [(int(round_), int(step)) for round_, _, step in (line.partition(":") for line in lines)]

    def attempt(self, kind: Scenario, faults: list[tuple[Place, int]]) -> str:
        """What is wrong with these faults, one start each in one folder; empty where nothing is."""
        shutil.rmtree(self.run, ignore_errors=True)
        saved: tuple[int, int] | None = None
        for place, error in faults:
            ended = self.start(kind, place, error)
            if not self.shim.fired:
                return "not met"
            if wrong := _wrong(kind, ended, self.run):
                return wrong
            saved = self._saved(place)
        ended = self.start(kind)
        if any(ended.codes) or ended.err:
            return f"the next start ends with {ended.codes}: {ended.err.strip()[-300:]}"
        if wrong := difference(contents(self.run), self.alone[kind.name]):
            return f"the next start leaves something else: {wrong}"
        if saved and self.steps() and self.steps()[0] < saved:
            return f"the next start begins at step {self.steps()[0]}, but {saved} was saved"
        return ""

    def _saved(self, place: Place) -> tuple[int, int] | None:
        """The newest checkpoint whose manifest was there before the fault, unless the fault was in its making."""
        met, found = 0, []
        for call, path in self.calls():
            met += (call, path) == (place.call, place.path)
            if met == place.nth:
                break
            if call == "rename" and (at := re.search(r"checkpoint_(\d+)_(\d+)\.json$", path)):
                found.append((int(at[1]), int(at[2])))
        if "checkpoints" in place.path:
            found = found[:-1]
        return found[-1] if found else None


def _tell_steps(log: Path) -> None:
    from swlottery.lottery.training import Training

    real = Training.step

    def step(self: Training, number: int, round_: int, *rest: Any, **named: Any) -> Any:
        with open(log, "a") as file:
            file.write(f"{round_}:{number}\n")
        return real(self, number, round_, *rest, **named)

    Training.step = step


def _wrong(kind: Scenario, ended: End, folder: Path) -> str:
    """What is wrong with a start that met a fault."""
    logs = "".join(path.read_text(errors="replace") for path in folder.glob("runs/small/logs/*"))
    for text in (ended.err, ended.out, logs):
        if "Traceback" in text:
            return f"a traceback: {text.strip().splitlines()[-1][:200]}"
    (code,) = ended.codes
    if kind.name == "sweep" and code == 1 and "failed: " in ended.out:
        return ""  # a point said why
    lines = ended.err.splitlines()
    if code == 2 and len(lines) == 1 and lines[0].startswith("swlottery: "):
        return ""
    if code in (0, 75) and not lines:
        return ""
    return f"exit code {code}: {ended.err[-300:]}"


def table(counts: dict[str, Any]) -> str:
    """One row a scenario."""
    rows = [f"{'scenario':12} {'places':>7} {'× errors':>9} {'not met':>8} {'found':>6}"]
    for name, row in counts.items():
        rows.append(f"{name:12} {row['places']:7} {row['tried']:9} {row['not met']:8} {row['found']:6}")
    return "\n".join(rows)


def main() -> int:
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("--sample", type=int, metavar="PLACES")
    parsed.add_argument("--again", nargs=2, metavar=("NAME", "N"))
    parsed.add_argument("--only", metavar="NAME")
    flags = parsed.parse_args()
    children.warm()
    children.adopt()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        try:
            faults = Faults(Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no faults: shim.c cannot be compiled or used here ({getattr(error, 'stderr', '') or error})")
            return 0
        if flags.again:
            return again(faults, *flags.again)
        counts = {} if flags.sample or flags.only else stored.counted("faults")
        whole = sum(map(len, faults.places.values()))
        for name in [flags.only] if flags.only else KINDS:
            places = faults.places[name]
            if flags.sample:
                places = places[:: max(1, whole // flags.sample)]
            row = counts.setdefault(name, {"places": 0, "tried": 0, "not met": 0, "found": 0})
            row["places"] = len(places)
            errors = lambda i: ERRORS[i % 4 : i % 4 + 1] if flags.sample else ERRORS  # noqa: E731
            todo = [(place, error) for i, place in enumerate(places) for error in errors(i)]
            at_once = AT_ONCE if name in ("find", "report") else 1
            while row["tried"] < len(todo):
                some = todo[row["tried"] : row["tried"] + at_once]
                found = {row["tried"]: ""}
                if faults.attempt(faults.kinds[name], some):
                    found = {row["tried"] + i: faults.attempt(faults.kinds[name], [one]) for i, one in enumerate(some)}
                for number, wrong in found.items():
                    if wrong:
                        row["not met" if wrong == "not met" else "found"] += 1
                        place, error = todo[number]
                        print(f"{name} {number} {errno.errorcode[error]} {place}: {wrong}", flush=True)
                row["tried"] += len(some)
                if not (flags.sample or flags.only):
                    stored.count("faults", counts)
        print(table(counts))
    return int(any(row["found"] for row in counts.values()))


def again(faults: Faults, name: str, number: str) -> int:
    """One fault, with all that the starts said."""
    place, error = [(place, error) for place in faults.places[name] for error in ERRORS][int(number)]
    real = faults.start

    def loud(*given: Any) -> End:
        ended = real(*given)
        print(f"--- {given[1:]}: {ended.codes}\n{ended.out}{ended.err}")
        return ended

    faults.start = loud  # type: ignore[method-assign]
    wrong = faults.attempt(faults.kinds[name], [(place, error)])
    print(wrong or "right")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
