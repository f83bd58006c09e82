"""Kill runs of every kind, each again and again until it ends by itself: the end has the bits of an undisturbed run.

    python tests/robust/kills.py --until 1000     # goes on from the counts in counts.json
    python tests/robust/kills.py --again NAME N   # run N of a scenario once more, with what each start said

Half of the kills come at a random moment, half at a random system call that writes: before it, after it, or when half
is written. Whom they hit: the whole group, or only one of its processes.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import children
import counts as stored
import scenario as scenarios
from scenario import Scenario, contents, difference, start
from shim import Shim

MOST = 40  # kills of one run


@dataclass
class Undisturbed:
    """A run that nobody killed: how long it took, how many calls that write it made, and what it left."""

    seconds: float
    calls: int
    left: dict[str, Any]


@dataclass
class Killed:
    """What became of a run that was killed. wrong: empty where its end is that of an undisturbed one."""

    kills: int = 0
    wrong: str = ""
    said: list[str] = field(default_factory=list)


class Kills:
    """The harness, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds = scenarios.scenarios(folder / "inputs")
        self.shim: Shim | None = None
        try:
            self.shim = Shim(folder)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no kills at system calls, only at moments: shim.c cannot be compiled here ({error})")
        self.alone: dict[str, Undisturbed] = {}

    def undisturbed(self, kind: Scenario) -> Undisturbed:
        """The run to compare with."""
        if kind.name not in self.alone:
            folder, log = self.folder / "run", self.folder / "calls"
            with open(log, "wb") as file:
                shim = self._shim(kind)
                if shim:
                    shim.plan(folder, "nothing", log=file.fileno())
                shutil.rmtree(folder, ignore_errors=True)
                began = time.monotonic()
                ended = start(kind, folder, traced=shim.begin if shim else None)
            if any(ended.codes) or ended.err:
                raise SystemExit(f"{kind.name} fails though nobody disturbs it: {ended}")
            self.alone[kind.name] = Undisturbed(
                time.monotonic() - began, log.read_bytes().count(b"\n"), contents(folder)
            )
        return self.alone[kind.name]

    def time_spent(self, kind: Scenario, counts: dict[str, Any]) -> float:
        """On the runs of a kind, about. That with the least is next, so that the slow ones take no more than others."""
        return counts[kind.name]["runs"] * self.undisturbed(kind).seconds if kind.name in counts else 0

    def run(self, kind: Scenario, number: int) -> Killed:
        """One run, killed until it ends by itself. number: of the run; with the same one, the same kills are tried."""
        alone, result = self.undisturbed(kind), Killed()
        choices, folder = random.Random(f"{kind.name} {number}"), self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        while True:
            ended, how = self._start(kind, folder, alone, choices, result.kills)
            result.said.append(f"--- {how}: {ended.codes}, {ended.orphans} left\n{ended.out}{ended.err}")
            if -signal.SIGKILL in ended.codes or (self.shim and self.shim.fired):  # or a sweep's point was
                result.kills += 1
                if "Traceback" in ended.err:
                    result.wrong = "a traceback"
            elif ended.orphans:  # of a sweep that was killed, and that a second one met; wait for them
                scenarios.reap()
            else:
                break
        if any(ended.codes) or ended.err:
            result.wrong = f"ended with {ended.codes}: {ended.err.strip()[-500:]}"
        else:
            result.wrong = result.wrong or difference(contents(folder), alone.left)
        return result

    def _start(
        self, kind: Scenario, folder: Path, alone: Undisturbed, choices: random.Random, kills: int
    ) -> tuple[scenarios.End, str]:
        """One start, with a kill on its way unless there were enough."""
        shim = self._shim(kind)
        aimed = choices.random() < 0.5 and shim is not None
        moment = choices.uniform(0, alone.seconds * (1 + kills / 5))  # some never come further than to a late moment
        call, action = choices.randint(1, max(1, alone.calls)), choices.choice(["before", "after"])
        one = kind.alone and choices.random() < 0.25
        if shim:
            shim.plan(folder, "nothing")
        if kills >= MOST:
            return start(kind, folder), "no kill"
        if aimed and shim:
            shim.plan(folder, action if one else f"{action} all", nth=call)
            return start(kind, folder, traced=shim.begin, wait=not one), f"{action} call {call}, {one=}"

        def kill(pids: list[int]) -> None:
            ends = os.pidfd_open(pids[0])
            if not select.select([ends], [], [], moment)[0]:
                if one:
                    os.kill(choices.choice(pids), signal.SIGKILL)
                else:
                    os.killpg(pids[0], signal.SIGKILL)
            os.close(ends)

        return start(kind, folder, kill, wait=not one), f"after {moment:.3f} s, {one=}"

    def _shim(self, kind: Scenario) -> Shim | None:
        return None if kind.cores > 1 else self.shim  # workers are other programs


def table(counts: dict[str, Any]) -> str:
    """One row a scenario."""
    rows = [f"{'scenario':20} {'kills':>6} {'runs':>6} {'differing':>9}"]
    total = {name: sum(row[name] for row in counts.values()) for name in ("kills", "runs", "differing")}
    for name, row in {**counts, "all": total}.items():
        rows.append(f"{name:20} {row['kills']:6} {row['runs']:6} {row['differing']:9}")
    return "\n".join(rows)


def main() -> int:
    parsed = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("--until", type=int, default=1000, help="kills in all, with those of earlier days")
    parsed.add_argument("--more", type=int, help="so many, from the first run on, and not kept")
    parsed.add_argument("--again", nargs=2, metavar=("NAME", "N"))
    flags = parsed.parse_args()
    children.warm()
    children.adopt()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        kills = Kills(Path(folder))
        if flags.again:
            result = kills.run(kills.kinds[flags.again[0]], int(flags.again[1]))
            print("\n".join(result.said), result.kills, "kills:", result.wrong or "the same bits")
            return bool(result.wrong)
        counts = {} if flags.more else stored.counted("kills")
        wanted = flags.more or flags.until
        while sum(row["kills"] for row in counts.values()) < wanted:
            kind = min(kills.kinds.values(), key=lambda kind: kills.time_spent(kind, counts))
            row = counts.setdefault(kind.name, {"kills": 0, "runs": 0, "differing": 0})
            result = kills.run(kind, row["runs"])
            if result.wrong:
                print(f"{kind.name} {row['runs']}: {result.wrong}", flush=True)
            row["kills"] += result.kills
            row["runs"] += 1
            row["differing"] += bool(result.wrong)
            if not flags.more:
                stored.count("kills", counts)
        print(table(counts))
    return int(any(row["differing"] for row in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
