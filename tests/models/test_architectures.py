"""The table of architectures, held against tiny models of every one."""

from collections import Counter
from contextlib import ExitStack

import architectures_page
import pytest
import torch

from planted import plant_input, plant_weight, random_probe
from swlottery.errors import BadInput
from swlottery.find.search import search
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from swlottery.models.proof import prove
from swlottery.models.table import ROWS
from tiny import CONFIGS, HIDDEN, LAYERS, VOCABULARY, shrunk_model, tiny_model

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
    assert {kind for kind, _ in CONFIGS.values()} <= set(ROWS)
    assert {kind for kind, how in architectures_page.listed().items() if how == "row"} == set(ROWS) | {"gpt-sw3"}


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
    assert count["router"] == (LAYERS if roles.downs[0].experts else 0)
    assert count["head"] == (0 if model.config.get_text_config().tie_word_embeddings else 1)
    for key, parameter in model.named_parameters():
        role = roles.role_of(key, parameter)
        assert (role == "bias") == (key.endswith(".bias") and role != "other")
        assert ("vision" in key or "projector" in key) == (role == "other"), key
        if role == "norm":
            assert parameter.ndim == 1 and ("norm" in key or "ln_" in key)


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


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "opt-350m"])
def test_rows_are_proved_too(name):
    """But for OPT-350M: there the stream between attention and MLP is a norm's output."""
    model = tiny_model(name)
    for parameter in model.parameters():
        parameter.copy_(shrunk_like(parameter))
    roles = Roles(model)
    prove(model, roles.row, roles.blocks, roles.downs)


def shrunk_like(parameter):
    """Random values for a parameter: what is left at 0 or 1 proves nothing."""
    noise = torch.randn(parameter.shape)
    return 0.05 * noise if parameter.ndim > 1 else parameter + 0.1 * noise


LISTED = architectures_page.listed()
COVERED = [kind for kind, how in LISTED.items() if how in ("row", "proof")]
ASKED = (
    "olmo", "olmo3", "olmoe", "gemma", "smollm3", "granite", "granitemoe", "mpt", "gpt_bigcode", "codegen", "cohere",
    "cohere2", "glm4", "ministral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "phimoe", "gpt_oss",
    "exaone4", "hunyuan_v1_dense", "ernie4_5", "llama4_text",
)  # fmt: skip
QUICK = (
    "olmo", "olmoe", "mpt", "gpt_bigcode", "codegen", "glm4", "cohere2_moe", "jamba",
    "granitemoe", "qwen2_moe", "deepseek_v3", "phimoe", "gpt_oss", "llama4_text",
)  # fmt: skip


def test_the_page_lists_the_model_types_of_the_release():
    """A new release shows here: python tests/models/architectures_page.py makes the page anew."""
    assert list(LISTED) == architectures_page.kinds()
    assert set(ASKED) <= set(COVERED)


@pytest.mark.slow
def test_the_page_says_what_is_answered():
    assert architectures_page.page() == architectures_page.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in COVERED]
)
def test_a_planted_weight_is_found_in_every_covered_type(kind):
    """Once in what the router chooses, and once in an expert that every token enters, where there is one."""
    parts = planted_is_found(tiny_model(kind), shared=False)
    if parts > 1:
        planted_is_found(tiny_model(kind), shared=True)


def planted_is_found(model, shared):
    """Returns how many down-projections there are side by side: the last of several is the shared expert."""
    roles, probe = Roles(model), random_probe(VOCABULARY)
    plant = plant_input(model, roles, probe, Coordinate(1, 5, 60), 7, shared=shared)
    plant_weight(model, roles, probe, plant, 2.0)
    found = search(model, roles.downs, probe)
    assert found.coordinates == [plant.coordinate]
    assert found.removals[0].found.input == pytest.approx(plant.input, rel=1e-4)
    return len(roles.downs[1].parts)


def test_the_bias_of_an_expert_counts_as_often_as_the_router_says():
    """gpt_oss: every expert has a bias of its own, times the router's weight; the null and the shares know it."""
    from swlottery.find import null
    from swlottery.find.activations import activations

    model = shrunk_model("gpt_oss")
    roles, probe = Roles(model), random_probe(VOCABULARY)
    (now,) = activations(model, [roles.downs[1]], probe)
    (layer,) = null.prepare([now], [])
    total = layer.bias.clone()
    assert total.shape == now.output.shape and float(total.abs().max()) > 0
    for tokens, x, matrix in layer.parts:
        total.index_add_(0, tokens, (x @ matrix.t()).float())
    torch.testing.assert_close(total, now.output, rtol=0, atol=5e-3)  # the null may multiply in bfloat16


def test_a_mixture_may_begin_with_dense_layers():
    """DeepSeek-V3: an expert's number is given only where there are experts, and the shared one has the next."""
    from swlottery.models.coordinates import check_place

    roles = Roles(shrunk_model("deepseek_v3"))
    assert [down.experts for down in roles.downs] == [None, 5, 5]
    dense, routed, shared = Coordinate(0, 1, 127), Coordinate(1, 1, 95, 3), Coordinate(1, 1, 191, 4)
    for place in (dense, routed, shared):
        check_place(roles.downs, place, "m")
    for wrong in (
        dense._replace(expert=0),
        routed._replace(in_=96),
        routed._replace(expert=5),
        shared._replace(in_=192),
    ):
        with pytest.raises(BadInput, match="m has no weight"):
            check_place(roles.downs, wrong, "m")
    assert roles.downs[1].part(4).path == "model.layers.1.mlp.shared_experts.down_proj"
