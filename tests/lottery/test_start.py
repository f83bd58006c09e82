"""The network at step 0: initialisations as their papers say, frozen biases, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from lottery.runs import SHORT, built, complaint, flags
from swlottery.cli import main
from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.lottery import start
from swlottery.lottery.look import look
from swlottery.lottery.scope import SCOPES, in_scope
from swlottery.models import load as models
from swlottery.models.architectures import Roles
from swlottery.settings_file import from_file

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def scratch(tiny_gpt2):
    """gpt2-mini from its config, with the tiny model's 257 tokens."""

    def make(**changes) -> start.Network:
        settings = {"model": "gpt2-mini", "start": "scratch", "tokenizer": str(tiny_gpt2), "device": "cpu", **changes}
        return start.network(TrainSettings(**settings))

    return make


# [in, out] of Conv1D, for a width of 128.
SHAPES = {"attn.c_attn": (128, 384), "attn.c_proj": (128, 128), "mlp.c_fc": (128, 512), "mlp.c_proj": (512, 128)}


def deviation(init: str, name: str, fan_in: int, fan_out: int) -> float:
    if init == "xavier":  # Glorot & Bengio 2010, eq. 16
        return math.sqrt(2 / (fan_in + fan_out))
    if init == "kaiming":  # He et al. 2015, eq. 10
        return math.sqrt(2 / fan_in)
    return 0.02 / math.sqrt(2 * 4) if name.endswith("c_proj") else 0.02  # Radford et al. 2019, 2.3


@pytest.mark.parametrize("init", ["gpt2", "xavier", "kaiming"])
def test_initialisations_are_as_their_papers_say(init, scratch):
    network = scratch(init=init)
    parameters = network.parameters
    assert len(parameters) == 2 + 4 * 12 + 2
    for layer in range(4):
        for name, shape in SHAPES.items():
            matrix = parameters[f"transformer.h.{layer}.{name}.weight"].detach()
            sigma = deviation(init, name, *shape)
            assert tuple(matrix.shape) == shape
            assert float(matrix.std()) == pytest.approx(sigma, rel=0.02)
            assert abs(float(matrix.mean())) < 5 * sigma / math.sqrt(matrix.numel())
            largest = float(matrix.abs().max())
            if init == "xavier":
                assert 0.99 * sigma * math.sqrt(3) < largest <= sigma * math.sqrt(3) * (1 + 1e-6), "uniform"
            else:
                assert 3.5 * sigma < largest < 6 * sigma, "normal"
    for name, parameter in parameters.items():
        kind = network.roles.role_of(name, parameter)
        if kind == "norm":
            assert bool((parameter == 1).all()), "gains stay 1, always"
        if kind == "bias":
            assert not parameter.count_nonzero()
        if kind == "embedding":
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.02)
    kinds = [network.roles.role_of(name, parameter) for name, parameter in parameters.items()]
    assert (kinds.count("norm"), kinds.count("bias"), kinds.count("embedding")) == (9, 25, 2)
    assert not network.model.training, "no dropout"


@pytest.mark.parametrize("init", ["gpt2", "xavier", "kaiming"])
def test_a_seed_is_a_network(init, scratch):
    one, same, other = (scratch(init=init, seed=seed).parameters for seed in (3, 3, 4))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.3.mlp.c_proj.weight", "transformer.wpe.weight"):
        assert not torch.equal(one[name], other[name])
    assert (
        scratch(init=init, seed=3).lineage == scratch(init=init, seed=3).lineage != scratch(init=init, seed=4).lineage
    )


def test_initialisations_differ_and_so_do_their_lineages(scratch):
    networks = {init: scratch(init=init) for init in ("gpt2", "xavier", "kaiming")}
    assert len({network.lineage for network in networks.values()}) == 3
    embeddings = [network.parameters["transformer.wte.weight"] for network in networks.values()]
    assert torch.equal(embeddings[0], embeddings[1]) and torch.equal(embeddings[0], embeddings[2]), "keep GPT-2's"
    blocks = networks["xavier"].parameters
    assert not torch.equal(blocks["transformer.h.0.attn.c_proj.weight"], blocks["transformer.h.1.attn.c_proj.weight"])


