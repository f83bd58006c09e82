"""The parts of `bench/gpu.py`. Each takes a size and a folder to work in, and yields the rows of its table."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]
"""A line of a part's table. A row replaces an earlier one of the same first entry: numbers become better with time."""


@dataclass(frozen=True)
class Size:
    """How large everything is: for a GPU by default."""

    device: str = "cuda"
    threads: int = 2
    model: str = "gpt2"
    vocabulary: int = 50304
    context: int = 1024
    micro_batch: int = 12
    grad_accum: int = 20
    turns: int = 4
    timed: int = 2  # steps of a turn, after one that is not counted
    resume: tuple[int, int, int, int] = (50, 256, 4, 2)  # steps a round, context, micro-batch, accumulations
    finder: tuple[str, ...] = ("GPT-2 124M", "Llama 7B")
    prompts: tuple[int, int] = (16, 512)
    documents: tuple[int, int] = (32, 512)
    draws: int = 199
    offloaded: str = "Llama 1.1B"
    weights: tuple[int, ...] = (124_000_000, 1_500_000_000)
    seed: tuple[str, ...] = ("--data", "builtin", "--steps", "3", "--device", "cuda")
    study: tuple[str, ...] = ("--model", "gpt2", "--micro-batch", "16", "--grad-accum", "2")
    pilot: int = 20  # steps a round of a short run
    seconds: float = 360  # of the study's three trainings
    backend: str = ""  # of torch.compile; the default one needs minutes of a CPU


SMALL = Size(
    device="cpu",
    threads=1,
    model="gpt2-mini",
    vocabulary=512,
    context=32,
    micro_batch=2,
    grad_accum=2,
    turns=2,
    timed=1,
    resume=(4, 32, 2, 2),
    finder=("tiny GPT-2", "tiny Llama"),
    offloaded="tiny Llama",
    prompts=(2, 32),
    documents=(30, 32),
    draws=3,
    weights=(100_000, 1_000_000),
    seed=(
        "--model",
        "gpt2-mini",
        "--micro-batch",
        "2",
        "--grad-accum",
        "2",
        "--context",
        "32",
        "--vocabulary",
        "512",
        "--follow",
        "2,47,66",
        "--steps",
        "2",
        "--eval-sequences",
        "2",
        "--threads",
        "1",
        "--device",
        "cpu",
    ),
    study=("--model", "gpt2-mini", "--micro-batch", "2", "--context", "32", "--eval-sequences", "2"),
    pilot=4,
    seconds=3,
    backend="aot_eager",
)


def beside(name: str) -> Any:
    """Another script of this folder, as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def done() -> None:
    """Wait until the GPU has done what it was given."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of ``work``, the GPU's included."""
    done()
    started = time.perf_counter()
    work()
    done()
    return time.perf_counter() - started


def of(values: list[float], digits: int = 3) -> str:
    """The median and the range."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low}–{high})"


def tokenizer(folder: Path | None = None) -> Any:
    """One whose tokens are bytes, so that no text has to be read to make it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), end]
    plain = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=end, eos_token=end)
    if folder is not None:
        made.save_pretrained(folder)
    return made


def made_text(folder: Path) -> tuple[str, ...]:
    """Flags of `swlottery train`: half a megabyte of random words, and the tokenizer of bytes."""
    tokenizer(folder / "tokenizer")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(3000)]
    paragraphs = (" ".join(draw.choices(words, k=60)) + "." for _ in range(1400))
    (folder / "text.txt").write_text("\n\n".join(paragraphs))
    return "--data", str(folder / "text.txt"), "--tokenizer", str(folder / "tokenizer")


