"""Batches of prompts and groups of layers: the numbers of one whole pass, without holding all of it at once."""

import weakref
from dataclasses import replace

import pytest
import torch

from planted import plant_input, plant_weight, random_probe
from swlottery.find import forward, null
from swlottery.find.activations import ActivationHooks, AllActivations, activations
from swlottery.find.attribution import leader
from swlottery.find.scan import scan
from swlottery.find.search import search
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from tiny import CONFIGS, LAYERS, VOCABULARY, tiny_model


@pytest.fixture
def in_pieces(monkeypatch):
    """One prompt a batch and one layer a group."""

    def start():
        monkeypatch.setattr(forward, "BATCH_TOKENS", 10)
        monkeypatch.setattr(forward, "budget", lambda model: 1)

    return start


def uneven(prompts=4, length=8):
    """Prompts of different lengths, padded."""
    probe = random_probe(VOCABULARY, prompts, length)
    valid = probe.valid.view(prompts, length).clone()
    for row, shorter in enumerate((2, 0, 5, 1)):
        valid[row, length - shorter :] = False
    return replace(probe, valid=valid.flatten())


def test_batches_hold_every_token_once_and_in_order():
    probe = uneven()
    (whole,) = probe.batches(32)
    assert whole.count == 24 and torch.equal(whole.ids, probe.ids) and torch.equal(whole.valid, probe.valid)
    batches = probe.batches(16)
    shapes = [(batch.first, batch.count, tuple(batch.ids.shape)) for batch in batches]
    assert shapes == [(0, 14, (2, 8)), (14, 10, (2, 7))]
    tokens = torch.cat([batch.ids.flatten()[batch.valid] for batch in batches])
    assert torch.equal(tokens, probe.ids.flatten()[probe.valid])
    assert [batch.count for batch in probe.batches(1)] == [6, 8, 3, 7], "a prompt is never cut"


def test_groups_fit_the_budget():
    assert forward.groups([3, 3, 3, 9, 1], 6) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert forward.groups([0, 0, 0], 1) == [range(3)]


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_give_what_the_whole_gives(name, in_pieces):
    model = tiny_model(name)
    roles = Roles(model)
    probe = uneven()
    plant = plant_input(model, roles, random_probe(VOCABULARY, 4, 8), Coordinate(1, 5, 6), 9)
    roles.downs[1].matrix(plant.coordinate.expert)[5, 6] = 50.0
    whole, seen = activations(model, roles.downs, probe), scan(model, roles.downs, probe, 3.0)
    in_pieces()
    pieces, again = activations(model, roles.downs, probe), scan(model, roles.downs, probe, 3.0)
    for one, other in zip(whole, pieces, strict=True):
        for part in ("output", "added", "stream", "rms"):
            torch.testing.assert_close(getattr(one, part), getattr(other, part), rtol=1e-4, atol=1e-4)
        assert [inputs.expert for inputs in one.inputs] == [inputs.expert for inputs in other.inputs]
        for mine, its in zip(one.inputs, other.inputs, strict=True):
            assert torch.equal(mine.tokens.sort().values, its.tokens.sort().values)
            torch.testing.assert_close(mine.values.abs().sum(), its.values.abs().sum(), rtol=1e-4, atol=1e-5)
    assert any(layer.spikes for layer in seen) or roles.row.post_norm
    for first, second in zip(seen, again, strict=True):
        assert [(s.token, s.out) for s in first.spikes] == [(s.token, s.out) for s in second.spikes]
        assert [s.ratio for s in first.spikes] == pytest.approx([s.ratio for s in second.spikes], rel=1e-3)
        for peak, other in ((first.input, second.input), (first.output, second.output)):
            assert peak.channel == other.channel
            assert peak.value == pytest.approx(other.value, rel=1e-4)
    assert not any("forward" in block.__dict__ or block._forward_hooks for block in roles.blocks)


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "gemma2"])
def test_chosen_tokens_are_those_rows_of_all(name, in_pieces):
    model = tiny_model(name)
    downs = Roles(model).downs
    probe, tokens = uneven(), torch.tensor([3, 15, 16, 23])
    whole = activations(model, downs[1:2], probe)[0]
    for _ in range(2):
        some = activations(model, downs[1:2], probe, tokens)[0]
        torch.testing.assert_close(some.output, whole.output[tokens], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(some.rms, whole.rms[tokens], rtol=1e-5, atol=1e-6)
        given = sorted((inputs.expert or 0, token) for inputs in some.inputs for token in inputs.tokens.tolist())
        every = [(inputs.expert or 0, token) for inputs in whole.inputs for token in inputs.tokens.tolist()]
        assert given == sorted((expert, token) for expert, token in every if token in tokens.tolist())
        in_pieces()


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "gemma2"])
def test_the_finder_in_pieces_finds_the_same(name, in_pieces):
    model = tiny_model(name)
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    plant = plant_input(model, roles, probe, Coordinate(1, 5, 6), 14, size=2000.0)
    plant_weight(model, roles, probe, plant, 3.0)
    found = search(model, roles.downs, probe)
    led, (drawn, _) = looked(model, roles, probe, found)
    in_pieces()
    pieces = search(model, roles.downs, probe)
    again, (redrawn, groups) = looked(model, roles, probe, pieces)
    assert found.coordinates == pieces.coordinates == [plant.coordinate]
    assert (led.contribution.coordinate, led.entry.token) == (again.contribution.coordinate, again.entry.token)
    assert groups == LAYERS
    for kind in null.KINDS:
        assert redrawn[kind] == pytest.approx(drawn[kind], rel=1e-3), "each layer sees the same permutations"
        assert max(drawn[kind]) > 0


