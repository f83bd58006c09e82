"""A config.json or a tokenizer that is a little wrong: it works where it can mean one thing, else it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from odd import change, find, model, refused, run, train
from swlottery.models import load as models
from swlottery.models import pretrained
from swlottery.models.configuration import _meant

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.mark.parametrize(
    "content",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "fp8"},
        {"bits": 4},
        "awq",
    ],
)
@pytest.mark.parametrize("part", ["", "text_config"])
def test_quantised(here, content, part):
    model(here / "g")
    entry = {"quantization_config": content}
    change(here / "g/config.json", **{part: entry} if part else entry)
    for command in (find, train):
        said = refused(command("g"), "quantised", "the model that they were made from")
        if "quant_method" in content:
            assert content["quant_method"] in said


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {"n_inner": "128"}),
        ("gpt2", {"n_head": 4.0, "n_layer": "3", "layer_norm_epsilon": "1e-5", "tie_word_embeddings": "True"}),
        ("gpt2", {"initializer_range": 0, "tie_word_embeddings": 1, "bos_token_id": "5"}),
        ("gpt2", {"pad_token_id": 300}),
        ("llama", {"pad_token_id": 300}),
        ("llama", {"pad_token_id": -301}),
        ("llama", {"num_key_value_heads": "2", "head_dim": 16.0, "rms_norm_eps": "1e-6"}),
        ("gpt2", {"_attn_implementation": "flash_attention_2"}),
        ("gpt2", {"attn_implementation": "kernels-community/flash-attn"}),
        ("gpt2", {"return_dict": False}),
        ("gpt2", {"quantization_config": {}, "compression_config": None}),
        ("gpt2", {"use_return_dict": False, "torchscript": True}),
        ("gpt2", {"output_attentions": True, "output_hidden_states": True}),
        ("gpt2", {"dtype": "float99", "torch_dtype": 7}),
        ("gpt2", {"transformers_weights": "../other.safetensors", "fusion_config": {"patch_embeddings": True}}),
        ("gpt2", {"configuration_files": ["../config.5.0.0.json"]}),
        ("gpt2", {"summary_first_dropout": {"__float__": "Infinity"}}),
    ],
)
def test_an_entry_that_can_mean_one_thing(here, kind, changes):
    folder = model(here / "g", kind)
    before, _ = pretrained.read(folder, None)
    change(folder / "config.json", **changes)
    after, _ = pretrained.read(folder, None)
    ids = before.dummy_inputs["input_ids"] % 300
    assert after(ids).logits.equal(before(ids).logits)
    assert find("g").code == 0
    said = train("g")
    assert said.code == 0, said
    (final,) = Path("runs").glob("*/final")
    assert find(final).code == 0


def test_the_entries_of_a_part_of_the_config(here):
    """The language model of a multimodal one has its own."""
    folder = model(here / "g", "gemma3")
    content = json.loads((folder / "config.json").read_text())
    content["text_config"].update(num_hidden_layers="3", hidden_size=64.0, _attn_implementation="flash_attention_2")
    (folder / "config.json").write_text(json.dumps(content))
    network, _ = pretrained.read(folder, None)
    assert network.config.text_config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_embd": "sixty"}, "n_embd"),
        ({"n_layer": None}, "n_layer"),
        ({"n_head": 2.5}, "n_head"),
        ({"n_head": [4]}, "n_head"),
        ({"n_head": 3}, "embed_dim"),
        ({"activation_function": "foo"}, "foo"),
        ({"n_layer": -1}, "does not have"),
        ({"n_layer": 0}, "does not have"),
        ({"n_layer": 4}, "lacks weights"),
        ({"n_layer": 1 << 40}, "layers"),
        ({"n_positions": 64}, "do not fit"),
        ({"vocab_size": 0}, ""),
        ({"vocab_size": -5}, ""),
        ({"vocab_size": 1 << 60}, ""),
        ({"model_type": None}, "model_type"),
        ({"model_type": 7}, "model_type"),
        ({"model_type": ["gpt2"]}, "model_type"),
        ({"model_type": "gpt17"}, "gpt17"),
    ],
)
def test_an_entry_that_can_not(here, changes, words):
    model(here / "g")
    change(here / "g/config.json", **changes)
    refused(find("g"), "g", words)
    refused(train("g"), "g", words)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '"gpt2"', "[" * 100_000, "\ufffe", '{"a": 1}'])
def test_a_config_that_is_none(here, content):
    model(here / "g")
    Path("g/config.json").write_text(content)
    refused(find("g"), "config.json")
    refused(train("g"), "config.json")


def test_what_an_entry_means():
    assert (_meant("128", ["int", "NoneType"]), _meant(2.0, ["int"]), _meant(0, ["float"])) == (128, 2, 0.0)
    assert (_meant("1e-5", ["float"]), _meant("False", ["bool"]), _meant(1, ["bool"])) == (1e-5, False, True)
    none: list[tuple[Any, str]] = [("2.5", "int"), (2.5, "int"), ("x", "int"), ("", "int"), (True, "int"), (2, "bool")]
    assert [_meant(value, [kind]) for value, kind in [*none, ([4], "int"), (None, "int"), ("nan", "int")]] == [None] * 9


def test_an_entry_that_makes_every_answer_nan(here):
    model(here / "g")
    change(here / "g/config.json", layer_norm_epsilon=-1.0)
    assert "--dtype" not in refused(find("g"), "NaN", "config.json"), "it is in float32 already"


@pytest.mark.parametrize(("kind", "changes"), [("gptj", {"rotary_dim": 3}), ("mixtral", {"num_experts_per_tok": 9})])
def test_an_entry_with_which_no_forward_pass_goes_through(here, kind, changes):
    model(here / "g", kind)
    change(here / "g/config.json", **changes)
    refused(find("g"), "g", "config.json")
    refused(train("g"), "g", "config.json")


@pytest.mark.parametrize("context", [1, 2, 4, 7, 8])
def test_a_model_of_a_short_context(here, context):
    model(here / "g", n_positions=context)
    if context == 1:
        refused(find("g"), "1 token at a time")
        return
    assert models.load("g", device="cpu").context == context


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_a_vocabulary_of_one_token(here, kind):
    model(here / "g", kind, vocab_size=1)
    assert models.load("g", device="cpu").model.get_input_embeddings().weight.shape[0] == 1


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows(here):
    """None of them is used: a [PAD], or what fills the vocabulary up to a round number."""
    model(here / "g", vocab_size=258)
    tokenizer = json.loads(Path("g/tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 258, "content": "[PAD]"})
    Path("g/tokenizer.json").write_text(json.dumps(tokenizer))
    change(here / "g/tokenizer_config.json", pad_token="[PAD]")
    assert find("g").code == 0
    said = train("g")
    assert said.code == 0, said


def test_a_model_of_the_hub_is_read_from_one_commit_which_is_recorded(here, monkeypatch):
    commit, cache = "0123456789abcdef" * 2 + "01234567", here / "hub"
    folder = model(cache / f"models--some--one/snapshots/{commit}")
    (cache / "models--some--one/refs").mkdir()
    (cache / "models--some--one/refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = models.load("some/one", device="cpu")
    assert (loaded.revision, loaded.weights_sha256) == (commit, models.load(str(folder), device="cpu").weights_sha256)
    assert models.load_tokenizer("some/one")[1] == 128
    (folder / "model.safetensors").rename(folder / "elsewhere")
    refused(find("some/one"), "some/one", "the hub cannot be reached", "hf download")
    (folder / "model-1.safetensors").symlink_to("elsewhere")
    places = dict.fromkeys(load_file(folder / "elsewhere"), "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert models.load("some/one", device="cpu").weights_sha256 == loaded.weights_sha256
    (folder / "tokenizer.json").unlink()
    refused(find("some/one"), "tokenizer", "some/one")
    (folder / "config.json").unlink()
    there_is_none = cache / f"models--some--one/.no_exist/{commit}/config.json"
    there_is_none.parent.mkdir(parents=True)
    there_is_none.touch()
    assert "TypeError" not in refused(find("some/one", "--revision", commit), "some/one")


# Tokenizers


def edit(**changes: Any) -> None:
    change(Path("g/tokenizer.json"), **changes)


@pytest.mark.parametrize(
    "change_it",
    [
        lambda: edit(model={"type": "BPE2", "vocab": {}}),
        lambda: edit(model={"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}),
        lambda: edit(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zzz"]]}),
        lambda: edit(version="9.0"),
        lambda: edit(
            pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
        ),
        lambda: edit(truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 9}),
        lambda: edit(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "Q", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        ),
        lambda: Path("g/tokenizer.json").write_text(Path("g/tokenizer.json").read_text()[:2000]),
        lambda: Path("g/tokenizer.json").write_text(""),
        lambda: Path("g/tokenizer.json").write_text("[" * 100_000),
        lambda: Path("g/tokenizer_config.json").write_text("[]"),
        lambda: change(Path("g/tokenizer_config.json"), tokenizer_class=3),
        lambda: change(Path("g/tokenizer_config.json"), eos_token=5),
        lambda: change(Path("g/tokenizer_config.json"), model_max_length="x"),
    ],
)
def test_a_tokenizer_that_cannot_be_read(here, change_it):
    model(here / "g")
    change_it()
    said = refused(find("g"), "tokenizer of g", "newer release")
    assert refused(train("g")) == said
    scratch = ["--model", "gpt2-mini", "--start", "scratch", "--data", "t.txt", "--tokenizer"]
    refused(run("train", *scratch, "g", "--device", "cpu"), "tokenizer")


@pytest.mark.parametrize(
    ("name", "content"),
    [("", b""), ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15"), ("tekken.json", b"{}"), ("vocab.json", b"{}")],
)
@pytest.mark.parametrize("kept", [True, False])
def test_no_tokenizer(here, name, content, kept):
    model(here / "g", tokenizer=kept)
    Path("g/tokenizer.json").unlink(missing_ok=True)
    if name:
        Path("g", name).write_bytes(content)
    assert "tiktoken" not in refused(find("g"), "no tokenizer in g", name, "tokenizer.json"), "it would not help"
    refused(train("g"), "no tokenizer in g", "tokenizer.json")


def test_a_tokenizer_of_a_class_that_is_not_known_is_read_by_its_file(here):
    model(here / "g")
    change(here / "g/tokenizer_config.json", tokenizer_class="OtherTokenizer")
    assert find("g").code == 0


def test_a_tokenizer_reads_no_file_outside_of_the_folder(here):
    """Old tokenizer_config.json name the files of the machine that wrote them."""
    model(here / "g")
    Path("outside.json").write_text('{"eos_token": "evil"}')
    outside = str(Path("outside.json").resolve())
    names = ("special_tokens_map_file", "tokenizer_file", "vocab_file", "added_tokens_file", "name_or_path")
    change(here / "g/tokenizer_config.json", **dict.fromkeys(names, outside))
    _, tokenizer = pretrained.read(here / "g", None)
    assert tokenizer.eos_token == "</s>" and tokenizer("a")["input_ids"]
