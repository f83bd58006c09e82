"""How fast is a training step, and what does everything beside the steps cost?

    python bench/train.py mask     [--model gpt2] [--context 512] [--micro-batch 1]    a masked step against a dense one
    python bench/train.py ways     [--model gpt2-mini] …     this mask against torch.nn.utils.prune and a multiply
    python bench/train.py trainer  [--dtype bfloat16] [--compile] …    tokens a second against transformers' Trainer
    python bench/train.py share    RUN                       what part of a finished run was not spent in training steps
    python bench/train.py parts    [--model gpt2] …          that part of rounds of 3,000 steps, from the time of each
    python bench/train.py memory   [--model gpt2] …          the largest resident memory of a run with three evaluations

Each comparison takes turns in one process, so that a drift of the machine's speed falls on all alike: the first turn
warms up, ratios are taken within a turn, and their median is quoted with its range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any


def training(arguments: argparse.Namespace, masked: bool) -> Any:
    """Our training of a model from scratch, half of its weights in scope masked or none."""
    import numpy as np
    import torch

    from swlottery.config import TrainSettings
    from swlottery.lottery import masks, start
    from swlottery.lottery.scope import in_scope
    from swlottery.lottery.training import Training

    settings = TrainSettings(
        model=arguments.model,
        start="scratch",
        vocabulary=arguments.vocabulary,
        context=arguments.context,
        micro_batch=arguments.micro_batch,
        grad_accum=getattr(arguments, "grad_accum", 1),
        dtype=arguments.dtype,
        device=arguments.device,
        compile=arguments.compile,
        tokenizer=getattr(arguments, "tokenizer", "auto"),
    )
    network = start.network(settings)
    scope = in_scope(network.model, network.roles, settings.scope)
    generator = torch.Generator().manual_seed(0)
    chosen = {name: torch.rand(p.shape, generator=generator) > 0.5 * masked for name, p in scope.items()}
    chosen = {name: mask.to(network.model.device) for name, mask in chosen.items()}
    masks.apply(chosen, network.parameters)
    data = np.random.default_rng(0).integers(0, min(8192, arguments.vocabulary or 8192), 1_000_000).astype(np.uint16)
    return Training(network, chosen, settings, data)


def steps_of(one: Any, count: int) -> Callable[[], float]:
    """A function that takes ``count`` steps and returns their median seconds."""

    def go() -> float:
        import torch

        seconds = []
        for step in range(count):
            started = time.perf_counter()
            one.step(step, 1)
            if one.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    return go


def pruned_by_torch(arguments: argparse.Namespace) -> Any:
    """torch.nn.utils.prune: the weight is computed from weight_orig and weight_mask in every forward pass."""
    from torch.nn.utils import prune

    one = training(arguments, masked=True)
    for name, mask in one.masks.items():
        module_name, _, kind = name.rpartition(".")
        prune.custom_from_mask(one.network.model.get_submodule(module_name), kind, mask)
    return _anew(one)


def multiplied(arguments: argparse.Namespace) -> Any:
    """A parametrization that multiplies by the mask, which is the same idea without the bookkeeping."""
    import torch
    from torch.nn.utils import parametrize

    class Multiply(torch.nn.Module):
        def __init__(self, mask: Any) -> None:
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, weight: Any) -> Any:
            return weight * self.mask

    one = training(arguments, masked=True)
    for name, mask in one.masks.items():
        module_name, _, kind = name.rpartition(".")
        parametrize.register_parametrization(one.network.model.get_submodule(module_name), kind, Multiply(mask))
    return _anew(one)


def _anew(one: Any) -> Any:
    """The training with the parameters that the model has now, and no mask of ours."""
    from swlottery.lottery.training import Training

    for parameter in one.network.model.parameters():
        parameter.requires_grad_(True)
    return Training(one.network, {}, one.settings, one.data)


class TheirTrainer:
    """The Trainer of transformers on the same model, batches, precision, optimiser and clipping."""

    def __init__(self, arguments: argparse.Namespace, steps: int) -> None:
        import torch

        from swlottery.data.batches import batch

        ours = training(arguments, masked=False)
        size = arguments.micro_batch
        rows = [row[:-1] for step in range(steps) for row in batch(ours.data, arguments.context, size, 0, step)]

        class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return len(rows)

            def __getitem__(self, number: int) -> Any:
                return {"input_ids": rows[number], "labels": rows[number]}

        self.rows, self.arguments, self.steps = Rows(), arguments, steps
        model = ours.network.model  # the same weights in the model as transformers builds it, without dropout
        plain = {"activation_function": "gelu_new", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        self.model = type(model)(type(model.config).from_dict({**model.config.to_dict(), **plain, "use_cache": False}))
        self.model.load_state_dict(model.state_dict())

    def __call__(self) -> float:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        stamps = []

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                stamps.append(time.perf_counter())

        arguments = TrainingArguments(
            output_dir="/tmp/bench-train",
            max_steps=self.steps,
            per_device_train_batch_size=self.arguments.micro_batch,
            learning_rate=6e-4,
            lr_scheduler_type="constant",
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            bf16=self.arguments.dtype == "bfloat16",
            torch_compile=self.arguments.compile,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            use_cpu=self.arguments.device == "cpu",
            disable_tqdm=True,
        )
        Trainer(self.model, arguments, train_dataset=self.rows, callbacks=[Clock()]).train()
        return statistics.median(after - before for before, after in pairwise(stamps))


def compare(named: dict[str, Callable[[], float]], base: str, arguments: argparse.Namespace) -> None:
    """Print seconds a step, tokens a second, and the ratio of speeds to ``base``."""
    seconds: dict[str, list[float]] = {name: [] for name in named}
    for turn in range(arguments.turns + 1):
        for name, go in named.items():
            took = go()
            if turn:
                seconds[name].append(took)
    tokens = arguments.micro_batch * arguments.context
    print(
        f"{arguments.model}, {arguments.micro_batch} × {arguments.context} tokens, vocabulary {arguments.vocabulary}, "
        f"{arguments.dtype}{', compiled' if arguments.compile else ''}, {arguments.device}, "
        f"{arguments.threads} threads, {arguments.turns} turns of {arguments.steps} steps\n"
    )
    print(f"{'':<28}{'ms a step':>10}{'tokens/s':>10}  time over {base}")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[base], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
        middle = statistics.median(values)
        print(f"{name:<28}{1e3 * middle:>10.1f}{tokens / middle:>10.0f}  {spread}")


def share(run: Path) -> None:
    """From a run's own clock: all its seconds, those in steps, and the rest."""
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (end,) = (event for event in history if event["event"] == "finished")
    whole, steps = end["wall_seconds"], end["step_seconds"]
    print(
        f"{run.name}: {whole:.1f} s in all, {steps:.1f} s in training steps, "
        f"{100 * (whole - steps) / whole:.1f} % beside them"
    )


