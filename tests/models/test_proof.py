"""Models without a row: proved where their parts are what their names say, refused where a block does anything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from planted import plant_input, plant_weight, random_probe
from swlottery.errors import BadInput
from swlottery.find.search import search
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from tiny import HIDDEN, VOCABULARY, shrunk_model


class Block(LlamaDecoderLayer):
    """Llama's block in pieces, so that a test can change one of them."""

    memory: dict[str, torch.Tensor]
    layer: int

    def mixed(self, hidden: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self.self_attn(hidden_states=self.input_layernorm(hidden), **kwargs)[0]

    def projected(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.post_attention_layernorm(hidden))

    def kept(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        between = self.kept(hidden_states) + self.mixed(hidden_states, **kwargs)
        return between + self.projected(between)


class ScaledMlp(Block):
    def projected(self, hidden):
        return 1.02 * super().projected(hidden)


class ScaledAttention(Block):
    def mixed(self, hidden, **kwargs):
        return 0.98 * super().mixed(hidden, **kwargs)


class FadingStream(Block):
    def kept(self, hidden):
        return 0.99 * hidden


class ScaledChannels(Block):
    """As Doge has: a gain for each channel of the stream."""

    def kept(self, hidden):
        return hidden * torch.linspace(0.9, 1.1, HIDDEN, device=hidden.device, dtype=hidden.dtype)


class ParallelBranch(Block):
    """A third branch, whose module has a name like no other."""

    def projected(self, hidden):
        return super().projected(hidden) + 0.05 * hidden.roll(1, -1)


class Offset(Block):
    def projected(self, hidden):
        return super().projected(hidden) + 0.01 * (torch.arange(HIDDEN) == 3)


class Remembering(Block):
    """As models that share keys over blocks: later blocks use what the first one left in this pass."""

    def mixed(self, hidden, **kwargs):
        if self.layer == 0:
            self.memory["first"] = hidden
        seen = self.memory.pop("first") if self.layer == 2 and self.memory else torch.zeros_like(hidden)
        return super().mixed(hidden + seen, **kwargs)


class Clipped(Block):
    """The MLP's output is cut before it is added: a weight would be seen as adding more than it does."""

    def projected(self, hidden):
        return super().projected(hidden).clamp(-0.02, 0.02)


def like_llama(block: type[Block] = Block, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny Llama of a model type that has no row, with blocks of this class."""
    model = shrunk_model("llama").to(dtype)
    model.config.model_type = "like-llama"
    memory: dict[str, torch.Tensor] = {}
    for nth, layer in enumerate(model.model.layers):
        layer.__class__, layer.memory, layer.layer = block, memory, nth
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_whose_parts_have_the_usual_names_is_proved(dtype):
    model = like_llama(dtype=dtype).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    roles = Roles(model)
    assert not roles.in_table and roles.row.blocks == "model.layers"
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_it_is_proved_once(monkeypatch):
    model = like_llama()
    Roles(model)
    monkeypatch.setattr(model, "forward", None)
    Roles(model)


def test_a_planted_weight_is_found_in_it():
    model = like_llama()
    roles, probe = Roles(model), random_probe(VOCABULARY)
    plant = plant_input(model, roles, probe, Coordinate(1, 5, 60), 7)
    plant_weight(model, roles, probe, plant, 2.0)
    assert search(model, roles.downs, probe).coordinates == [plant.coordinate]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (ScaledMlp, "what is added of the MLP is not once"),
        (ScaledAttention, "what is added of attention is not once"),
        (FadingStream, "what is added of the stream is not once"),
        (ScaledChannels, "in block 0"),
        (ParallelBranch, "in block 0"),
        (Offset, "in block 0"),
        (Clipped, "in block 0"),
        (Remembering, r"run from block \d on.* predicts something else"),
    ],
)
def test_a_block_that_does_anything_else_is_refused(block, words):
    with pytest.raises(BadInput, match=f"'like-llama' has no row .* not proved: .*{words}"):
        Roles(like_llama(block))


@pytest.mark.parametrize("block", [ScaledMlp, ScaledAttention, ParallelBranch, Clipped])
def test_so_it_is_in_bfloat16(block):
    with pytest.raises(BadInput, match="not proved"):
        Roles(like_llama(block, torch.bfloat16))


def test_what_is_switched_off_after_a_proof_elsewhere_is_proved_anew():
    Roles(like_llama())
    with pytest.raises(BadInput, match="not proved"):
        Roles(like_llama(ScaledMlp))


def test_blocks_that_share_a_matrix_are_refused():
    model = like_llama()
    model.model.layers[2].mlp = model.model.layers[1].mlp
    with pytest.raises(BadInput, match="several blocks have the same down-projection"):
        Roles(model)


def test_a_module_that_is_never_called_is_refused():
    model = like_llama()
    model.model.layers[1].encoder_attn = nn.Linear(4, 4)
    with pytest.raises(BadInput, match="encoder_attn is not called"):
        Roles(model)


def test_experts_that_compute_something_else_are_refused(monkeypatch):
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    once = MixtralExperts.forward
    model = shrunk_model("mixtral")
    model.config.model_type = "like-mixtral"
    assert Roles(model).downs[0].experts == 4
    monkeypatch.setattr(MixtralExperts, "forward", lambda *args, **kwargs: 1.05 * once(*args, **kwargs))
    model = shrunk_model("mixtral")
    model.config.model_type = "like-mixtral"
    with pytest.raises(BadInput, match=r"the output of model.layers.0.mlp.experts.down_proj is not W·x \+ b"):
        Roles(model)


def test_the_gate_of_a_shared_expert_is_seen():
    """Without its gate the shared expert of Qwen2-MoE would give something else."""
    model = shrunk_model("qwen2_moe")
    down = Roles(model).downs[1]
    assert down.parts[1].gate is model.model.layers[1].mlp.shared_expert_gate
    other = shrunk_model("qwen2_moe")
    for layer in other.model.layers:
        layer.mlp.gate_of_shared = layer.mlp.shared_expert_gate
        layer.mlp.__class__ = type("Renamed", (type(layer.mlp),), {"forward": _renamed})
        del layer.mlp.shared_expert_gate
    with pytest.raises(BadInput, match="is not W·x"):
        Roles(other)


def _renamed(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    flat = hidden.view(-1, hidden.shape[-1])
    _, weights, chosen = self.gate(flat)
    shared = torch.sigmoid(self.gate_of_shared(flat)) * self.shared_expert(flat)
    return (self.experts(flat, chosen, weights) + shared).view(hidden.shape)


def test_names_that_are_not_usual_are_refused_with_what_there_is():
    model = like_llama()
    for layer in model.model.layers:
        layer.thinker = layer.mlp
        del layer.mlp
    with pytest.raises(BadInput, match=r"other names than usual: block 0 has no MLP .*thinker"):
        Roles(model)
    with pytest.raises(BadInput, match=r"no row for the architecture 'mamba'"):
        Roles(shrunk_model("mamba"))


@pytest.mark.parametrize("kind", ["granite", "granitemoe", "hyperclovax"])
def test_a_multiplier_has_to_stand_in_the_row(kind):
    """Granite adds what its MLP gives times a number of its config: the row says so, or there is no proof."""
    model = shrunk_model(kind)
    roles = Roles(model)
    assert roles.in_table and roles.downs[0].multiplier == model.config.residual_multiplier == 0.5
    model.config.model_type = "like-granite"
    with pytest.raises(BadInput, match="is not once what it gives: there is a scale"):
        Roles(model)