def test_the_embedding_has_as_many_rows_as_asked_for(scratch):
    assert scratch().parameters["transformer.wte.weight"].shape[0] == 257
    assert scratch(vocabulary=320).parameters["transformer.wte.weight"].shape[0] == 320
    with pytest.raises(BadInput, match="--vocabulary 100: the tokenizer has 257 tokens; give as many or more"):
        scratch(vocabulary=100)


def test_frozen_biases_stay_zero_and_count_nowhere(scratch, text, tmp_path, monkeypatch):
    from lottery.runs import of_network, table
    from swlottery.data.tokens import prepare
    from swlottery.lottery import masks as masking
    from swlottery.runtime import environment

    settings = TrainSettings(
        model="gpt2-mini",
        start="scratch",
        freeze_biases=True,
        scope="all",
        context=16,
        micro_batch=2,
        steps=2,
        rounds=1,
        eval_sequences=2,
        super_weights="none",
        threads=1,
        device="cpu",
        lr=0.01,
    )
    network = scratch(**{name: getattr(settings, name) for name in ("freeze_biases", "scope", "context")})
    biases = {name: p for name, p in network.parameters.items() if network.roles.role_of(name, p) == "bias"}
    assert len(biases) == 25 and not any(p.requires_grad for p in biases.values())
    weights = sum(p.numel() for p in network.parameters.values()) - sum(p.numel() for p in biases.values())
    environment.pin(1)
    run = of_network(network, prepare(str(text), network.tokenizer), settings, tmp_path)
    before = {name: p.detach().clone() for name, p in run.parameters.items()}
    run.run()
    assert not any(p.count_nonzero() for p in biases.values())
    assert all(not torch.equal(before[name], p) for name, p in run.parameters.items() if name not in biases)
    assert not set(biases) & set(run.training.masks) and masking.total(run.training.masks) == weights
    assert [row["remaining"] for row in table(tmp_path, "rounds.csv")] == [str(weights), str(weights - weights // 5)]


def test_biases_move_where_they_are_not_frozen(scratch):
    network = scratch()
    assert all(p.requires_grad for p in network.parameters.values())
    scopes = {scope: in_scope(network.model, network.roles, scope) for scope in SCOPES}
    assert not any(name.endswith(".bias") for found in scopes.values() for name in found), "never in scope"
    matrices = {
        scope: sorted({n.split(".", 3)[3].removesuffix(".weight") for n in found if ".h." in n and ".ln_" not in n})
        for scope, found in scopes.items()
    }
    assert matrices == {
        "attn+c_proj": ["attn.c_attn", "attn.c_proj", "mlp.c_proj"],
        "linear": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
        "mlp": ["mlp.c_fc", "mlp.c_proj"],
        "all": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    }
    assert len(scopes["all"]) == 16 + 9 + 2, "the head is the token embedding, and counts once"


def test_gpt2_without_biases_has_124_373_760_weights_in_scope():
    """By its config, on no device; and by hand."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = TrainSettings(**from_file(REPOSITORY / "configs" / "seed" / "876812.yaml"))
    assert settings.freeze_biases and settings.scope == "all"
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(**models.SHAPES[settings.model], vocab_size=settings.vocabulary))
    found = in_scope(model, Roles(model), settings.scope)
    assert sum(p.numel() for p in found.values()) == 124_373_760
    block = 768 * 3 * 768 + 768 * 768 + 2 * 768 * 4 * 768 + 2 * 768
    assert 50_304 * 768 + 1024 * 768 + 12 * block + 768 == 124_373_760


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 513}, "--context 513: the model takes 2 to 512 tokens"),
        ({"context": 1}, "--context 1: the model takes 2 to 512 tokens"),
        ({"model": "gpt2-mini"}, "gpt2-mini exists from scratch only"),
        ({"model": "./nowhere"}, "no such file or folder"),
        ({"start": "scratch"}, "--start scratch builds gpt2, gpt2-medium"),
        ({"start": "scratch", "model": "gpt3"}, "builds gpt2, gpt2-medium, gpt2-large, gpt2-xl, gpt2-mini, llama-mini"),
        ({"start": "scratch", "model": "gpt2-mini", "context": 257}, "--context 257: the model takes 2 to 256 tokens"),
        ({"start": "scratch", "model": "gpt2-mini", "tokenizer": "./nowhere"}, "cannot load the tokenizer"),
    ],
)
def test_refused(changes, words, tiny_gpt2):
    settings = {"model": str(tiny_gpt2), "device": "cpu"}
    if changes.get("model") == "gpt2-mini" and "tokenizer" not in changes:
        settings["tokenizer"] = str(tiny_gpt2)
    with pytest.raises(BadInput, match=words):
        start.network(TrainSettings(**{**settings, **changes}))


def test_a_scope_that_holds_nothing_is_refused(tiny_gpt2, monkeypatch):
    """No scope of no architecture in the table is empty; were there one, it would be said."""
    from tiny import CONFIGS, tiny_model

    for name in CONFIGS:
        model = tiny_model(name)
        assert all(in_scope(model, Roles(model), scope) for scope in SCOPES), name
    monkeypatch.setitem(SCOPES, "mlp", ())
    with pytest.raises(BadInput, match="--scope mlp holds no weight"):
        in_scope(model, Roles(model), "mlp")


@pytest.mark.parametrize("follow", ["2,0,0", "0,32,0", "0,0,128"])
def test_a_coordinate_that_the_model_does_not_have(follow, tiny_gpt2, text, tmp_path, capsys):
    capsys.readouterr()
    assert main(flags(tiny_gpt2, text, tmp_path, follow=follow, super_weights="none")) == 2
    said = complaint(capsys.readouterr().err)
    assert f"has no weight ({follow.replace(',', ', ')}): it has 2 layers of (32, 128)" in said
    assert not (tmp_path / "runs").exists(), "nothing is written"


def test_data_shorter_than_a_batch(tiny_gpt2, tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("Sixty characters of text are no batch of four such sequences. " * 2)
    capsys.readouterr()
    assert main(flags(tiny_gpt2, short, tmp_path)) == 2
    assert "a step on 4 × 33 tokens needs 132" in complaint(capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


def test_a_small_llama_from_scratch_with_a_first_token(text, tmp_path, few_docstrings):
    """Every sequence that is trained or judged on begins with BOS, and so does every text of the stored tokenizer."""
    from transformers import AutoTokenizer

    asked = {"start": "scratch", "vocabulary": 300, "first_token": True, **SHORT, "rounds": 1}
    network = start.network(TrainSettings(model="llama-mini", **asked))
    tokenizer = network.tokenizer
    assert network.model.config.model_type == "llama" and network.embedding_rows == len(tokenizer) == 300
    assert network.prefix == [tokenizer.bos_token_id] == tokenizer("")["input_ids"]
    lottery = built("llama-mini", text, tmp_path, **asked)
    inner = tokenizer("some text", add_special_tokens=False)["input_ids"]
    for windows in (*lottery.training.batches.passes(0), lottery.judge.windows):
        assert set(windows[:, 0].tolist()) == {tokenizer.bos_token_id} and windows.shape[1] == SHORT["context"] + 1
    lottery.run()
    stored = AutoTokenizer.from_pretrained(next(tmp_path.rglob("final")))
    assert stored("some text")["input_ids"] == [tokenizer.bos_token_id, *inner]
    without = start.network(TrainSettings(model="llama-mini", **{**asked, "first_token": False}))
    assert without.prefix == [] and without.lineage == network.lineage


def test_a_first_token_that_cannot_be(tiny_gpt2, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "bare")
    base = {"model": "gpt2-mini", "start": "scratch", "first_token": True, "device": "cpu"}
    with pytest.raises(BadInput, match="--first-token: the tokenizer of gpt2-mini has no BOS"):
        start.network(TrainSettings(**base, tokenizer=str(tmp_path / "bare")))
    with pytest.raises(BadInput, match="--vocabulary 256: the built-in tokenizer needs 257 tokens"):
        start.network(TrainSettings(**base, vocabulary=256))


def test_frozen_biases_of_a_pretrained_network_are_refused_in_one_line(tiny_gpt2, text, tmp_path, capsys):
    capsys.readouterr()
    assert main(flags(tiny_gpt2, text, tmp_path, "--freeze-biases")) == 2
    assert "--freeze-biases changes nothing without --start scratch" in complaint(capsys.readouterr().err)


def test_where_a_tokenizer_comes_from(tmp_path):
    def name(**changes) -> str:
        return start.tokenizer_name(TrainSettings(start="scratch", **{"model": "gpt2", **changes}))

    assert name() == name(data=str(tmp_path)) == name(model="gpt2-mini", data="openwebtext") == "builtin"
    assert name(data="openwebtext") == "openai-community/gpt2"
    assert name(data="openwebtext", tokenizer="builtin") == "builtin"
    assert name(tokenizer="some/one") == "some/one"


def test_the_leader_is_the_largest_contribution_to_the_prompts_that_are_given(scratch) -> None:
    """By hand: embeddings of two letters feed two channels of the MLP. A prompt's leader is its channel's weight."""
    network = scratch()
    parameters = network.parameters
    with torch.no_grad():
        for name, tensor in parameters.items():
            if ".ln_" not in name:
                tensor.zero_()
        for letter, channel in (("a", 3), ("b", 5)):
            token = network.tokenizer(letter, add_special_tokens=False)["input_ids"][0]
            parameters["transformer.wte.weight"][token, channel] = 1.0
            parameters["transformer.h.1.mlp.c_fc.weight"][channel, 2 * channel] = 1.0
            parameters["transformer.h.1.mlp.c_proj.weight"][2 * channel, 7 * channel] = 1.0
    for prompt, place in (("a" * 20, (1, 21, 6)), ("b" * 20, (1, 35, 10))):
        kind, (weight,) = look(network, [prompt])
        assert kind == "leader" and (weight["layer"], weight["out"], weight["in"]) == place


def test_gains_at_zero_are_xavier_whose_norms_give_nothing_yet(scratch, text, tmp_path):
    """The logits are zero at step 0; step 1 trains the last gain alone, and step 2 every gain."""
    usual, zero = (scratch(init=init).parameters for init in ("xavier", "xavier-zero-gains"))
    gains = {name for name, parameter in zero.items() if name.endswith("weight") and parameter.ndim == 1}
    assert len(gains) == 9 and not any(zero[name].any() for name in gains)
    assert all(torch.equal(zero[name], usual[name]) for name in zero if name not in gains)

    asked = {
        **SHORT,
        "start": "scratch",
        "vocabulary": 300,
        "init": "xavier-zero-gains",
        "weight_decay": 0.0,
        "freeze_biases": True,
    }
    lottery = built("gpt2-mini", text, tmp_path, **asked)
    assert lottery.training.evaluate(lottery.judge.windows) == pytest.approx(math.log(300), rel=1e-6)
    before = {name: parameter.detach().clone() for name, parameter in lottery.parameters.items()}
    moved = []
    for step in range(2):
        lottery.take_step(step, 1, see=False)
        moved.append({name for name, now in lottery.parameters.items() if not torch.equal(now, before[name])})
    assert moved[0] == {"transformer.ln_f.weight"} and gains <= moved[1]


@pytest.mark.parametrize("arm", [["--trace", "log"], ["--force-prune", "sw"], ["--force-prune", "controls"]])
def test_a_network_that_gives_nothing_has_a_leader_and_finite_numbers(arm, text, tmp_path, capsys):
    """One step: all inputs of the down-projections are zero still, so no weight contributes anything."""
    asked = {
        "start": "scratch",
        "vocabulary": 300,
        "init": "xavier-zero-gains",
        "scope": "all",
        "rounds": 1,
        "steps": 1,
    }
    assert main(flags("gpt2-mini", text, tmp_path, *arm, **{**asked, "eval_steps": 1})) == 0
    said = capsys.readouterr().out
    assert "no super weight; leader (" in said and "nan" not in said and "inf" not in said.replace("inert", "")
    assert "warning      all norms' gains start at zero (--init xavier-zero-gains)" in said
