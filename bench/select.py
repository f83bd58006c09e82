"""What does exact selection cost? Ours against `torch.kthvalue` on a copy and `prune.global_unstructured`.

    python bench/select.py [--weights 124M,400M,1.5B] [--dtype float32] [--runs 3] [--threads 2] [--others-up-to 1B]

A fifth of all weights goes. Every kind selects in turn from the same weights, so that a drift of the machine's speed
falls on all alike; ratios are taken within a turn and their median is quoted. `kthvalue` finds the threshold among |w|
of all tensors, concatenated, and makes no mask. `global_unstructured` makes masks and applies them.
Memory is the peak of a process of its own above its level before, in percent of the weights' bytes; from ours the masks
that it returns, a byte a weight, are taken off. Above `--others-up-to` the others need too much, and ours runs alone.
"""

from __future__ import annotations

import os
import sys

# A script's folder is the first place where Python looks, so this file hides the standard library's `select` from every
# script here. It therefore takes its folder off the path, and when it was taken for that module, it steps aside.
sys.path[:] = [place for place in sys.path if os.path.abspath(place) != os.path.dirname(os.path.abspath(__file__))]
if __name__ == "select":
    del sys.modules["select"]
    import select  # noqa: F401

import argparse
import ctypes
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

KINDS = ("ours", "kthvalue", "global_unstructured")
SIDE = 2048


def number(text: str) -> int:
    """124M → 124,000,000."""
    units = {"K": 10**3, "M": 10**6, "B": 10**9}
    return round(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def prepare(weights: int, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Square matrices of normal random numbers and what is left as a vector; masks that are True everywhere."""
    import torch

    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    shapes = [(SIDE, SIDE)] * (weights // SIDE**2) + [(weights % SIDE**2,)]
    dtype = getattr(torch, arguments.dtype)
    tensors = {str(i): (0.02 * torch.randn(shape, generator=generator)).to(dtype) for i, shape in enumerate(shapes)}
    return tensors, {name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}


def one_selection(kind: str, tensors: dict[str, Any], masks: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """A selection by one of the three; what it returns is what `threshold_of` can read the threshold from."""
    import torch
    from torch import nn
    from torch.nn.utils import prune

    from swlottery.lottery.criteria import CRITERIA
    from swlottery.lottery.prune import prune_count
    from swlottery.lottery.select import select

    count = prune_count(sum(tensor.numel() for tensor in tensors.values()), "0.2")
    if kind == "ours":
        return select(tensors, masks, count, 0, CRITERIA[arguments.criterion])
    if kind == "kthvalue":
        return float(torch.cat([tensor.abs().flatten() for tensor in tensors.values()]).kthvalue(count).values)
    modules = []
    for tensor in tensors.values():
        modules.append(nn.Module())
        modules[-1].weight = nn.Parameter(tensor, requires_grad=False)
    parameters = [(module, "weight") for module in modules]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=count)
    return None


def threshold_of(selected: Any, tensors: dict[str, Any]) -> float | None:
    """The largest |w| that went: of our masks, where before all remained; None of a selection that does not say it."""
    if not isinstance(selected, dict):
        return selected
    gone = (tensor.abs().masked_fill_(selected[name], 0) for name, tensor in tensors.items() if tensor.numel())
    return max(float(sizes.amax()) for sizes in gone)


def peak_memory(kind: str, weights: int, arguments: argparse.Namespace, answer: Any) -> None:
    """In a process of its own: the peak during a selection above the level before it, in percent of the weights."""
    one_selection(kind, *prepare(10**6, arguments), arguments)  # loads what is loaded at first use
    tensors, masks = prepare(weights, arguments)

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed so far would hide what is allocated now
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts again at the present level
    before = status("VmRSS")
    one_selection(kind, tensors, masks, arguments)
    extra = status("VmHWM") - before - (weights if kind == "ours" else 0)
    answer.put(100 * extra / sum(tensor.nbytes for tensor in tensors.values()))


def in_a_process(*arguments: Any) -> float:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=peak_memory, args=(*arguments, answer))
    process.start()
    process.join()  # what it answers is a few bytes, which fit the pipe
    if process.exitcode:
        raise SystemExit(f"measuring the memory of {arguments[0]} failed")
    return float(answer.get())


def table(weights: int, arguments: argparse.Namespace) -> None:
    """Measure and print one size."""
    kinds = KINDS if weights <= number(arguments.others_up_to) else KINDS[:1]
    memory = {kind: in_a_process(kind, weights, arguments) for kind in kinds}
    tensors, masks = prepare(weights, arguments)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(arguments.runs):
        thresholds = set()
        for kind in kinds:
            started = time.perf_counter()
            selected = one_selection(kind, tensors, masks, arguments)
            seconds[kind].append(time.perf_counter() - started)
            thresholds.add(threshold_of(selected, tensors))
        if arguments.criterion == "global-magnitude" and len(thresholds - {None}) != 1:
            raise SystemExit(f"not the same threshold: {thresholds}")
    for kind in kinds:
        ratios = [a / b for a, b in zip(seconds["ours"], seconds[kind], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
        print(
            f"{weights / 1e6:>8.0f}M  {kind:<21}{statistics.median(seconds[kind]):>9.2f}{spread:>25}"
            f"{memory[kind]:>16.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="124M,400M,1.5B")
    parser.add_argument("--others-up-to", default="1B")
    parser.add_argument("--criterion", default="global-magnitude", help="of ours; the others know the default alone")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{arguments.criterion}, {arguments.dtype}, {arguments.threads} threads, {arguments.runs} turns\n")
    print(f"{'weights':>9}  {'':<21}{'seconds':>9}{'ours ÷ it':>25}{'extra memory, %':>16}")
    for weights in arguments.weights.split(","):
        table(number(weights), arguments)


if __name__ == "__main__":
    main()
