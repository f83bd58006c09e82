"""What do the finder's hooks cost? The search's forward pass against a bare one of the same model on the same tokens.

    python bench/find.py [--model smollm2] [--dtype float32] [--prompts 16] [--length 512] [--runs 5] [--threads 2]

Each pass runs in turn (bare, bare again, watched, keeping everything), so that a drift of the machine's speed falls
on all alike. Ratios are taken within a turn and their median is quoted. Bare against bare is the noise floor. Memory
is the peak of the process in two passes above its level before them, each kind in a process of its own (on a GPU: of
the allocator).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from pathlib import Path
from typing import Any

KINDS = ("bare", "bare again", "watched", "keeping everything")


def prepare(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    import torch

    from swlottery.data.evaluation import read_text
    from swlottery.find.probe import Probe
    from swlottery.models import load as models
    from swlottery.models.architectures import Roles

    torch.set_num_threads(arguments.threads)
    loaded = models.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    shape = (arguments.prompts, arguments.length)
    text = read_text("builtin").content[: 20 * arguments.prompts * arguments.length]
    tokens = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][: arguments.prompts * arguments.length]
    ids = torch.tensor(tokens, device=loaded.device).view(shape)
    valid = torch.ones(ids.numel(), dtype=torch.bool, device=loaded.device)
    names = ("",) * arguments.prompts
    return loaded.model, Roles(loaded.model).downs, Probe(ids, valid, names, (False,) * arguments.prompts, (names,))


def one_pass(kind: str, model: Any, downs: Any, probe: Any) -> None:
    import torch

    from swlottery.config import KAPPA
    from swlottery.find.forward import run_body
    from swlottery.find.scan import scan

    if kind == "watched":
        scan(model, downs, probe, KAPPA / 2)
    elif kind == "keeping everything":
        kept = []
        handles = [down.output_module.register_forward_hook(lambda _, a, o: kept.append((a[0], o))) for down in downs]
        run_body(model, probe.ids)
        for handle in handles:
            handle.remove()
    else:
        run_body(model, probe.ids)
    if probe.ids.is_cuda:
        torch.cuda.synchronize()


def peak_memory(kind: str, arguments: argparse.Namespace, answer: Any) -> None:
    """In a process of its own: the peak during two passes above the level before them, in MiB.

    Not only during the second: what the allocator keeps of the first would then not count.
    """
    import torch

    model, downs, probe = prepare(arguments)
    if probe.ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one_pass(kind, model, downs, probe)
        answer.put((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    peak, done = [0], threading.Event()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.002)

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2):
        one_pass(kind, model, downs, probe)
    done.set()
    watcher.join()
    answer.put((peak[0] - before) / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    memory = {}
    for kind in KINDS:
        answer = context.Queue()
        process = context.Process(target=peak_memory, args=(kind, arguments, answer))
        process.start()
        process.join()  # what it answers is a few bytes, which fit the pipe
        if process.exitcode:
            raise SystemExit(f"measuring the memory of a {kind} pass failed")
        memory[kind] = answer.get()

    model, downs, probe = prepare(arguments)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(arguments.runs + 1):
        for kind in KINDS:
            started = time.perf_counter()
            one_pass(kind, model, downs, probe)
            if turn:  # the first turn warms up
                seconds[kind].append(time.perf_counter() - started)
    print(
        f"{arguments.model}, tokens ({arguments.prompts}, {arguments.length}), {arguments.dtype}, {arguments.device}, "
        f"{arguments.threads} threads, {arguments.runs} turns\n"
    )
    print(f"{'pass':<20}{'seconds (median)':>17}{'× bare (median, range)':>28}{'peak MiB':>10}{'× bare':>8}")
    for kind in KINDS:
        ratios = [a / b for a, b in zip(seconds[kind], seconds["bare"], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
        print(
            f"{kind:<20}{statistics.median(seconds[kind]):>17.2f}{spread:>28}{memory[kind]:>10.0f}"
            f"{memory[kind] / memory['bare']:>8.2f}"
        )


if __name__ == "__main__":
    main()