def tests(size: Size, work: Path) -> Iterator[Row]:
    """Only files that hold such tests are collected: others may need packages that are not here."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-vv", "--tb=short", *files]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.match(r"(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)", line):
                now = time.perf_counter()
                yield {
                    "test": found[1].rpartition("/")[2],
                    "result": found[2].lower(),
                    "seconds": f"{now - started:.1f}",
                }
                started = now
    if process.returncode:
        raise SystemExit(f"pytest ended with {process.returncode}")


def resume(size: Size, work: Path) -> Iterator[Row]:
    """The two runs compile each for itself, in caches of their own, as on two nodes."""
    steps, context, micro, accum = size.resume
    half = steps + steps // 2  # in the middle of round 2, under a mask
    flags = [
        "train",
        "--start",
        "scratch",
        "--model",
        size.model,
        "--vocabulary",
        str(size.vocabulary),
        *made_text(work),
        "--context",
        str(context),
        "--micro-batch",
        str(micro),
        "--grad-accum",
        str(accum),
        "--steps",
        str(steps),
        "--rounds",
        "1",
        "--eval-steps",
        str(steps // 2),
        "--eval-sequences",
        "4",
        "--dtype",
        "bfloat16",
        "--device",
        size.device,
        "--threads",
        str(size.threads),
        "--super-weights",
        "none",
        "--follow",
        "2,47,66",
    ]

    def start(kind: tuple[str, ...], way: str, stop: int = 0) -> Any:
        folder = work / f"{way}{''.join(kind)}"
        given = [*flags, *kind, "--runs", str(folder / "runs"), "--plots", str(folder / "plots")]
        process = multiprocessing.get_context("spawn").Process(
            target=a_lottery, args=(given, stop, folder, size.backend)
        )
        process.start()
        return process

    started = {kind: (start(kind, "alone"), start(kind, "stopped", half)) for kind in ((), ("--compile",))}
    wrong = []
    for kind, (alone, stopped) in started.items():
        name = f"{size.model}, {'compiled' if kind else 'eager'}"
        row: Row = {"run": name, "stopped after step": f"{half - steps} of {steps}, round 2"}
        stopped.join()
        again = start(kind, "stopped")
        again.join()
        alone.join()
        codes = [process.exitcode for process in (alone, stopped, again)]
        yield row | {"exit codes": ", ".join(map(str, codes))}
        if codes == [0, 75, 0]:
            one, other = (digests(work / f"{way}{''.join(kind)}") for way in ("alone", "stopped"))
            same = {what: "same" if other[what] == digest else "DIFFER" for what, digest in one.items()}
            yield row | same | {"last weights": one["final"][:16]}
        if codes != [0, 75, 0] or set(same.values()) != {"same"}:
            wrong.append(name)
    if wrong:
        raise SystemExit(f"a run that was stopped has other bits than one that was not, or failed: {'; '.join(wrong)}")


def a_lottery(flags: list[str], stop: int, folder: Path, backend: str) -> None:
    """In a process of its own: the command, asked to stop at its ``stop``-th step as a scheduler does it."""
    folder.mkdir(parents=True, exist_ok=True)
    compile_in(folder, backend)
    from swlottery.cli import main
    from swlottery.lottery.training import Training

    real, taken = Training.step, itertools.count(1)

    def step(*given: Any, **named: Any) -> Any:
        if next(taken) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, **named)

    Training.step = step  # type: ignore[method-assign]
    sys.exit(main(flags))


def compile_in(folder: Path, backend: str) -> None:
    """torch.compile keeps here what it makes, and takes another backend if there is to be one."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    if backend:
        import torch

        real = torch.compile
        torch.compile = lambda what, **_: real(what, backend=backend)  # type: ignore[assignment]


def digests(folder: Path) -> dict[str, str]:
    """Of what a run computed: its last network, that of round 1, the watch, the masks."""
    (run,) = (folder / "runs").iterdir()
    files = {name: [run / name / "model.safetensors"] for name in ("round_1", "final")}
    files |= {"watch": [run / "watch.csv"], "masks": sorted((run / "masks").iterdir())}
    return {name: hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest() for name, paths in files.items()}


PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12}
"""Multiplications and additions a second in bfloat16 without sparsity, by the maker's data sheets (SXM)."""


