"""GGUF files: read once, converted whole or refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

from odd import find, model, refused, run, train

gguf_package = pytest.importorskip("gguf")

from swlottery.models import gguf  # noqa: E402
from swlottery.models import load as models  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def written(here) -> Path:
    """A tiny Llama as a GGUF file in float32, with its tokenizer."""
    folder = model(here / "llama", "llama", bos_token_id=1, eos_token_id=2)
    return write(folder, here / "tiny.gguf")


def write(folder: Path, path: Path) -> Path:
    """A Llama's folder as a GGUF file. The rows of its q and k are in another order there, which no test here needs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = AutoModelForCausalLM.from_pretrained(folder)
    config, tokenizer = network.config, AutoTokenizer.from_pretrained(folder)
    names = gguf_package.get_tensor_name_map(gguf_package.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    file = gguf_package.GGUFWriter(path, "llama")
    file.add_name("tiny")
    file.add_block_count(config.num_hidden_layers)
    file.add_context_length(config.max_position_embeddings)
    file.add_embedding_length(config.hidden_size)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    file.add_rope_dimension_count(config.head_dim)
    file.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    file.add_tokenizer_model("gpt2")
    file.add_token_list([*tokens, "ab", "ba"])
    file.add_token_merges(["a b", "b a"])  # transformers 5.17 reads a list of one as no list
    file.add_bos_token_id(tokenizer.bos_token_id)
    file.add_eos_token_id(tokenizer.eos_token_id)
    for name, tensor in network.state_dict().items():
        file.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.numpy())
    frequencies = network.model.rotary_emb.inv_freq
    theta, places = config.rope_parameters["rope_theta"], torch.arange(len(frequencies)) / len(frequencies)
    file.add_rope_freq_base(theta)
    file.add_tensor("rope_freqs.weight", (theta**-places / frequencies).numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def replace(path: Path, before: bytes, after: bytes) -> None:
    content = path.read_bytes()
    assert len(before) == len(after) and content.count(before) == 1
    path.write_bytes(content.replace(before, after))


def test_a_gguf_file_is_the_model_that_was_written(written, here):
    from_gguf, from_folder = models.load(str(written), device="cpu"), models.load("llama", device="cpu")
    stored = dict(from_folder.model.named_parameters())
    for name, parameter in from_gguf.model.named_parameters():
        if "q_proj" not in name and "k_proj" not in name:
            assert torch.equal(parameter, stored[name]), name


def test_no_second_model_is_made_on_the_way(written):
    """It would be a random one, in float32, of no use but as large again."""
    before = torch.get_rng_state()
    gguf.converted_folder(written)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("high", "known"), [(4.0, True), (5.0, False)])
def test_the_rotary_frequencies_of_llama_3(here, high, known):
    """They are scaled; the file has that as a table alone."""
    scaling = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": high, "original_max_position_embeddings": 8192}
    folder = model(here / "llama", "llama", bos_token_id=1, eos_token_id=2, rope_parameters=scaling)
    file = write(folder, here / "tiny.gguf")
    if not known:
        refused(find(file), "tiny.gguf", "rotary")
        return
    wanted, got = (models.load(str(one), device="cpu").model.model.rotary_emb.inv_freq for one in (folder, file))
    assert torch.allclose(got, wanted) and not torch.allclose(got, 5e5 ** -(torch.arange(len(got)) / len(got)))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "SHA256SUMS", None])
def test_a_damaged_file_in_the_cache_is_converted_again(written, name):
    folder = gguf.converted_folder(written)
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert gguf.converted_folder(written) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times, "once"
    if name is None:  # as an earlier version has left it
        (folder / "SHA256SUMS").unlink()
    else:
        (folder / name).write_bytes(sound[name][:-2] + bytes([sound[name][-2] ^ 1]) + sound[name][-1:])
    assert gguf.converted_folder(written) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == sound
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("command", [find, train])
def test_a_tensor_that_is_not_there_is_not_made_up(written, command):
    replace(written, b"blk.1.ffn_down.weight", b"blk.1.ffn_dawn.weight")
    for _ in range(2):  # nothing is left in the cache
        refused(command(written), "blk.1.ffn_down.weight", "incomplete")