STEPS = 3000


def a_lottery(arguments: argparse.Namespace, folder: Path) -> Any:
    """A real run of two short trainings and one prune, before its first step."""
    from swlottery.commands.keeper import FolderKeeper
    from swlottery.config import TrainSettings
    from swlottery.data.tokens import prepare
    from swlottery.lottery import start
    from swlottery.lottery.loop import Lottery
    from swlottery.report.logs.progress import Output
    from swlottery.runtime import environment, files
    from swlottery.watch.recorder import WatchRecorder

    settings = TrainSettings(
        model=arguments.model,
        start="scratch",
        vocabulary=arguments.vocabulary,
        context=arguments.context,
        micro_batch=arguments.micro_batch,
        dtype=arguments.dtype,
        device=arguments.device,
        compile=arguments.compile,
        steps=arguments.steps,
        eval_steps=arguments.steps,
        rounds=1,
        threads=arguments.threads,
    )
    network = start.network(settings)
    data = prepare(settings.data, network.tokenizer)
    files.write_json(folder / "settings.json", vars(settings))
    here = environment.describe(arguments.threads)
    keeper = FolderKeeper(folder, settings, network)
    output = Output(folder, settings, settings.dtype, keeper.place, keeper.tables, log=None)
    recorder = WatchRecorder(network, data, settings, here, [], output, lambda names: keeper.theta(0, names))
    return Lottery(network, data, settings, keeper, recorder)


