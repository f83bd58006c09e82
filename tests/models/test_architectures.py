"""The table of architectures, held against tiny models of every one."""

from collections import Counter
from contextlib import ExitStack

import pytest
import torch

from swlottery.errors import BadInput
from swlottery.models.architectures import Roles
from swlottery.models.table import ROWS, row_of
from tiny import CONFIGS, HIDDEN, LAYERS, tiny_model

REQUIRED = [
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "opt",
    "bloom",
    "falcon",
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
    "olmo2",
    "stablelm",
    "starcoder2",
]


def test_every_required_architecture_has_a_row_and_every_row_a_tiny_model():
    assert set(REQUIRED) <= set(ROWS)
    assert {kind for kind, _ in CONFIGS.values()} == set(ROWS)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_down_projection_is_what_its_module_computes(name):
    """y = W x + b with W as (out, in), from what the hooked module really received and returned."""
    model = tiny_model(name)
    roles = Roles(model)
    assert len(roles.downs) == LAYERS
    seen, hooks = {}, ExitStack()
    for down in roles.downs:
        hooks.enter_context(
            down.hooked(lambda entered, output, down=down: seen.update({down.layer: (entered, output.clone())}))
        )
    with hooks:
        model(input_ids=torch.arange(1, 9)[None], use_cache=False)
    for down in roles.downs:
        entered, output = seen[down.layer]
        expected = torch.zeros(8, HIDDEN)
        if down.experts is None and down.bias() is not None:
            expected += down.bias()
        for inputs in down.inputs(entered, torch.arange(8)):
            expected[inputs.tokens] += inputs.values @ down.matrix(inputs.expert).t()
        torch.testing.assert_close(output.reshape(8, HIDDEN), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_writing_to_the_matrix_writes_to_the_model(name):
    model = tiny_model(name)
    roles = Roles(model)
    down = roles.downs[1]
    expert = 2 if down.experts else None
    down.matrix(expert)[3, 5] = 7.0
    stored = dict(model.named_parameters())[down.path if down.experts else down.path + ".weight"]
    where = (2, 3, 5) if down.experts else (5, 3) if down.parts[0].in_out else (3, 5)
    assert stored[where] == 7.0
    assert (stored == 7.0).sum() == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_its_role(name):
    model = tiny_model(name)
    roles = Roles(model)
    count = Counter(roles.role_of(key, parameter) for key, parameter in model.named_parameters())
    row = roles.row
    assert count["attention"] == LAYERS * len(row.attention)
    assert count["mlp-in"] == LAYERS * len(row.mlp_in)
    assert count["mlp-out"] == LAYERS
    assert count["embedding"] == len(row.embeddings)
    assert count["router"] == (LAYERS if row.experts else 0)
    assert count["head"] == (0 if model.config.get_text_config().tie_word_embeddings else 1)
    for key, parameter in model.named_parameters():
        role = roles.role_of(key, parameter)
        assert (role == "bias") == (key.endswith(".bias") and role != "other")
        assert ("vision" in key or "projector" in key) == (role == "other"), key
        if role == "norm":
            assert parameter.ndim == 1 and ("norm" in key or "ln_" in key)


def test_an_unknown_architecture_is_refused_with_what_a_row_needs():
    with pytest.raises(BadInput, match=r"no row for the architecture 'mamba'.*down-projection and its storage order"):
        row_of("mamba")


def test_a_model_that_is_not_built_as_its_row_says_is_refused():
    model = tiny_model("llama")
    model.config.model_type = "gpt2"
    with pytest.raises(BadInput, match="not built as its row"):
        Roles(model)


def test_a_down_projection_of_another_shape_is_refused():
    model = tiny_model("llama")
    model.config.hidden_size = 48
    with pytest.raises(BadInput, match="the hidden size is 48"):
        Roles(model)
