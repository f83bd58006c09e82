"""The loss by both protocols, from end to end: in the log and in the record."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from odd import find, model, refused, run
from swlottery.find import record as records
from swlottery.models import load as models

pytestmark = pytest.mark.usefixtures("no_figures")

LINE = " The quick brown fox jumps over the lazy dog , and <unk> again and again . \n \n"
FEW = ["--controls", "1", "--null-draws", "1", "--device", "cpu", "--out", "r.json"]


def protocol(name: Path, *flags: str):
    return run("find", "--model", str(name), "--protocol", "wikitext2", "--eval-text", "wiki.txt", *FEW, *flags)


def test_wikitext2_is_what_a_few_lines_of_transformers_give(here: Path) -> None:
    folder = model(here / "m", "llama", max_position_embeddings=256)
    Path("wiki.txt").write_text(LINE * 900)
    said = protocol(folder)
    assert said.code == 0, said
    record = records.load(here / "r.json")
    loaded = models.load(str(folder), device="cpu")
    text = "\n\n".join(row if row.strip() else "" for row in Path("wiki.txt").read_text().splitlines(keepends=True))
    ids = torch.tensor(loaded.tokenizer(text)["input_ids"])
    windows = ids[:65536].view(-1, 1, 256)
    with torch.no_grad():
        losses = [loaded.model(input_ids=window, labels=window).loss.item() for window in windows]
    nll = sum(losses) / len(losses)
    assert record["baseline_perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    scored = [text[first + 1 : first + 256] for first in range(0, 65536, 256)]  # a token is a byte
    assert record["bits_per_byte"] == pytest.approx(nll / math.log(2), rel=1e-5)
    words = sum(len(one.split()) for one in scored)
    assert math.log(record["word_perplexity"]) == pytest.approx(nll * 255 * 256 / words, rel=1e-5)
    assert (record["protocol"], record["context"], record["documents"]) == ("wikitext2", 256, 256)
    assert record["eval_tokens"] == 65536
    assert "context 256 tokens (not comparable: the protocol's is 2,048)" in " ".join(said.out.split())
    assert "read as the raw test split of WikiText-2" in said.out


def test_what_the_protocol_refuses(here: Path, tiny_gpt2: Path) -> None:
    Path("wiki.txt").write_text(LINE * 20)
    refused(protocol(tiny_gpt2), "wiki.txt has", "takes 65536")
    refused(protocol(tiny_gpt2, "--eval-tokens", "640"), "--eval-tokens 640 changes nothing with --protocol wikitext2")
    assert sorted(path.name for path in here.iterdir()) == ["wiki.txt"]


def test_quick_takes_as_much_text_as_the_device_can(here: Path, planted_gpt2: tuple[Path, object]) -> None:
    Path("long.txt").write_text(LINE * 900)
    said = run("find", "--model", str(planted_gpt2[0]), "--eval-text", "long.txt", *FEW)
    assert said.code == 0, said
    record = records.load(here / "r.json")
    assert record["eval_tokens"] == 1024 and record["protocol"] == "quick" and record["context"] == 32
    (weight,) = record["super_weights"]
    assert [dose["factor"] for dose in weight["dose"]] == [0.75, 0.5, 0.25, 0] and weight["row"]
    for words in ("What it writes", "perplexity with the weight", "a word", "bits a byte", "protocol quick", "repeats"):
        assert words in said.out, words


def test_a_loss_beyond_what_a_float_holds_as_perplexity(here: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model(here / "m") / "model.safetensors")
    weights["transformer.ln_f.weight"] *= 1e5
    save_file(weights, here / "m" / "model.safetensors", metadata={"format": "pt"})
    assert find(here / "m", "--out", "r.json").code == 0
    record = records.load(here / "r.json")
    assert record["baseline_nll"] > 710 and record["baseline_perplexity"] > 1e300


def test_a_text_without_a_space_is_one_long_word(here: Path, tiny_gpt2: Path) -> None:
    Path("t.txt").write_text("x" * 5000)
    assert find(tiny_gpt2, "--out", "r.json").code == 0
    assert records.load(here / "r.json")["word_perplexity"] > 1e10
