"""The sound files that are mutated: tiny models, and what the commands made of them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import odd

SMALL = {"n_embd": 16, "n_inner": 32, "n_layer": 2, "n_head": 2}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
FIND = shlex.split(
    "find --eval-text t.txt --eval-tokens 512 --eval-context 16 --controls 1 --null-draws 1 --device cpu --plots plots"
)
TRAIN = shlex.split(
    "train --model m --data t.txt --context 16 --micro-batch 2 --steps 2 --rounds 1 --eval-steps 2 --eval-sequences 2 "
    "--threads 1 --device cpu --checkpoint-steps 1"
)
CONFIG = """\
# a training
model: m
data: t.txt
context: 16
micro_batch: 2
grad_accum: 1
steps: 2
rounds: 2
prune_rate: 0.2
lr: 1e-3
warmup: 1
eval_steps: 2
eval_sequences: 2
scope: attn+c_proj
criterion: global-magnitude
one_shot: false
follow: ["0,1,2"]
super_weights: discover
rewind_step: 1
dtype: float32
device: cpu
threads: 1
"""
STUDY = """\
name: rates
config: c.yaml
settings:
  warmup: 2
  one_shot: false
grid:
  seed+data_seed: [0, 1]
  criterion: [global-magnitude, random]
arms:
  p20: {prune_rate: 0.2}
  p10: {prune_rate: 0.1, rounds: 3, from_round_1: p20}
"""
PROMPTS = "Apple Inc. is a worldwide tech company.\nSummer is hot. Winter is cold.\r\n\nÀ la recherche du temps perdu\n"


def make(folder: Path) -> None:
    """All folders of sound files. Every command has to be right on them."""
    for make_one in (_models, _weights, _gguf, _prompts, _settings, _record, _runs, _tables):
        place = folder / make_one.__name__.removeprefix("_")
        place.mkdir(parents=True)
        with _inside(place):
            Path("t.txt").write_text(odd.TEXT)
            make_one()
            shutil.rmtree("plots", ignore_errors=True)


@contextlib.contextmanager
def _inside(place: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(place)
    os.environ["SWLOTTERY_CACHE"] = str(place / "cache")
    try:
        yield
    finally:
        os.chdir(before)


def _right(*arguments: str, code: int = 0) -> None:
    said = odd.run(*arguments)
    assert said.code == code, said


def _model(name: str, kind: str = "gpt2", **changes: Any) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        sizes = (SMALL if kind == "gpt2" else LLAMA) | changes
        odd.model(Path(name), kind, bos_token_id=256, eos_token_id=257, **sizes)


def _models() -> None:
    for kind in ("gpt2", "llama"):
        _model(kind, kind)
        _right(*FIND, "--model", kind, "--out", f"{kind}.json")


def _weights() -> None:
    from transformers import AutoModelForCausalLM

    _model("m")
    shutil.copytree("m", "s")
    Path("s/model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained("m").save_pretrained("s", max_shard_size="12KB")
    _right(*FIND, "--model", "m", "--out", "m.json")
    _right("find", "--model", "s", "--check", "m.json")


def _gguf() -> None:
    import gguf
    import numpy as np
    from tokenizers import pre_tokenizers

    writer = gguf.GGUFWriter("g.gguf", "llama")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "<s>", "</s>"]
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), 32),
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32),
        "blk.0.ffn_up": (64, 32),
        "blk.0.ffn_down": (32, 64),
    }
    for name, shape in shapes.items():
        values = (draw.normal(size=shape) * 0.1).astype(np.float32)
        if "ffn" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _right(*FIND, "--model", "g.gguf", "--out", "g.json")
    shutil.rmtree("cache")


def _prompts() -> None:
    _model("m")
    Path("p.txt").write_text(PROMPTS, encoding="utf-8", newline="")
    Path("q.txt").write_text("\n".join(line for line in PROMPTS.splitlines() if line), encoding="utf-8")
    _right(*FIND, "--model", "m", "--prompt-file", "q.txt", "--out", "q.json")


def _settings() -> None:
    _model("m")
    Path("c.yaml").write_text(CONFIG)
    Path("s.yaml").write_text(STUDY)
    _right("prepare", "--config", "c.yaml")
    _right("sweep", "s.yaml", "--dry-run")


def _record() -> None:
    """A record with a super weight in it, which was planted."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import planted
    from swlottery.find import probe
    from swlottery.models.architectures import Roles
    from swlottery.models.coordinates import Coordinate

    _model("m", n_embd=32, n_inner=128)
    tokenizer = AutoTokenizer.from_pretrained("m")
    model = AutoModelForCausalLM.from_pretrained("m").requires_grad_(False)
    short = probe.build(tokenizer, ["Apple Inc. is a worldwide tech"], 512, "with")
    torch.manual_seed(0)
    plant = planted.plant_input(model, Roles(model), short, Coordinate(1, 5, 60), 0, size=300.0)
    planted.plant_weight(model, Roles(model), short, plant, 5.0)
    model.save_pretrained("m")
    _right(*FIND, "--model", "m", "--out", "r.json")
    assert json.loads(Path("r.json").read_text())["super_weights"]
    shutil.copy("r.json", "base.json")


def _runs() -> None:
    """A run that was stopped in its last round, with two checkpoints, and the same one finished."""
    from swlottery.cli import _train_settings, parser
    from swlottery.commands.train import train

    _model("m")
    _right(*TRAIN, "--runs", "done", "--plots", "plots")
    settings = _train_settings(parser().parse_args([*TRAIN, "--runs", "runs", "--plots", "plots"]))
    with contextlib.redirect_stdout(io.StringIO()):
        code = train(settings, Path(), asked=lambda: any(Path("runs").glob("*/checkpoints/*_2_*.json")), cores=1)
    assert code == 75
    Path("bits").write_text(bits(Path("done")))


def bits(runs: Path) -> str:
    """What a finished run came to: its weights, its masks, its tables but for the clock's column."""
    digest = hashlib.sha256()
    (run,) = (path.parent for path in runs.glob("*/settings.json"))
    for path in sorted([*run.glob("masks/*"), *run.glob("final/*.safetensors")]):
        digest.update(path.read_bytes())
    lines = (run / "rounds.csv").read_text(errors="replace").splitlines()
    rows = [row | {"seconds": ""} for row in csv.DictReader(lines)]
    digest.update(repr(rows).encode() + (run / "watch.csv").read_bytes())
    return digest.hexdigest()


def _tables() -> None:
    _model("m")
    for seed in "01":
        _right(*TRAIN, "--runs", "runs", "--plots", "plots", "--seed", seed, "--data-seed", seed)
    _right("report", "runs", "--out", "page.html")
    Path("page_tables").rename("tables")
    for path in Path("tables").glob("*.csv"):
        if path.stem not in _facts():
            path.unlink()
    for name in ("runs", "m", "cache"):
        shutil.rmtree(name)
    Path("page.html").unlink()


def _facts() -> set[str]:
    from swlottery.report.page.rows import COLUMNS

    return set(COLUMNS)
