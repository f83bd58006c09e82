"""Small runs of every kind, started in milliseconds, with a fault or a kill at any system call that writes.

This process has imported everything, and forks a child a start. A start's folder is its working folder, so that what it
writes there can be compared with what an undisturbed one wrote.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "src"), str(HERE.parent)]
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

from children import fork, patch, redirect  # noqa: E402

import odd  # noqa: E402
from lottery import runs  # noqa: E402

TIMES = runs.TIMES | {"updated", "pid", "host", "own_sha256"}
LIMIT = 120.0  # seconds after which a start hangs


@dataclass(frozen=True)
class Scenario:
    """One command. ranks: how many processes share it. cores: that it may use. alone: it has several processes, and one
    of them may be killed alone."""

    name: str
    command: tuple[str, ...]
    ranks: int = 1
    cores: int = 1
    figures: bool = False
    alone: bool = False


class End(NamedTuple):
    """How a start ended: the codes of its ranks (-n for signal n), what they wrote to stdout and stderr, and whether
    children of theirs still run."""

    codes: list[int]
    out: str
    err: str
    orphans: bool


def scenarios(inputs: Path) -> dict[str, Scenario]:
    """All kinds of runs; what they read is made in ``inputs``, once."""
    model, text, parent = inputs / "gpt2", inputs / "text.txt", inputs / "parent" / "runs"
    sizes = ["--context", "16", "--micro-batch", "2", "--steps", "4", "--rounds", "2", "--eval-steps", "2"]
    few = ["--eval-sequences", "2", "--checkpoint-steps", "2", "--threads", "1", "--device", "cpu", "--lr", "1e-2"]
    places = ["--runs", "runs", "--plots", "plots", "--data", str(text)]
    pretrained = ("train", "--model", str(model), *places, *sizes, *few)
    scratch = ("train", "--model", "gpt2-mini", "--start", "scratch", "--init", "xavier", *places, *sizes, *few)
    prepare = ("prepare", *pretrained[1:], "--data", str(inputs / "texts"), "--data-tokens", "0")
    words = ["--eval-text", str(text), "--eval-tokens", "640", "--controls", "2", "--null-draws", "3"]
    record = str(inputs / "found" / "record.json")
    kinds = [
        Scenario("pretrained", pretrained),
        Scenario("figures", (*pretrained, "--steps", "2", "--rounds", "1", "--checkpoint-steps", "1"), figures=True),
        Scenario(
            "scratch",
            (*scratch, "--rewind-step", "2", "--data-order", "fresh", "--freeze-biases", "--tokenizer", str(model)),
        ),
        Scenario("protect", (*pretrained, "--protect", "sw", "--rewind", "lr")),
        Scenario("force-prune", (*pretrained, "--force-prune", "sw", "--super-weights", record)),
        Scenario("branch", (*pretrained, "--criterion", "random", "--from-round-1", str(parent))),
        Scenario("two ranks", (*pretrained, "--grad-accum", "2", "--rank-timeout", "4"), ranks=2, alone=True),
        Scenario("prepare", prepare),
        Scenario("prepare, 2 workers", prepare, cores=2),
        Scenario("find", ("find", "--model", str(model), *words, "--device", "cpu", "--out", "r.json", "--plots", "p")),
        Scenario("report", ("report", str(parent), "--out", "page.html", "--markdown", "page.md")),
        Scenario("sweep", ("sweep", str(inputs / "study.yaml"), "--local"), alone=True),
    ]
    if not inputs.exists():
        _make(inputs, kinds)
    return {kind.name: kind for kind in kinds}


def _make(inputs: Path, kinds: list[Scenario]) -> None:
    import yaml

    inputs.mkdir(parents=True)
    shape = {"n_embd": 16, "n_inner": 32, "n_layer": 2, "n_head": 2, "n_positions": 192}
    odd.model(inputs / "gpt2", **shape, bos_token_id=0, eos_token_id=0)
    (inputs / "text.txt").write_text("\n\n".join(f"Sentence {i} of a text of {i % 7} words." for i in range(120)))
    (inputs / "texts").mkdir()
    for number in range(9):
        (inputs / "texts" / f"{number}.txt").write_text(f"A text of {number} and more words. " * 60)
    settings: dict[str, Any] = {"model": str(inputs / "gpt2"), "data": str(inputs / "text.txt"), "context": 16}
    settings |= {"micro_batch": 2, "steps": 2, "rounds": 1, "eval_steps": 2, "eval_sequences": 2, "threads": 1}
    settings |= {"device": "cpu", "checkpoint_steps": 1, "super_weights": "none"}
    arms = {"p20": {}, "p10": {"prune_rate": "0.1", "from_round_1": "p20"}}
    (inputs / "study.yaml").write_text(yaml.safe_dump({"name": "small", "settings": settings, "arms": arms}))
    find = next(kind for kind in kinds if kind.name == "find").command
    flags = (*find[: find.index("--out")], "--out", "record.json", "--plots", "plots")
    for name, kind in (("found", Scenario("", flags)), ("parent", Scenario("", kinds[0].command))):
        ended = start(kind, inputs / name)
        assert ended.codes == [0], ended


# Starts


def start(
    scenario: Scenario,
    folder: Path,
    until: Callable[[list[int]], None] | None = None,
    traced: Callable[[], None] | None = None,
    wait: bool = True,
) -> End:
    """Start the command in ``folder``, which is made where it is missing, and wait for its end.

    until: called with the ranks' processes, which are a group; it may kill them. traced: called in each child first.
    wait: for their children too.
    """
    folder.mkdir(exist_ok=True, parents=True)
    logs = [folder / f".{kind}" for kind in ("out", "err")]  # where a full disk meets them too
    for log in logs:
        log.write_text("")
    port, pids = runs.free_port() if scenario.ranks > 1 else 0, list[int]()
    for rank in range(scenario.ranks):
        pids.append(fork(lambda rank=rank: _child(scenario, folder, logs, rank, port, pids, traced)))
        with suppress(OSError):  # it is gone already
            os.setpgid(pids[-1], pids[0])
    if until:
        until(pids)
    codes = dict[int, int]()
    began = time.monotonic()
    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)  # the children of killed children come to this process
        if pid in pids:
            codes[pid] = os.waitstatus_to_exitcode(status)
        elif not pid:
            if time.monotonic() - began > LIMIT:
                os.killpg(pids[0], signal.SIGKILL)
            time.sleep(0.001)
    left = reap(wait)
    out, err = (log.read_text(errors="replace") for log in logs)
    return End([codes[pid] for pid in pids], out, err, left)


def reap(wait: bool = True) -> bool:
    """Wait for all children. Returns whether some still run, which it does not wait for unless ``wait``."""
    with suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, 0 if wait else os.WNOHANG)
            if not pid:
                return True
    return False


def _child(
    scenario: Scenario,
    folder: Path,
    logs: list[Path],
    rank: int,
    port: int,
    pids: list[int],
    traced: Callable[[], None],
) -> int:
    os.setpgid(0, pids[0] if pids else 0)
    os.chdir(folder)
    redirect(*(os.open(log, os.O_WRONLY | os.O_APPEND) for log in logs))
    os.environ |= {"SWLOTTERY_CACHE": str(folder / "cache"), "SWLOTTERY_ROOT": "."}
    if scenario.ranks > 1:
        size = str(scenario.ranks)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": size, "WORLD_SIZE": size}
        os.environ |= {**own, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    patch(scenario.cores, scenario.figures)
    if traced:
        traced()
    from swlottery.cli import main

    return main(list(scenario.command))


# What is compared


def contents(folder: Path) -> dict[str, Any]:
    """All that a start leaves in its folder and that must not depend on how often it was interrupted."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "lock" or path.suffix == ".lock" or re.search(r"small/(points|logs)/", name):
            continue  # who holds it; a file a submission; a log a start
        if not re.match(r"runs/(small/p\d0/)?gpt2[^/]*/", name) and path.name.startswith("."):
            continue  # of a process that was killed; only a run's folder is kept clean of it
        found[re.sub(r"[0-9a-f]{32}", "*", name)] = _content(path)
    return found


