"""Let each system call that writes fail once, at every place that small runs reach, with each of four errors.

    python tests/robust/faults.py                 # goes on from the counts in counts.json
    python tests/robust/faults.py --sample 60     # so many places, the errors in turn, from the start and not kept
    python tests/robust/faults.py --again NAME N  # fault N of a scenario once more, with what each start said

A place is a call on a kind of file, the first and the last time that a run makes it, unless an earlier scenario has
reached it. After the fault the command ends with one line and exit code 2, or goes on where the file does not matter.
The next starts go on, each from the newest checkpoint that was there, and to the next fault if they come to its place.
The last one has the end of an undisturbed run.
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
KINDS = ("pretrained", "figures", "scratch", "branch", "prepare", "find", "report", "sweep")
AT_ONCE = 8  # faults one after the other in one folder, at most
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
        known: set[tuple[str, str]] = set()
        for name in KINDS:
            shutil.rmtree(self.run, ignore_errors=True)
            ended = self.start(self.kinds[name])
            if any(ended.codes) or ended.err:
                raise SystemExit(f"{name} fails though nothing disturbs it: {ended}")
            self.alone[name] = contents(self.run)
            self.places[name] = self._places(known)

    def _places(self, known: set[tuple[str, str]]) -> list[Place]:
        seen, kinds = Counter[tuple[str, str]](), dict[tuple[str, str], list[Place]]()
        every = list[Place]()
        for call, path in self.calls():
            seen[call, path] += 1
            every.append(Place(call, path, seen[call, path]))
            kinds.setdefault((call, _kind(path)), []).append(every[-1])
        chosen = {place for kind, alike in kinds.items() if kind not in known for place in (alike[0], alike[-1])}
        known.update(kinds)
        return [place for place in every if place in chosen]

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

    def attempt(self, kind: Scenario, faults: list[tuple[Place, int]]) -> tuple[int, str]:
        """Try these faults, a start each in one folder, as far as they are met.

        Returns how many were, and what is wrong; empty where nothing is.
        """
        shutil.rmtree(self.run, ignore_errors=True)
        saved, met = (0, 0), 0
        while True:
            ended = self.start(kind, *faults[met]) if met < len(faults) else self.start(kind)
            if self.steps() and self.steps()[0] < saved:
                return met, f"the next start begins at step {self.steps()[0]}, but {saved} was saved"
            if met == len(faults) or not self.shim.fired:
                break
            if wrong := _wrong(kind, ended, self.run):
                return met + 1, wrong
            if kind.name != "sweep":  # which has several runs
                saved = max(saved, self._saved(faults[met][0]))
            met += 1
        if any(ended.codes) or ended.err:
            return met, f"the next start ends with {ended.codes}: {ended.err.strip()[-300:]}"
        wrong = difference(contents(self.run), self.alone[kind.name])
        return met, wrong and f"the next start leaves something else: {wrong}"

    def _saved(self, place: Place) -> tuple[int, int]:
        """The newest checkpoint whose manifest was there before the fault, unless the fault was in its making."""
        met, found = 0, [(0, 0)]
        for call, path in self.calls():
            met += (call, path) == (place.call, place.path)
            if met == place.nth:
                break
            if call == "rename" and (at := re.search(r"checkpoint_(\d+)_(\d+)\.json$", path)):
                found.append((int(at[1]), int(at[2])))
        if "checkpoints" in place.path:
            found = found[:-1]
        return max(found, default=(0, 0))


def _tell_steps(log: Path) -> None:
    from swlottery.lottery.training import Training

    real = Training.step

    def step(self: Training, number: int, round_: int, *rest: Any, **named: Any) -> Any:
        with open(log, "a") as file:
            file.write(f"{round_}:{number}\n")
        return real(self, number, round_, *rest, **named)

    Training.step = step


def _kind(path: str) -> str:
    """A path without what tells the file from others of its kind: numbers, and beside a run's folder its name."""
    path = re.sub(r"\d+", "#", RUN.sub("RUN", path))
    return path if path.startswith("RUN") else re.sub(r"(/\.?)[^/.]+(?=\.)", r"\1*", path)


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
        every = sum(map(len, faults.places.values())) // flags.sample or 1 if flags.sample else 1
        chosen = {name: places[::every] for name, places in faults.places.items()}
        if flags.again:
            return again(faults, chosen[flags.again[0]], *flags.again)
        kept = not (flags.sample or flags.only)
        counts = stored.counted("faults") if kept else {}
        before = sum(row["found"] for row in counts.values())  # those are known
        for turns in range(1, 2 if flags.sample else len(ERRORS) + 1):
            for name in [flags.only] if flags.only else KINDS:
                places = chosen[name]
                row = counts.setdefault(name, {"places": len(places), "tried": 0, "not met": 0, "found": 0})
                todo = in_turn(places)[: turns * len(places)]
                while row["tried"] < len(todo):
                    some(faults, name, todo, row)
                    if kept:
                        stored.count("faults", counts)
        print(table(counts))
    return int(sum(row["found"] for row in counts.values()) > before)


def in_turn(places: list[Place]) -> list[tuple[Place, int]]:
    """Every place with every error: first each place with one of them."""
    return [(place, ERRORS[(i + turn) % len(ERRORS)]) for turn in range(len(ERRORS)) for i, place in enumerate(places)]


def some(faults: Faults, name: str, todo: list[tuple[Place, int]], row: dict[str, int]) -> None:
    """Try the next few faults in one folder, and say what is wrong with the last of them, or that it is not met."""
    kind, chosen = faults.kinds[name], todo[row["tried"] : row["tried"] + AT_ONCE]
    met, wrong = faults.attempt(kind, chosen)
    if wrong and met > 1:
        _, alone = faults.attempt(kind, chosen[met - 1 : met])
        wrong = alone or f"after those before it: {wrong}"
    row["tried"] += max(met, 1)
    row["not met"] += not met
    row["found"] += bool(wrong)
    if wrong or not met:
        place, error = todo[row["tried"] - 1]
        print(f"{name} {row['tried'] - 1} {errno.errorcode[error]} {place}: {wrong or 'not met'}", flush=True)


def again(faults: Faults, places: list[Place], name: str, number: str) -> int:
    """One fault, with all that the starts said."""
    place, error = in_turn(places)[int(number)]
    real = faults.start

    def loud(*given: Any) -> End:
        ended = real(*given)
        print(f"--- {given[1:]}: {ended.codes}\n{ended.out}{ended.err}")
        return ended

    faults.start = loud  # type: ignore[method-assign]
    met, wrong = faults.attempt(faults.kinds[name], [(place, error)])
    print(wrong or ("right" if met else "not met"))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
