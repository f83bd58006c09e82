"""A model whose weights are not all in memory: the same network, the same record, and nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from odd import find, model, refused
from swlottery.models import load as models
from swlottery.models import offload
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate, scaled
from swlottery.runtime import hardware

pytestmark = pytest.mark.usefixtures("no_figures")

IDS = torch.arange(20)[None]
KINDS = ["llama", "llama-tied", "llama-tied-twice", "llama-tied-other", "mixtral", "gemma3_text", "gpt2", "falcon"]


@pytest.fixture
def room(here, monkeypatch) -> Path:
    """A folder for temporary files, to see what is left in it."""
    folder = here / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def written(kind: str) -> Path:
    """A tiny model's folder; its norms are no ones, its biases no zeros."""
    name, _, tied = kind.partition("-")
    folder = model(Path(kind), name, **({"tie_word_embeddings": True} if tied else {}))
    tensors = load_file(folder / "model.safetensors")
    torch.manual_seed(1)
    changed = {key: one + 0.1 * torch.randn(one.shape) if one.ndim == 1 else one for key, one in tensors.items()}
    if tied.endswith(("twice", "other")):  # the head is stored too: the same again, or another
        changed["lm_head.weight"] = changed["model.embed_tokens.weight"] * (1.0 if tied.endswith("twice") else 1.5)
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def logits(loaded: models.Loaded) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = loaded.model(IDS).logits
    return found