def peak(size: Size) -> tuple[float, str]:
    """The device's, and where that number is from."""
    import torch

    name = torch.cuda.get_device_name() if size.device == "cuda" else "this CPU"
    if known := next((value for key, value in PEAKS.items() if key in name), 0.0):
        return known, f"{name}'s {known / 1e12:.0f} TFLOP/s (data sheet)"
    side = 8192 if size.device == "cuda" else 512
    one = torch.randn(side, side, device=size.device, dtype=torch.bfloat16)
    measured = 2 * side**3 / min(timed(lambda: one @ one) for _ in range(8))
    return measured, f"{name}'s {measured / 1e12:.3g} TFLOP/s (the best of 8 products of {side}×{side} in bfloat16)"


def speed(size: Size, work: Path) -> Iterator[Row]:
    """Each contestant is a process of its own, as determinism is a matter of the whole process; they take turns, and
    give the GPU's memory back after each."""
    from swlottery.models.load import SHAPES

    tokenizer(work / "tokenizer")
    whose = (("swlottery", True), ("swlottery", False), ("nanoGPT", False))
    pipes, context = {}, multiprocessing.get_context("spawn")
    for who in [(name, strict, compiled) for compiled in (False, True) for name, strict in whose]:
        pipes[who], theirs = context.Pipe()
        context.Process(target=contestant, args=(theirs, size, *who, work), daemon=True).start()
        theirs.close()
    shape = SHAPES[size.model]
    d, layers = shape["n_embd"], shape["n_layer"]
    # nanoGPT's count (after PaLM, appendix B): every parameter but those of the positions, and attention's products.
    parameters = size.vocabulary * d + layers * (12 * d * d + 13 * d) + 2 * d
    flops = 6 * parameters + 12 * layers * d * size.context
    most, source = peak(size)
    tokens = size.micro_batch * size.grad_accum * size.context
    yield {
        "note": f"{size.model}, {size.micro_batch} × {size.context} tokens × {size.grad_accum} accumulations, "
        f"vocabulary {size.vocabulary}, bfloat16; share of {source} by 6 N + 12 L d T = {flops / 1e6:.1f} MFLOP a "
        "token; median (range) of all steps, and of the ratios within turns"
    }
    took: dict[Any, list[list[float]]] = {who: [] for who in pipes}
    known = {who: _hear(pipe) for who, pipe in pipes.items()}  # each is built, and compiled
    for turn in range(size.turns + 1):
        for who in [who for who in pipes if known[who] is not None]:
            known[who] = _hear(pipes[who], size.timed)
            if known[who] is not None and turn:
                took[who].append(known[who][0])
        for who, turns in took.items():
            name = f"{who[0]}, {'compiled' if who[2] else 'eager'}" + ", any kernels" * (who[:2] == whose[1])
            if known[who] is None:
                yield {"step of": name, "deterministic": "FAILED"}
            elif turn:
                middle = statistics.median(itertools.chain(*turns))
                ratios = [
                    statistics.median(theirs) / statistics.median(own)
                    for own, theirs in zip(turns, took["nanoGPT", False, who[2]], strict=False)
                ]
                yield {
                    "step of": name,
                    "deterministic": known[who][1],
                    "ms": of([1e3 * s for s in itertools.chain(*turns)], 1),
                    "tokens/s": round(tokens / middle),
                    "% of peak": round(100 * tokens / middle * flops / most, 1),
                    "speed over nanoGPT's": of(ratios) if ratios else "",
                }
    if failed := [", ".join(map(str, who)) for who, answer in known.items() if answer is None]:
        raise SystemExit(f"a contestant failed: {'; '.join(failed)}")


def _hear(pipe: Any, count: int | None = None) -> Any:
    """What a contestant answers; None if it is gone."""
    try:
        if count is not None:
            pipe.send(count)
        return pipe.recv()
    except (EOFError, OSError):
        return None


