"""What memory does a find take with its weights in memory, and with most of them on disk? And the conversion of a GGUF?

    python bench/memory.py [--layers 12] [--hidden 1536] [--limit 600MB] [--device cpu] [--threads 2] [--gguf]

A random Llama in float32, one weight planted, is searched and verified twice, each in a process of its own: as usual,
and with `--device-map disk --max-memory LIMIT`. The records must be the same but for the device. Of each process the
peaks of its own memory (RssAnon), of mapped files (RssFile), and of both together are taken every 10 ms, above their
level with the libraries imported. Mapped pages are taken back by the system when it needs them: weights in memory are
such where they run as they are stored. `--gguf` converts the same model from a GGUF file in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

CHILD = """\
import json, sys, threading, time
import torch, transformers
from transformers.models.llama import modeling_llama

def now():
    with open("/proc/self/status") as file:
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e9 for line in file if line.startswith("Rss")}
    return {**found, "both": found["RssAnon"] + found["RssFile"]}

base, peaks, done = now(), now(), threading.Event()

def watch():
    while not done.wait(0.01):
        for name, size in now().items():
            peaks[name] = max(peaks[name], size)

thread = threading.Thread(target=watch)
thread.start()
began = time.perf_counter()
try:
    DO
finally:
    done.set()
    thread.join()
gpu = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0
print(json.dumps({"seconds": time.perf_counter() - began, "base": base, "peaks": peaks, "gpu": gpu}), file=sys.stderr)
"""
FIND = "from swlottery.cli import main; code = main(sys.argv[1:]); assert code == 0, code"
CONVERT = (
    "from pathlib import Path; from swlottery.models import gguf; "
    "gguf.Path(sys.argv[2]).write_text(str(gguf.converted_folder(Path(sys.argv[1]))))"
)
MAKE = """\
import sys
from pathlib import Path
import planted, odd
from swlottery.find import probe
from swlottery.models import load
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate

folder, layers, hidden = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
shape = dict(hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers, head_dim=64)
shape |= dict(num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64, vocab_size=8192)
odd.model(folder, "llama", **shape, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
loaded = load.load(str(folder), device="cpu")
roles = Roles(loaded.model)
short = probe.build(loaded.tokenizer, ["Apple Inc. is a worldwide tech"], 512, "with")
plant = planted.plant_input(loaded.model, roles, short, Coordinate(1, 5, 60), 0, size=300.0)
planted.plant_weight(loaded.model, roles, short, plant, 20.0)
loaded.model.save_pretrained(folder)
"""
WRITE = "import sys; from pathlib import Path; from models.test_gguf import write; write(*map(Path, sys.argv[1:]))"


def child(program: str, arguments: list[str], threads: int) -> str:
    """Run a program in a process of its own. Returns the last line of its stderr."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return done.stderr.splitlines()[-1] if done.stderr else ""


def row(what: str, told: str) -> dict[str, Any]:
    """A row of the table from what a child told, in GB above the level that its imports left."""
    found = json.loads(told)
    own, mapped, both = (found["peaks"][name] - found["base"][name] for name in ("RssAnon", "RssFile", "both"))
    seconds, gpu = found["seconds"], found["gpu"]
    return {"what": what, "seconds": seconds, "own": own, "mapped": mapped, "both": both, "gpu": gpu}


def measure(arguments: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """The rows of the table."""
    folder = work / "model"
    child(MAKE, [str(folder), str(arguments.layers), str(arguments.hidden)], arguments.threads)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    print(f"weights: {size / 1e9:.2f} GB in float32; limit: {arguments.limit}", flush=True)
    few = ["--eval-tokens", "512", "--controls", "2", "--null-draws", "9", "--max-weights", "1", "--ablate", "0,3,4"]
    few += ["--prompt", "Apple Inc. is a worldwide tech company."]
    rows, records = [], []
    for name, flags in {
        "in memory": [],
        f"on disk, {arguments.limit}": ["--device-map", "disk", "--max-memory", arguments.limit],
    }.items():
        out = work / f"{len(rows)}.json"
        common = ["find", "--model", str(folder), "--device", arguments.device, "--out", str(out), *few]
        told = child(CHILD.replace("DO", FIND), [*common, "--plots", str(work / "plots"), *flags], arguments.threads)
        rows.append(row(f"find, {name}", told))
        records.append(json.loads(out.read_text(encoding="utf-8")))
    print("the records are", "the same" if records[0] == records[1] else "NOT THE SAME")
    for one in [*records[1]["super_weights"], *records[1]["ablated"]]:
        place = tuple(one[name] for name in ("layer", "out", "in"))
        print(f"at zero {place}: {one['nll_difference']:+.5f} nats a token, in both")
    if arguments.gguf:
        file = work / "model.gguf"
        child(WRITE, [str(folder), str(file)], arguments.threads)
        os.environ["SWLOTTERY_CACHE"] = str(work / "cache")
        told = child(CHILD.replace("DO", CONVERT), [str(file), str(work / "where")], arguments.threads)
        rows.append(row("GGUF, converted", told))
    for one in rows:
        one["of the weights"] = one["both"] / (size / 1e9)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--limit", default="600MB")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swlottery-memory-") as work:
        rows = measure(arguments, Path(work))
    print(f"\n{'':<24}{'seconds':>9}{'own, GB':>9}{'mapped, GB':>12}{'both, GB':>10}{'× weights':>11}{'GPU, GB':>9}")
    for one in rows:
        numbers = f"{one['seconds']:>9.0f}{one['own']:>9.2f}{one['mapped']:>12.2f}{one['both']:>10.2f}"
        print(f"{one['what']:<24}{numbers}{one['of the weights']:>11.2f}{one['gpu']:>9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
