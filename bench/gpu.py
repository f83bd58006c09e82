"""What does swlottery do on this GPU? The tests that need one, the bits of a resume, and the speed of everything.

    PYTHONPATH=src python bench/gpu.py [--out FOLDER] [--parts tests,resume,…] [--minutes 9]
    PYTHONPATH=src python bench/gpu.py --small      the same on a CPU, tiny, in two minutes: a test of this script

At most nine minutes on one H100, the parts in the order of their importance:

    tests     the tests marked `gpu`
    resume    a run stopped in mid-round and gone on with in a new process, bit for bit against one left alone
    speed     tokens a second of GPT-2 124M, ours and nanoGPT's step (`bench/nanogpt.py`), eager and compiled
    finder    forward pass, search, nulls, verification: GPT-2 124M and a 7B Llama, both random with one planted weight
    prune     selection and watch at 124M and 1.5B weights
    offload   a Llama of 1.1B weights on the GPU, in CPU memory, and on disk (`--device-map`): time, memory, same logits
    seed      configs/seed/876812.yaml at its full batch on the built-in text, a few steps a round

and one that takes nine minutes by itself, and is left out where no parts are named:

    study     GPT-2 124M from scratch with as many steps as fit, the finder at steps 1, 2, 4, …, two prunes;
              FOLDER/study_tables is read by `swlottery report` beside other runs

Each part is a process of its own and has a time limit; one that fails or is killed at its limit stops no other. After
each, FOLDER/gpu.txt (the tables, printed as well) and FOLDER/gpu.json are written anew. The exit code is 1 if a part
did not come to its end. FOLDER is $OUT by default, else the current folder.

Needs no network and no installation, only torch, transformers, scipy, matplotlib, pyyaml, pytest, hypothesis (the
study also pandas and jinja2); none of datasets, gguf and jsonschema, which nothing here imports. Disk: 20 GB while it
runs, in $TMPDIR.
"""

from __future__ import annotations

import os
import sys

# This folder holds a select.py, which would hide the standard library's: it goes to the end of the path.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [*(place for place in sys.path if os.path.abspath(place) != HERE), HERE]

import argparse
import importlib.metadata
import importlib.util
import json
import runpy
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_parts import PARTS, ROOT, SMALL, Row, Size, text


def machine() -> dict[str, str]:
    """What ran this, without importing torch or touching the GPU."""
    found = {
        "python": sys.version.split()[0],
        "torch": "none",
        "transformers": importlib.metadata.version("transformers"),
    }
    if (spec := importlib.util.find_spec("torch")) and spec.origin:
        version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
        found |= {"torch": str(version["__version__"]), "CUDA of torch": str(version.get("cuda"))}
    found["GPU, driver, memory"] = "none"
    with suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        found["GPU, driver, memory"] = subprocess.check_output(query, text=True, timeout=20).strip()
    return found


def table(rows: list[Row]) -> list[str]:
    """The rows in columns; notes on lines of their own."""
    notes = [row["note"] for row in rows if "note" in row]
    kept = {str(next(iter(row.values()))): row for row in rows if "note" not in row}
    names = list(dict.fromkeys(name for row in kept.values() for name in row))
    values = [[row.get(name, "") for name in names] for row in kept.values()]
    cells = [names, *([f"{value:,}" if isinstance(value, int) else str(value) for value in row] for row in values)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return notes + (lines if kept else [])


def start(name: str, arguments: argparse.Namespace, work: Path) -> subprocess.Popen[bytes]:
    """This script, for one part, in a group of processes of its own; its output goes to a file."""
    (work / name).mkdir()
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "SWLOTTERY_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, __file__, "--part", name, "--work", str(work), *(["--small"] if arguments.small else [])]
    with open(work / name / "log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own, start_new_session=True)


def ended(process: subprocess.Popen[bytes], limit: float) -> str:
    """Wait so long, end whatever is left of the part's processes, and say how it went."""
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        code = None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "done" if code == 0 else f"OVER ITS LIMIT of {limit:.0f} s" if code is None else "FAILED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", default=",".join(name for name in PARTS if name != "study"))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "."))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        do = text if arguments.part == "text" else PARTS[arguments.part][0]
        with open(arguments.work / arguments.part / "rows", "a") as file:
            for row in do(SMALL if arguments.small else Size(), arguments.work / arguments.part):
                print(row, flush=True)
                print(json.dumps(row), file=file, flush=True)
        return 0
    if unknown := set(parts := arguments.parts.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}: they are {', '.join(PARTS)}")
    began = time.monotonic()
    result: dict[str, Any] = {"machine": machine(), "small": arguments.small, "parts": {}}
    said = [
        "; ".join(f"{name} {value}" for name, value in result["machine"].items())
        + (" (--small)" if arguments.small else "")
    ]
    print(said[0], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="swlottery-gpu-"))
    meanwhile = start("text", arguments, work) if {"seed", "study"} & {*parts} and not arguments.small else None
    try:
        for name in parts:
            started = time.monotonic()
            limit = PARTS[name][1] * (10 if arguments.small else 1)  # a CPU may be slow, and time is not what is tested
            limit = limit if arguments.small else min(limit, 60 * arguments.minutes - (started - began))
            state = ended(start(name, arguments, work), limit) if limit > 5 else "NOT BEGUN: no time left"
            seconds = time.monotonic() - started
            rows_file, log = work / name / "rows", work / name / "log"
            rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
            lines = [f"\n{name}: {state} ({seconds:.0f} s)", *table(rows)]
            result["parts"][name] = {"state": state, "seconds": round(seconds, 1), "rows": rows}
            if state != "done" and log.exists():
                tail = log.read_text(errors="replace").splitlines()[-40:]
                result["parts"][name]["log"] = tail
                lines += ["its last words:", *(f"    {line[:200]}" for line in tail)]
            print("\n".join(lines), flush=True)
            said += lines
            (arguments.out / "gpu.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            (arguments.out / "gpu.txt").write_text("\n".join(said) + "\n")
            if (kept := work / name / "kept").is_dir():
                shutil.copytree(kept, arguments.out, dirs_exist_ok=True)
            for large in [path for path in (work / name).iterdir() if path.is_dir()]:
                shutil.rmtree(large, ignore_errors=True)
    finally:
        if meanwhile is not None:
            ended(meanwhile, 0)
        shutil.rmtree(work, ignore_errors=True)
    return 0 if all(part["state"] == "done" for part in result["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