def contestant(pipe: Any, size: Size, whose: str, strict: bool, compiled: bool, work: Path) -> None:
    """Answer each number from the pipe with the seconds of so many steps, after one that is not counted."""
    compile_in(work / f"{whose}-{strict}-{compiled}", size.backend)
    import numpy as np
    import torch

    from swlottery.models.load import SHAPES
    from swlottery.runtime import environment

    seen = ["no"]
    if whose == "nanoGPT":
        nanogpt, shape = beside("nanogpt"), SHAPES[size.model]
        data = np.random.default_rng(0).integers(0, min(8192, size.vocabulary), 1_000_000).astype(np.uint16)
        shape = nanogpt.Shape(
            shape["n_layer"],
            shape["n_embd"],
            shape["n_head"],
            size.vocabulary,
            size.context,
            size.micro_batch,
            size.grad_accum,
        )
        torch.set_num_threads(size.threads)
        step = nanogpt.Nano(shape, size.device, "bfloat16", compiled, data).step
    else:
        if not strict:  # whatever asks for deterministic kernels is not heard
            torch.use_deterministic_algorithms = lambda *_, **__: None  # type: ignore[assignment]
        environment.pin(size.threads)
        if not strict:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]
        ours = beside("train").training(
            argparse.Namespace(
                model=size.model,
                vocabulary=size.vocabulary,
                context=size.context,
                micro_batch=size.micro_batch,
                grad_accum=size.grad_accum,
                dtype="bfloat16",
                device=size.device,
                compile=compiled,
                tokenizer=str(work / "tokenizer"),
            ),
            masked=False,
        )
        number = itertools.count()

        if not strict:
            import torch._inductor.config as inductor

            if hasattr(inductor, "deterministic"):
                inductor.deterministic = False

        def see() -> None:
            seen[:] = ["yes" if torch.are_deterministic_algorithms_enabled() else "no"]

        def step() -> None:
            ours.step(next(number), 1, see)

    count = 0
    while True:  # until its parent is gone
        if compiled or count:  # the others' first step waits for their turn: all at once might not fit
            step()
        seconds = [timed(step) for _ in range(count)]
        if size.device == "cuda":
            torch.cuda.empty_cache()
        pipe.send((seconds, seen[0]))
        count = pipe.recv()