@pytest.mark.parametrize("limit", [None, "395KB"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_network_whatever_is_taken_out(room, kind, limit):
    folder = str(written(kind))
    here, there = models.load(folder, device="cpu"), models.load(folder, None, "auto", "cpu", "disk", limit)
    assert there.weights_sha256 == here.weights_sha256
    assert there.stored_dtype == here.stored_dtype
    bytes_of = offload.where(there.model)
    assert bytes_of["disk"] > 0
    assert sum(bytes_of.values()) == sum(parameter.nbytes for parameter in here.model.parameters())
    intact = logits(here)
    assert torch.equal(logits(there), intact)
    pair = Roles(here.model).downs, Roles(there.model).downs
    last = 1 if kind == "mixtral" else None
    first, second = Coordinate(1, 3, 5, last), Coordinate(1, 3, 6, last)
    row = [Coordinate(2, 1, in_, last) for in_ in range(9)]
    with scaled(pair[0], [first, *row]), scaled(pair[1], [first, *row]):
        once = logits(here)
        assert not torch.equal(once, intact)
        assert torch.equal(logits(there), once)
        with scaled(pair[0], [second, first], 0.75), scaled(pair[1], [second, first], 0.75):
            assert torch.equal(logits(there), logits(here))
            for down, other in zip(*pair, strict=True):
                assert all(torch.equal(matrix, other.matrix(expert)) for expert, matrix in down.matrices())
        assert torch.equal(logits(there), once)
    assert torch.equal(logits(there), intact)
    assert dict(offload.where(there.model)) == bytes_of, "a pass changes nothing, tied weights count once"


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_weights_in_several_precisions(room, dtype):
    """Norms in float32 among matrices in bfloat16, and some experts of another precision than the others."""
    folder = written("mixtral")
    tensors = load_file(folder / "model.safetensors")
    keep = {name for name, one in tensors.items() if one.ndim == 1 or ".experts.2." in name or name.startswith("lm_")}
    stored = {name: one if name in keep else one.bfloat16() for name, one in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    here = models.load(str(folder), dtype=dtype, device="cpu")
    there = models.load(str(folder), None, dtype, "cpu", "disk")
    assert (there.weights_sha256, there.dtype) == (here.weights_sha256, here.dtype)
    one = [Coordinate(0, 1, 2, 1)]
    with scaled(Roles(here.model).downs, one, 0.3), scaled(Roles(there.model).downs, one, 0.3):
        assert torch.equal(logits(there), logits(here))
    assert torch.equal(logits(there), logits(here))


@pytest.mark.parametrize("kind", ["llama-tied", "mixtral"])
def test_the_record_of_a_find_is_the_same(room, kind):
    from planted import plant_input, plant_weight, random_probe

    folder = written(kind)
    loaded = models.load(str(folder), device="cpu")
    roles, probe = Roles(loaded.model), random_probe(211)
    plant = plant_input(loaded.model, roles, probe, Coordinate(1, 3, 5), 4)
    plant_weight(loaded.model, roles, probe, plant, 3.0)
    loaded.model.save_pretrained(folder)
    place = plant.coordinate
    numbers = [one for one in (place.layer, place.out, place.in_, place.expert) if one is not None]
    flags = ["--max-weights", "4", "--ablate", ",".join(map(str, numbers))]
    for out, where in (("in.json", []), ("on.json", ["--device-map", "disk", "--max-memory", "395KB"])):
        said = find(folder, "--out", out, "--plots", "plots", *flags, *where)
        assert said.code == 0, said.err
        assert said.err == ""
    assert "in CPU memory" in said.out or kind == "mixtral"
    assert "GB in a folder under" in said.out
    one, other = (json.loads(Path(name).read_text()) for name in ("in.json", "on.json"))
    assert one["leader"]["rank"] >= 1
    assert other == one
    gc.collect()
    assert list(room.iterdir()) == []


def test_a_folder_is_removed_after_an_error(room):
    folder = written("llama")
    text = folder / "model.safetensors"
    tensors = load_file(text)
    tensors["lm_head.weight"][0, 0] = float("nan")
    save_file(tensors, text, metadata={"format": "pt"})
    refused(find(folder, "--device-map", "disk"), "not finite", "lm_head.weight")
    gc.collect()
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_folder_is_removed_after_a_signal(here, number):
    folder = written("llama")
    (here / "tmp").mkdir()
    Path("t.txt").write_text("The quick brown fox jumps over the lazy dog, again and again.\n\n" * 100)
    flags = ["--device", "cpu", "--device-map", "disk", "--null-draws", "100000", "--eval-text", "t.txt"]
    command = [sys.executable, "-m", "swlottery.cli", "find", "--model", str(folder), *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(here / "tmp")}
    )
    try:
        assert process.stdout is not None
        while b"The search" not in process.stdout.readline():
            assert process.poll() is None
        assert [one.name for one in (here / "tmp").iterdir()] != []
        process.send_signal(number)
        process.wait(60)
    finally:
        process.kill()
    deadline = time.monotonic() + 10
    while (left := list((here / "tmp").iterdir())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-memory", "1GB"], ["--max-memory", "without --device-map"]),
        (["--device-map", "disk", "--start", "scratch"], ["--device-map", "--start scratch"]),
        (["--device-map", "gpu"], []),
        *[
            (["--device-map", "disk", "--max-memory", size], [f"--max-memory {size}", "600MB"])
            for size in ("much", "0GB", "nanGB", "infGB", "1e400GB", "600", "6 00 MB")
        ],
        (
            ["--device-map", "disk", "--max-memory", "50KB"],
            ["--max-memory 50KB", "model.embed_tokens", "0.077 MB", "allow more"],
        ),
    ],
)
def test_what_cannot_act_is_refused(room, flags, words):
    said = find(written("llama"), *flags)
    if not words:  # argparse's own words
        assert said.code == 2
        return
    refused(said, *words)
    assert list(room.iterdir()) == []


def test_a_disk_without_room(room, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1000))
    refused(find(written("llama"), "--device-map", "disk"), "has room for 0.001 MB", "TMPDIR")
    assert list(room.iterdir()) == []


def test_where_everything_fits_nothing_is_moved(room):
    for kind in ("auto", "cpu"):
        loaded = models.load(str(written("llama")), None, "auto", "cpu", kind)
        assert offload.weights_of(loaded.model) is None
        assert list(room.iterdir()) == []


def test_a_model_that_accelerate_has_dispatched_can_be_wrapped(room):
    """As with `from_pretrained(device_map=…)`."""
    from transformers import AutoModelForCausalLM

    from swlottery.models.loaded import wrap

    folder = written("llama")
    here = models.load(str(folder), device="cpu")
    there = AutoModelForCausalLM.from_pretrained(folder, device_map={"": "disk"}, offload_folder=str(room / "x"))
    wrapped = wrap(there, here.tokenizer)
    assert wrapped.weights_sha256 == here.weights_sha256
    assert torch.equal(logits(wrapped), logits(here))


def test_memory_that_is_available():
    import psutil

    assert 0 < hardware.available_memory() <= psutil.virtual_memory().total
