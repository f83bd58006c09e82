"""Checkpoints that are not what they seem: tensors too many or too few, several precisions, files elsewhere."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from odd import change, find, model, refused, run, train
from swlottery.models import load as models
from swlottery.models import pretrained
from swlottery.models.lineage import tensors_sha256, weights_sha256

pytestmark = pytest.mark.usefixtures("no_figures")

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def rewrite(folder: str | Path, **changes: torch.Tensor | None) -> None:
    """Change tensors of a folder's one file, or take them out; ``__`` in a name stands for a dot."""
    file = Path(folder, "model.safetensors")
    tensors = load_file(file) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file, {"format": "pt"})


def shard(folder: str | Path, *groups: str, suffix: str = "safetensors") -> dict[str, str]:
    """Split a folder's file in two: the tensors with one of these words in their names, and the rest."""
    folder = Path(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {name: f"{stem}-0000{2 - any(word in name for word in groups)}-of-00002.{suffix}" for name in tensors}
    for file in sorted(set(places.values())):
        part = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        if suffix == "safetensors":
            save_file(part, folder / file, {"format": "pt"})
        else:
            torch.save(part, folder / file)
    content = {"metadata": {}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(content))
    return places


def mixed(folder: str, kind: str = "llama", words: tuple[str, ...] = ("norm",), **changes: object) -> Path:
    """A model in bfloat16, with the tensors that have one of these words in their names in float32."""
    path = model(Path(folder), kind, **changes)
    tensors = load_file(path / "model.safetensors")
    for name, tensor in tensors.items():
        if any(word in name for word in words):
            tensors[name] = tensor + 1e-4 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0))
        else:
            tensors[name] = tensor.to(torch.bfloat16)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


# Tensors that the model has no place for