def random_model(name: str, size: Size) -> Any:
    """A model with random weights, made on the device in the precision that it runs in."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    from swlottery.models.loaded import Loaded

    torch.manual_seed(0)
    tiny = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
    config = {
        "GPT-2 124M": lambda: GPT2Config(),
        "Llama 7B": lambda: LlamaConfig(),  # that of the first LLaMA 7B
        "Llama 1.1B": lambda: LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=22),
        "tiny GPT-2": lambda: GPT2Config(**tiny),
        "tiny Llama": lambda: LlamaConfig(**tiny, intermediate_size=128),
    }[name]()
    dtype = "bfloat16" if "Llama" in name else "float32"
    with torch.device(size.device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    return Loaded(model, tokenizer(), name, name, None, "0" * 64, dtype, dtype, size.device, "random weights")


def finder(size: Size, work: Path) -> Iterator[Row]:
    """The passes of `bench/find.py`, then the finder from end to end, its events timed as they come."""
    from swlottery.runtime import environment

    environment.pin(size.threads)
    for name in size.finder:
        yield from passes_and_finder(name, size)


def passes_and_finder(name: str, size: Size) -> Iterator[Row]:
    """Of one model, which is gone from the GPU afterwards."""
    import torch

    from swlottery.config import FindSettings
    from swlottery.data.evaluation import Documents, Text
    from swlottery.find import events, probe, run
    from swlottery.find.effects import Ablation
    from swlottery.models.architectures import Roles
    from swlottery.models.coordinates import Coordinate

    sys.path.append(str(ROOT / "tests"))
    import planted

    one_pass = beside("find").one_pass
    loaded = random_model(name, size)
    vocabulary, roles, title = loaded.model.config.vocab_size, Roles(loaded.model), f"{name}, {loaded.dtype}"
    many = planted.random_probe(size.prompts[0] * size.prompts[1], *size.prompts)
    many = dataclasses.replace(
        many, ids=many.ids.remainder(vocabulary).to(size.device), valid=many.valid.to(size.device)
    )
    took: dict[str, list[float]] = {"bare": [], "watched": []}
    for turn in range(6):
        for kind, kept in took.items():
            seconds = timed(lambda kind=kind: one_pass(kind, loaded.model, roles.downs, many))
            kept += [seconds] if turn else []
    ratios = [watched / bare for bare, watched in zip(*took.values(), strict=True)]
    yield {"what": f"{title}: forward, bare", "seconds": of(took["bare"], 4), "": f"{many.ids.numel():,} tokens"}
    yield {"what": f"{title}: forward, watched", "seconds": of(took["watched"], 4), "": f"{of(ratios)} × bare"}

    short = probe.build(loaded.tokenizer, ["Apple Inc. is a worldwide tech"], loaded.context, "with", size.device)
    plant = planted.plant_input(loaded.model, roles, short, Coordinate(1, 5, 60), 0, size=300.0)
    planted.plant_weight(loaded.model, roles, short, plant, 5.0)
    prompts = probe.build(loaded.tokenizer, probe.DEFAULT_PROMPTS, loaded.context, "both", size.device)
    windows = torch.randint(vocabulary, size.documents, generator=torch.Generator().manual_seed(0))
    settings = FindSettings(null_draws=size.draws, device=size.device)
    done()
    times, rows = [time.perf_counter()], 0

    def observe(event: events.Event) -> None:
        nonlocal rows
        rows += isinstance(event, Ablation)
        if isinstance(event, events.Searched | events.Tested | events.Finished):
            done()
            times.append(time.perf_counter())

    prepared = events.Prepared(prompts, Text("random tokens", "random tokens", "0" * 64), Documents(windows, 1, 1))
    record = run.find(loaded, prepared, settings, observe)
    phases = {
        "search, leader": f"{int(prompts.valid.sum())} tokens",
        "nulls": f"2 × {size.draws} draws",
        "verification": f"{rows} rows over {size.documents[0]} × {size.documents[1]} tokens",
    }
    for (phase, note), begun, ended in zip(phases.items(), times, times[1:], strict=False):
        yield {"what": f"{title}: {phase}", "seconds": f"{ended - begun:.2f}", "": note}
    if torch.device(size.device).type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
        yield {"what": f"{title}: peak of the GPU's memory", "seconds": "", "": f"{peak:.1f} GiB"}
    found = [(one["layer"], one["out"], one["in"]) for one in record["super_weights"]]
    yield {"what": f"{title}: found", "seconds": "", "": f"{found}, planted {tuple(plant.coordinate[:3])}"}


def offload(size: Size, work: Path) -> Iterator[Row]:
    """A model on the device, then in CPU memory, then on disk: the same logits, also with a weight at zero?"""
    import torch

    from swlottery.models import load
    from swlottery.models.architectures import Roles
    from swlottery.models.coordinates import Coordinate, scaled

    if importlib.util.find_spec("accelerate") is None:
        yield {"note": "skipped: without the package accelerate no weights are kept elsewhere"}
        return
    random = random_model(size.offloaded, size)
    random.model.save_pretrained(work / "model")
    random.tokenizer.save_pretrained(work / "model")
    del random
    ids = torch.arange(256, device=size.device)[None]
    wanted: list[Any] = []
    for kind in (None, "cpu", "disk"):
        if torch.device(size.device).type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        model = load.load(str(work / "model"), None, "auto", size.device, kind).model
        with torch.no_grad():
            seconds = [timed(lambda model=model: model(ids, use_cache=False)) for _ in range(4)][1:]
            got = [model(ids, use_cache=False).logits]
            with scaled(Roles(model).downs, [Coordinate(1, 5, 60)]):
                got.append(model(ids, use_cache=False).logits)
        wanted = wanted or got
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.device(size.device).type == "cuda" else 0.0
        yield {
            "what": f"{size.offloaded}, weights {'in place' if kind is None else f'with --device-map {kind}'}",
            "seconds a pass": of(seconds, 4),
            "peak, GiB": f"{peak:.2f}",
            "logits": "the same" if all(map(torch.equal, got, wanted)) else "OTHERS",
        }
        del model, got


def prune(size: Size, work: Path) -> Iterator[Row]:
    """Ours against `torch.kthvalue` on a copy, which makes no mask, in turns; then the rows of one evaluation."""
    from swlottery.runtime import environment

    environment.pin(size.threads)
    for count in size.weights:
        yield from selection_and_watch(count, size)


class OneMatrixALayer:
    """The `Layout` of tensors that are ``[out, in]`` matrices already. names: of one a layer."""

    def __init__(self, names: list[str]) -> None:
        self.names = dict(enumerate(names))

    def matrices(self, tensors: Any) -> Any:
        return {(layer, None): tensors[name] for layer, name in self.names.items()}


def selection_and_watch(count: int, size: Size) -> Iterator[Row]:
    """Of so many weights, in square matrices and a rest."""
    import torch

    from swlottery.lottery.recorder import Snapshot
    from swlottery.models.coordinates import Coordinate
    from swlottery.watch import rows
    from swlottery.watch.tracked import Tracked

    generator = torch.Generator(size.device).manual_seed(0)
    side = min(2048, int(count**0.5) // 4)
    shapes = [(side, side)] * (count // side**2) + [(count % side**2,)]
    drawn = (0.02 * torch.randn(shape, device=size.device, generator=generator) for shape in shapes)
    tensors = {str(number): tensor for number, tensor in enumerate(drawn)}
    masks = {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in tensors.items()}
    bench, arguments = beside("select"), argparse.Namespace(criterion="global-magnitude")
    took: dict[str, list[float]] = {"ours": [], "kthvalue": []}
    thresholds, selected = set(), {}
    for turn in range(4):
        for kind, kept in took.items():
            seconds = timed(
                lambda kind=kind: selected.update({kind: bench.one_selection(kind, tensors, masks, arguments)})
            )
            kept += [seconds] if turn else []
            thresholds.add(bench.threshold_of(selected[kind], tensors))
    if len(thresholds) > 1:
        raise SystemExit(f"not the same threshold: {thresholds}")
    title = f"{count / 1e6:,.1f}M weights, float32"
    for kind, kept in took.items():
        yield {"what": f"{title}: selection, {kind}", "seconds": of(kept, 4)}

    layers = [str(layer) for layer in range(12)]
    layout = OneMatrixALayer(layers)
    downs = {name: tensors[name] for name in layers}
    now = Snapshot(
        round=1,
        step=1,
        steps=1,
        weights=tensors,
        masks=masks,
        proposed=masks,
        alive=masks,
        threshold=(threshold := thresholds.pop()),
        thresholds=dict.fromkeys(tensors, threshold),
        gradients=downs,
        moments=downs,
        since=downs,
        train_loss=None,
        val_loss=0.0,
        norm=None,
        steps_left=0,
        seconds_per_step=None,
    )
    own = Coordinate(0, 1, 2)
    tracked = [Tracked("leader", own), *(Tracked("rank", Coordinate(0, 2, i), own) for i in range(57))]
    initial = layout.matrices(tensors)
    kept = [timed(lambda: rows.rows(tracked, now, layout, initial)) for _ in range(4)][1:]
    yield {"what": f"{title}: watch, one weight and 57 controls", "seconds": of(kept, 4)}


def trained(flags: Sequence[str], work: Path) -> tuple[Row, Path, list[Row]]:
    """The command as a user gives it; its log goes where this part's output goes. (a row, the run, its history)."""
    from swlottery.cli import main

    started = time.perf_counter()
    code = main(["train", *flags, "--runs", str(work / "runs"), "--plots", str(work / "plots")])
    row = {"run": work.name, "exit code": code, "seconds in all": round(time.perf_counter() - started, 1)}
    if code:
        raise SystemExit(f"the run ended with {code}: {row}")
    (run,) = (work / "runs").iterdir()
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    start, end = (next(event for event in history if event["event"] == kind) for kind in ("start", "finished"))
    steps = start["steps"] * (start["prunes"] + 1)
    row |= {
        "of the run": round(end["wall_seconds"], 1),
        "in steps": round(end["step_seconds"], 1),
        "steps": steps,
        "tokens a step": start["tokens_per_step"],
        "tokens/s in steps, the first included": round(steps * start["tokens_per_step"] / end["step_seconds"]),
    }
    return row, run, history