def _content(path: Path) -> Any:
    content = path.read_bytes()
    if path.name == "status.json":
        return _timeless(json.loads(content))
    if path.name == "environment.json":  # of a sweep's point, the command names a file a submission
        stored = json.loads(content)
        return {name: value for name, value in stored.items() if name not in ("command", "own_sha256")}
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in content.splitlines()]
    if path.name == "rounds.csv":
        return [_timeless(row) for row in csv.DictReader(io.StringIO(content.decode()))]
    if path.name == "SHA256SUMS":
        listed = dict(line.split("  ", 1)[::-1] for line in content.decode().splitlines() if line[0] != "#")
        for name, digest in listed.items():
            same = hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == digest
            listed[name] = "right" if same else "wrong"
        return listed
    return hashlib.sha256(content).hexdigest()


def _timeless(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in TIMES}


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first file that is missing, too many, or another; empty where there is none."""
    for name in sorted(found.keys() | wanted.keys()):
        if name not in wanted:
            return f"{name} is too many"
        if name not in found:
            return f"{name} is missing"
        if found[name] != wanted[name]:
            return f"{name} is another: {_first(found[name], wanted[name])}"
    return ""


def _first(one: Any, two: Any) -> str:
    if isinstance(one, list):
        if len(one) != len(two):
            return f"{len(one)} lines, not {len(two)}"
        return next(f"{a}, not {b}" for a, b in zip(one, two, strict=True) if a != b)[:1000]
    if isinstance(one, dict):
        return str(
            {name: (one.get(name), two.get(name)) for name in one.keys() | two if one.get(name) != two.get(name)}
        )
    return "its bits"
