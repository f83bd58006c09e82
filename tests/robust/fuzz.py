"""Mutated inputs: a right result, or one line that refuses; never a traceback, a hang, much memory or half a file.

    python tests/robust/fuzz.py --until 2000                      # of every kind, going on from counts.json
    python tests/robust/fuzz.py --kind gguf --until 50 --fresh    # the first fifty of one kind; counts.json stays
    python tests/robust/fuzz.py --again FOLDER                    # a kept input once more

Case n of a kind is always the same: hypothesis draws a hundred at a time from a seed. Each is a copy of sound files of
which one is mutated, in its bytes or in what they mean, and the commands that read it, in a child of this process.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fuzz_inputs
from counts import count, counted
from fuzz_worker import REFUSED, RIGHT, Case, Kind, Outcome, run
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

FORK = 25
"""Cases that one child runs."""


def cases(kind: Kind) -> Iterator[Case]:
    """The cases of a kind, without end: always the same ones, all different, and none of them sound."""
    sound = {name: (kind.base / name).read_bytes() for name in kind.files}
    seen = {_digest(name, content) for name, content in sound.items()}
    for batch in itertools.count():
        for name, content in _drawn(kind, batch, sound):
            if (digest := _digest(name, content)) not in seen:
                seen.add(digest)
                yield {name: content}


def _drawn(kind: Kind, batch: int, sound: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []

    @seed(batch)
    @settings(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(kind.files))
        found.append((name, kind.change(data.draw, sound[name])))

    collect()
    return found


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest()


def campaign(kind: Kind, some: Sequence[tuple[int, Case]], folder: Path, keep: Path | None) -> Counter[str]:
    """Run these cases of a kind: how many had which verdict."""
    verdicts: Counter[str] = Counter()
    for (number, case), outcome in zip(some, run(kind, some, folder), strict=True):
        if outcome.found:  # once more, alone: what a case before it has left in the process is no bug
            alone = run(kind, [(number, case)], folder)[0]
            outcome = alone if alone.found else Outcome(alone.verdict)
        verdicts[outcome.verdict] += 1
        if keep and outcome.found and verdicts[outcome.verdict] <= 3:
            _keep(kind, number, case, outcome, keep)
    return verdicts


def _keep(kind: Kind, number: int, case: Case, outcome: Outcome, keep: Path) -> None:
    name = re.sub(r"[^\w.-]+", "_", outcome.verdict)[:100]
    place = keep / kind.name / name / str(number)
    shutil.rmtree(place, ignore_errors=True)
    for file, content in case.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content)
    (place / "said.txt").write_text(f"{outcome.verdict}\n\n{outcome.detail}\n", errors="replace")
    (place / "case.json").write_text(json.dumps({"kind": kind.name, "number": number, "files": list(case)}))


def again(place: Path, kinds: list[Kind], folder: Path) -> Outcome:
    """A kept case once more."""
    told = json.loads((place / "case.json").read_text())
    kind = next(kind for kind in kinds if kind.name == told["kind"])
    return run(kind, [(told["number"], {name: (place / name).read_bytes() for name in told["files"]})], folder)[0]


def _seconds() -> float:
    """Of this process and its children, on a processor."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", action="append", help="only this one; repeatable")
    parser.add_argument("--until", type=int, default=2000, help="cases of each kind in all")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="and no new cases after so many, of each kind"
    )
    parser.add_argument("--fresh", action="store_true", help="from the first case; counts.json stays as it is")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that are answered badly")
    parser.add_argument("--again", type=Path, action="append", help="only these kept inputs")
    given = parser.parse_args()
    keep = given.keep and given.keep.absolute()
    bad = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        kinds = fuzz_inputs.kinds(Path(name) / "sound")
        for place in given.again or []:
            outcome = again(place, kinds, Path(name))
            print(f"{place}: {outcome.verdict}\n{outcome.detail}")
            bad += outcome.found
        if given.again:
            return bool(bad)
        print(f"{'kind':<12} {'cases':>6} {'refused':>8} {'right':>6} {'found':>6} {'CPU s':>8}", flush=True)
        for kind in kinds:
            if given.kind and kind.name not in given.kind:
                continue
            first = 0 if given.fresh else counted("fuzz").get(kind.name, 0)
            began, verdicts = _seconds(), Counter[str]()
            until = time.monotonic() + given.seconds
            numbered = itertools.islice(enumerate(cases(kind)), first, max(first, given.until))
            while time.monotonic() < until and (some := list(itertools.islice(numbered, FORK))):
                verdicts += campaign(kind, some, Path(name), keep)
                if not given.fresh:
                    count("fuzz", counted("fuzz") | {kind.name: some[-1][0] + 1})
            found = {verdict: times for verdict, times in verdicts.items() if verdict not in (REFUSED, RIGHT)}
            row = f"{verdicts.total():>6} {verdicts[REFUSED]:>8} {verdicts[RIGHT]:>6} {sum(found.values()):>6}"
            print(f"{kind.name:<12} {row} {_seconds() - began:>8.0f}", flush=True)
            for verdict, times in sorted(found.items(), key=lambda one: -one[1]):
                print(f"    {times:>4} {verdict}", flush=True)
            bad += len(found)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