def parts(arguments: argparse.Namespace) -> None:
    """Time everything that is beside the steps once."""
    import tempfile

    from swlottery.config import TrainSettings
    from swlottery.report.figures.train import draw_round, draw_run

    seconds: dict[str, list[float]] = {"evaluate": [], "save": [], "prune": []}

    def timed(owner: Any, name: str, title: str) -> None:
        function = getattr(owner, name)

        def inner(*given: Any) -> Any:
            started = time.perf_counter()
            result = function(*given)
            seconds[title].append(time.perf_counter() - started)
            return result

        setattr(owner, name, inner)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = a_lottery(arguments, folder)
        timed(run.keeper, "save", "save")
        timed(run.judge, "snapshot", "evaluate")
        timed(run, "prune", "prune")
        run.run()
        step = run.clock.busy / (2 * arguments.steps)
        started = time.perf_counter()
        draw_round(folder, folder / "plots", 1)
        draw_run(folder, folder / "plots")
        figures = time.perf_counter() - started
    every, most = TrainSettings().checkpoint_steps, TrainSettings().checkpoint_seconds
    checkpoints = max(STEPS / every, STEPS * step / most)
    evaluations = 1 + STEPS / 250
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    beside = {
        f"{evaluations:.0f} evaluations": evaluations * middle["evaluate"],
        f"{checkpoints:.0f} checkpoints": checkpoints * middle["save"],
        "prune, with the finder": middle["prune"],
        "figures": figures,
    }
    whole = STEPS * step + sum(beside.values())
    print(
        f"{arguments.model}, {arguments.micro_batch} × {arguments.context} tokens, {arguments.dtype}, "
        f"{arguments.threads} threads: a step {step:.3f} s, an evaluation {middle['evaluate']:.1f} s, "
        f"a checkpoint {middle['save']:.1f} s\n"
    )
    for name, took in {f"{STEPS:,} steps": STEPS * step, **beside}.items():
        print(f"{name:<28}{took:>10.1f} s{100 * took / whole:>8.2f} %")
    print(f"{'beside the steps':<28}{sum(beside.values()):>10.1f} s{100 * sum(beside.values()) / whole:>8.2f} %")


def memory(arguments: argparse.Namespace) -> None:
    """Run it once, and print the largest resident memory of this process."""
    import resource
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        a_lottery(arguments, Path(temporary)).run()
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mask", "ways", "trainer", "share", "parts", "memory"))
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--model", default="gpt2-mini")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "share":
        share(arguments.run)
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `swlottery` does; whoever is compared has it as well
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.what in ("parts", "memory"):
        (parts if arguments.what == "parts" else memory)(arguments)
        return
    count = arguments.steps
    dense = steps_of(training(arguments, masked=False), count)
    if arguments.what == "mask":
        again = steps_of(training(arguments, masked=False), count)
        masked = steps_of(training(arguments, masked=True), count)
        compare({"dense": dense, "dense again": again, "masked": masked}, "dense", arguments)
    elif arguments.what == "ways":
        ways = {
            "dense": dense,
            "this mask": steps_of(training(arguments, masked=True), count),
            "torch.nn.utils.prune": steps_of(pruned_by_torch(arguments), count),
            "multiply in forward": steps_of(multiplied(arguments), count),
        }
        compare(ways, "dense", arguments)
    else:
        compare({"Trainer": TheirTrainer(arguments, count), "swlottery": dense}, "Trainer", arguments)


if __name__ == "__main__":
    main()