def seed(size: Size, work: Path) -> Iterator[Row]:
    """The first of the first runs, a few steps a round."""
    text = () if "builtin" in size.seed else made_text(work)
    config = ["--config", str(ROOT / "configs" / "seed" / "876812.yaml")]
    yield trained([*config, *size.seed, *text], work)[0] | {"run": "876812"}


def study(size: Size, work: Path) -> Iterator[Row]:
    """A GPT-2 from scratch with as many steps as fit: when do its super weights form, and do they outlive two prunes?

    Short runs give the pace. The tables of the report, which `swlottery report` takes up beside those of other runs,
    and what is small of the run are kept.
    """
    from swlottery.cli import main

    common = ["--start", "scratch", "--first-token", "--device", size.device, "--threads", str(size.threads)]
    common += ["--lr-schedule", "cosine", "--weight-decay", "0.5", *size.study]
    flags = [*common, "--steps", str(size.pilot), "--rounds", "1", "--super-weights", "none"]
    row, _, history = trained(flags, work / "pilot")
    yield row
    # The first steps are the slowest: the pace is that of the second training.
    paces = [event["tokens_per_second"] for event in history if event["event"] == "evaluation" and event["round"] == 2]
    pace = paces[-1] / row["tokens a step"]
    steps = max(4, int(size.seconds * pace / 3))
    flags = [*common, "--steps", str(steps), "--rounds", "2", "--warmup", str(min(500, steps // 10)), "--trace", "log"]
    row, run, history = trained([*flags, "--eval-steps", str(max(1, steps // 8))], work / "study")
    found = [event for event in history if event["event"] == "found"]
    yield row | {"found": ", ".join(f"round {event['round']}: {event['kind']}" for event in found)}
    traced = next(event for event in history if event["event"] == "trace")
    yield {"run": "trace", "steps": len({one["checkpoint"] for one in traced["rows"]}), "found": len(traced["rows"])}
    kept = work / "kept"
    shutil.copytree(run, kept / "run", ignore=shutil.ignore_patterns("*.safetensors", "final", "checkpoints", "lock"))
    if code := main(["report", str(work / "study" / "runs"), "--out", str(kept / "study.html")]):
        raise SystemExit(f"the report ended with {code}")


def text(size: Size, work: Path) -> Iterator[Row]:
    """No part of its own: the built-in text's tokens, made while the first part runs: ``seed`` need not wait."""
    from swlottery.data.tokenizer import builtin_tokenizer
    from swlottery.data.tokens import prepare

    prepare("builtin", builtin_tokenizer())
    yield from ()


PARTS: dict[str, tuple[Callable[[Size, Path], Iterator[Row]], float]] = {
    "tests": (tests, 90),
    "resume": (resume, 160),
    "speed": (speed, 130),
    "finder": (finder, 75),
    "prune": (prune, 25),
    "offload": (offload, 60),
    "seed": (seed, 75),
    "study": (study, 530),
}
"""What a part is, and its limit in seconds. The last ones may need what others leave: the limits add up to too much."""