def looked(model, roles, probe, found):
    """The leader, and the draws of both nulls as the finder takes them: (ratios by kind, groups)."""
    everything = AllActivations(model, roles.downs, probe)
    led, ratios = leader(now for group in everything for now in group), {}
    shapes = [tuple(matrix.shape) for down in roles.downs for _, matrix in down.matrices()]
    for kind in null.KINDS:
        drawn = [list(null.draws(null.prepare(group, found.coordinates), kind, 7, 3, shapes)) for group in everything]
        ratios[kind] = [max(column) for column in zip(*drawn, strict=True)]
    return led, (ratios, len(everything.stretches))


def test_only_one_group_is_held_and_no_batch_is_larger_than_it_may_be(in_pieces):
    model = tiny_model("llama")
    downs = Roles(model).downs
    in_pieces()
    sizes, held = [], []
    handle = model.model.embed_tokens.register_forward_hook(lambda _, args, output: sizes.append(args[0].numel()))
    for group in AllActivations(model, downs, random_probe(VOCABULARY, 12, 5)):
        assert all(one() is None for one in held)
        held += [weakref.ref(now.output) for now in group]
    handle.remove()
    assert len(held) == LAYERS and set(sizes) == {10}


def test_a_pass_runs_each_block_once_and_none_behind_the_last(in_pieces):
    model = tiny_model("llama")
    roles = Roles(model)
    ran = []
    for nth, block in enumerate(roles.blocks):
        block.self_attn.register_forward_hook(lambda *_, nth=nth: ran.append(nth))
    probe = random_probe(VOCABULARY, 2, 10)
    activations(model, [roles.downs[0]], probe)
    assert ran == [0]
    ran.clear()
    in_pieces()
    scan(model, roles.downs, probe)
    assert ran == [0, 0, 1, 1, 2, 2][: 2 * LAYERS]


def test_the_budget_is_a_part_of_the_weights():
    model = tiny_model("llama")
    assert forward.budget(model) == 64 << 20
    batches = random_probe(VOCABULARY).batches(99)
    assert forward.layer_groups(model, [ActivationHooks(down, batches) for down in Roles(model).downs]) == [
        range(LAYERS)
    ]