@pytest.mark.parametrize("command", [find, train])
def test_biases_that_the_architecture_does_not_have(here, command):
    model(here / "q", "qwen2")
    change(here / "q/config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    refused(command("q"), "model.layers.0.self_attn.k_proj.bias", "config.json")


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_a_layer_more_than_the_config_says(here, kind):
    """transformers drops its masks by patterns, such as `attention.bias`, that fit weights too."""
    model(here / "g", kind)
    change(here / "g/config.json", **{"n_layer" if kind == "gpt2" else "num_hidden_layers": 2})
    refused(find("g"), ".2.")


@pytest.mark.parametrize("name", ["transformer.h.3.attn.bias", "score.weight", "transformer.h.0.attn.c_attn.lora_A"])
def test_a_tensor_more(here, name):
    model(here / "g")
    rewrite("g", **{name: torch.zeros(64)})
    refused(find("g"), name)


def test_what_older_versions_stored_beside_the_weights_is_no_weight(here):
    before = weights_sha256(pretrained.read(model(here / "g"), None)[0])
    rewrite(
        "g",
        transformer__h__0__attn__bias=torch.ones(1, 1, 128, 128, dtype=torch.uint8),
        transformer__h__1__attn__masked_bias=torch.tensor(-1e4),
    )
    assert weights_sha256(pretrained.read(here / "g", None)[0]) == before
    model(here / "l", "llama")
    rewrite("l", model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    assert find("l").code == 0


def test_names_without_the_prefix_of_the_language_model(here):
    """As in openai-community/gpt2."""
    before = weights_sha256(pretrained.read(model(here / "g"), None)[0])
    tensors = load_file("g/model.safetensors")
    save_file({name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}, "g/model.safetensors")
    assert weights_sha256(pretrained.read(here / "g", None)[0]) == before


def test_a_stored_head_that_differs_from_the_embedding_is_used(here):
    folder = model(here / "g")
    tensors = load_file(folder / "model.safetensors")
    head = tensors["transformer.wte.weight"]
    rewrite("g", lm_head__weight=head.clone())
    same = pretrained.read(folder, None)[0]
    assert same.lm_head.weight is same.transformer.wte.weight
    rewrite("g", lm_head__weight=head + 1)
    other = pretrained.read(folder, None)[0]
    assert torch.equal(other.lm_head.weight, head + 1) and torch.equal(other.transformer.wte.weight, head)


# Several precisions


def test_one_lineage_of_a_checkpoint_of_several_precisions(here):
    folder = mixed("m")
    whole = models.load("m", device="cpu")
    assert (whole.stored_dtype, whole.dtype) == ("bfloat16", whole.dtype)
    stored = load_file(folder / "model.safetensors")
    assert whole.weights_sha256 == tensors_sha256(stored.items()), "the tensors as they are stored"
    model_, _ = pretrained.read(folder, None)
    assert all(torch.equal(stored[name], parameter) for name, parameter in model_.named_parameters())
    assert find("m", "--out", "m.json").code == 0
    shard("m", "norm")  # the first file has the norms alone
    assert models.load("m", device="cpu").weights_sha256 == whole.weights_sha256
    assert find("m", "--check", "m.json").code == 0
    assert train("m", "--super-weights", "m.json").code == 0


def test_what_rounding_to_the_common_precision_would_hide_is_another_lineage(here):
    mixed("m")
    before = models.load("m", device="cpu").weights_sha256
    norm = load_file("m/model.safetensors")["model.norm.weight"]
    norm[3] = torch.nextafter(norm[3], torch.tensor(9.0))
    rewrite("m", model__norm__weight=norm)
    assert models.load("m", device="cpu").weights_sha256 != before


def test_training_starts_from_the_tensors_as_they_are_stored(here):
    mixed("m")
    loaded = models.load("m", dtype="float32", device="cpu")
    stored = load_file("m/model.safetensors")
    assert all(torch.equal(stored[name].float(), weights) for name, weights in loaded.model.named_parameters())


def test_a_tied_embedding_of_another_precision(here):
    folder = mixed("g", "gpt2", ("wte", "ln_"))
    stored = load_file(folder / "model.safetensors")
    model_, _ = pretrained.read(folder, None)
    assert model_.lm_head.weight is model_.transformer.wte.weight
    assert all(torch.equal(stored[name], parameter) for name, parameter in model_.named_parameters())


def test_experts_of_several_precisions_are_merged_in_the_widest(here):
    folder = model(here / "x", "mixtral")
    before, _ = pretrained.read(folder, None)
    tensors = load_file(folder / "model.safetensors")
    narrow = [name for name in tensors if "experts.1." in name or "proj" in name]
    assert any("experts" in name for name in narrow)
    rewrite("x", **{name: tensors[name].to(torch.bfloat16) for name in narrow})
    after, _ = pretrained.read(folder, None)
    for layer in (0, 1, 2):
        one, other = (network.model.layers[layer].mlp.experts.down_proj for network in (before, after))
        assert torch.equal(other[0], one[0]) and torch.equal(other[1], one[1].bfloat16().float())
        assert after.model.layers[layer].self_attn.q_proj.weight.dtype == torch.bfloat16
    lineage = weights_sha256(after)
    shard("x", "experts.1.")
    assert weights_sha256(pretrained.read(folder, None)[0]) == lineage


@pytest.mark.parametrize(("words", "rows"), [(("experts",), 9000), (("norm", "embed", "head", "attn"), 9000)])
def test_experts_of_another_precision_than_most_weights_keep_theirs(here, words, rows):
    stored = load_file(mixed("x", "mixtral", words, vocab_size=rows) / "model.safetensors")
    after, _ = pretrained.read(here / "x", None)
    one = [stored[f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"] for expert in range(4)]
    other = after.model.layers[1].mlp.experts.down_proj
    assert other.dtype == one[0].dtype and torch.equal(other, torch.stack(one))
    assert torch.equal(after.model.embed_tokens.weight, stored["model.embed_tokens.weight"])


def test_a_tied_embedding_that_is_stored_as_the_head_keeps_its_precision(here):
    folder = mixed("g", "gpt2", ("wte",))
    wte = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    rewrite("g", lm_head__weight=wte, transformer__wte__weight=None)
    model_, _ = pretrained.read(folder, None)
    assert model_.lm_head.weight is model_.transformer.wte.weight
    assert torch.equal(model_.lm_head.weight, wte)


def test_of_two_precisions_with_as_many_weights_the_wider_counts(here):
    from swlottery.models.stored import most_frequent

    assert most_frequent([(torch.bfloat16, 4), (torch.float32, 3), (torch.float32, 1)]) == torch.float32
    assert most_frequent([(torch.float32, 4), (torch.bfloat16, 5)]) == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_in_eight_bits_are_quantised_whatever_the_config_says(here, dtype):
    model(here / "g")
    weight = load_file("g/model.safetensors")["transformer.h.1.mlp.c_proj.weight"]
    rewrite("g", transformer__h__1__mlp__c_proj__weight=weight.to(dtype))
    refused(find("g"), "quantised", "transformer.h.1.mlp.c_proj.weight")


# Files


def test_weights_in_pickles_that_hold_nothing_but_tensors(here):
    folder = model(here / "g")
    before = weights_sha256(pretrained.read(folder, None)[0])
    tensors = load_file(folder / "model.safetensors")
    for zipped in (True, False):  # the format of 2020, and the one before
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        (folder / "model.safetensors").unlink(missing_ok=True)
        assert weights_sha256(pretrained.read(folder, None)[0]) == before
    assert find("g").code == train("g").code == 0
    (folder / "pytorch_model.bin").unlink()
    save_file(tensors, folder / "model.safetensors")
    shard("g", "h.1.", suffix="bin")
    assert weights_sha256(pretrained.read(folder, None)[0]) == before


def test_no_code_in_a_pickle_is_run(here, recwarn):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(here / "evil"),)

    folder = model(here / "g")
    torch.save({**load_file(folder / "model.safetensors"), "x": Evil()}, folder / "pytorch_model.bin")
    assert find("g").code == 0, "there are safetensors, too"
    (folder / "model.safetensors").unlink()
    for content in (None, pickle.dumps({"x": Evil()}), b"", b"nonsense"):
        if content is not None:
            (folder / "pytorch_model.bin").write_bytes(content)
        said = refused(find("g"), "pytorch_model.bin", "code")
        assert "weights_only" not in said, "nobody is told how to run it"
    assert not [one for one in recwarn if "pickle" in str(one.message)], "it would be a second line"
    assert not (here / "evil").exists()


def test_no_code_in_a_models_folder_is_run(here):
    folder = model(here / "g")
    code = f"import os; os.mkdir({str(here / 'evil')!r})"
    for name in ("evil.py", "modeling_evil.py", "__init__.py", "custom_generate/generate.py", "setup.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    change(folder / "config.json", auto_map=dict.fromkeys(names, "evil.Evil"))
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    assert find("g").code == train("g").code == 0, "the architecture is transformers' own"
    change(folder / "config.json", model_type="evil")
    refused(find("g"), "evil", "not run")
    refused(train("g"), "evil", "not run")
    change(folder / "config.json", model_type="gpt2")
    change(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    find("g")
    scratch = ["--model", "gpt2-mini", "--start", "scratch", "--data", "t.txt", "--tokenizer"]
    run("prepare", *scratch, "g", "--device", "cpu")
    assert not (here / "evil").exists()


def test_an_adapter_is_not_left_out_in_silence(here):
    (model(here / "g") / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    refused(find("g"), "adapter")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_no_file_outside_of_the_folder_is_read(here, name, suffix):
    model(here / "g")
    places = shard("g", "wte", suffix=suffix)
    moved = places["transformer.wte.weight"]
    name = name.replace("safetensors", suffix)
    name = str(here / "outside") + f".{suffix}" if name.startswith("/") else name
    Path("g", moved).rename(f"outside.{suffix}")
    index = next(Path("g").glob("*.index.json"))
    change(index, weight_map={tensor: name if place == moved else place for tensor, place in places.items()})
    refused(find("g"), "outside of the model's folder", name)


def test_a_shard_may_be_a_symbolic_link(here):
    """As in the cache of the hub."""
    model(here / "g")
    moved = Path("g", shard("g", "wte")["transformer.wte.weight"])
    moved.rename("blob")
    moved.symlink_to(Path("blob").resolve())
    assert find("g").code == 0


def test_each_tensor_is_from_the_file_that_the_index_names(here):
    """A file of an earlier save may lie beside it under the same name."""
    folder = model(here / "g")
    before = weights_sha256(pretrained.read(folder, None)[0])
    places = shard("g", "wte")
    other = Path("g", places["transformer.wpe.weight"])
    save_file({**load_file(other), "transformer.wte.weight": torch.zeros(300, 64)}, other)
    assert weights_sha256(pretrained.read(folder, None)[0]) == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000])
def test_an_index_that_is_damaged(here, content):
    model(here / "g")
    shard("g", "wte")
    Path("g/model.safetensors.index.json").write_text(content)
    refused(find("g"), "model.safetensors.index.json", "damaged")


def test_an_index_that_names_a_file_that_is_not_there(here):
    model(here / "g")
    moved = shard("g", "wte")["transformer.wte.weight"]
    Path("g", moved).unlink()
    refused(find("g"), moved, "missing")
    refused(train("g"), moved, "missing")


def test_half_a_file_of_weights(here):
    file = model(here / "g") / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(find("g"), "model.safetensors", "damaged")


def test_no_weights(here):
    (model(here / "g") / "model.safetensors").unlink()
    refused(find("g"), "no weights")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_what_git_leaves_without_lfs(here, name):
    model(here / "g")
    Path("g", name).write_text(POINTER)
    for command in (find, train):
        refused(command("g"), name, "git lfs pull")


def test_a_generation_config_that_could_not_be_saved_is_no_reason_to_lose_a_run(here):
    model(here / "g")
    for content in ('{"temperature": 0.5, "num_beams": 0, "do_sample": false}', "{", POINTER):
        Path("g/generation_config.json").write_text(content)
        said = train("g", "--runs", f"runs{len(content)}")
        assert said.code == 0, said