def test_a_layer_more_than_the_header_says(written):
    replace(written, b"llama.block_count\x04\x00\x00\x00\x03", b"llama.block_count\x04\x00\x00\x00\x02")
    refused(find(written), "blk.2.", "leaves out")


def test_billions_of_layers(written):
    replace(written, b"llama.block_count\x04\0\0\0\x03\0\0\0", b"llama.block_count\x04\0\0\0\xff\xff\xff\x7f")
    refused(find(written), "2147483647 layers", "tensors")


def test_a_header_that_says_more_than_the_file_holds(written):
    """Behind its end the reader finds nothing, without an error: it would go on for ever."""
    found = re.search(rb"tokenizer.ggml.tokens\x09\0\0\0\x08\0\0\0.{8}", written.read_bytes(), re.DOTALL)
    assert found, "a list of texts; now of numbers"
    replace(written, found[0], found[0][:25] + b"\0\0\0\0" + b"\xff" * 5 + b"\0" * 3)
    refused(find(written), "ends too early", "get it again")


def test_a_shape_without_entries_is_told_in_one_line(written):
    """Libraries warn of it, which Python prints."""
    replace(written, b"llama.feed_forward_length\x04\0\0\0\x80\0\0\0", b"llama.feed_forward_length\x04\0\0\0\0\0\0\0")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        refused(find(written), "get it again")
    assert [one for one in said if "zero-element" in str(one.message)] == []


def test_weights_that_are_not_finite_are_told_in_one_line(here, monkeypatch):
    folder = model(here / "llama", "llama", bos_token_id=1, eos_token_id=2)
    add = gguf_package.GGUFWriter.add_tensor

    def quantised(file, name, tensor):
        if "ffn_up" not in name:
            return add(file, name, tensor)
        kind = gguf_package.GGMLQuantizationType.Q8_0
        content = gguf_package.quantize(tensor, kind)
        content[0, :2] = (0, 0x7C)  # a scale of infinity
        content[0, 2] = 0
        return add(file, name, content, raw_dtype=kind)

    monkeypatch.setattr(gguf_package.GGUFWriter, "add_tensor", quantised)
    write(folder, here / "x.gguf")
    refused(find("x.gguf"), "not finite", "up_proj")


def test_one_of_several_parts(written):
    part = gguf_package.GGUFWriter(Path("part.gguf"), "llama")
    part.add_uint16("split.no", 0)
    part.add_uint16("split.count", 2)
    part.write_header_to_file()
    part.write_kv_data_to_file()
    part.close()
    refused(find("part.gguf"), "one of 2 parts", "--merge")


@pytest.mark.parametrize("keep", [7, 3000, 20_000, -1000])
def test_a_gguf_file_that_is_cut_off(written, keep):
    written.write_bytes(written.read_bytes()[:keep])
    said = refused(find(written), "tiny.gguf", "damaged", "get it again")
    assert refused(train(written)) == refused(run("prepare", "--model", str(written), "--data", "t.txt")) == said


def test_a_pointer_in_place_of_a_gguf_file(here):
    Path("x.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    refused(find("x.gguf"), "x.gguf", "git lfs pull")


def test_a_conversion_reads_the_header_once_and_drops_the_tokenizer_before_the_weights(written, monkeypatch):
    """Of a small model the header's words take as much memory as the weights, as often as they are read."""
    import numpy as np
    import transformers

    opened, plain = [], gguf_package.GGUFReader
    open_, load = plain.__init__, transformers.AutoModelForCausalLM.from_pretrained

    def count(reader, path, *rest):
        opened.append(reader)
        open_(reader, path, *rest)

    def weights(*arguments, **options):
        fields = opened[0].fields
        assert "general.architecture" in fields and not any(name.startswith("tokenizer.") for name in fields)
        assert {type(part) for field in fields.values() for part in field.parts} == {np.ndarray}, "no memory maps"
        return load(*arguments, **options)

    monkeypatch.setattr(plain, "__init__", count)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", weights)
    assert (gguf.converted_folder(Path(written.name)) / "tokenizer.json").is_file()
    assert len(opened) == 1
    assert gguf_package.GGUFReader is plain, "afterwards the package is as it was"
    with pytest.raises(KeyboardInterrupt), gguf._read_once():
        raise KeyboardInterrupt
    assert gguf_package.GGUFReader is plain
