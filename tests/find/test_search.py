"""The search, against planted super weights in every architecture."""

import pytest
import torch

from planted import medians, plant_input, plant_weight, random_probe
from swlottery.config import KAPPA
from swlottery.find import search as searching
from swlottery.find.activations import activations
from swlottery.find.attribution import leader
from swlottery.find.scan import ScanHooks
from swlottery.find.search import search
from swlottery.find.spikes import RHO, Spike
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate, same_channel, scaled
from swlottery.models.lineage import weights_sha256
from tiny import CONFIGS, HIDDEN, LAYERS, VOCABULARY, tiny_model


def drawn(seed, intermediate):
    """A random coordinate and token."""
    draw = torch.Generator().manual_seed(1000 + seed)
    layer, out, in_, token = (int(torch.randint(n, (1,), generator=draw)) for n in (LAYERS, HIDDEN, intermediate, 30))
    return Coordinate(layer, out, in_), token


def planted(name, seed, strength):
    model = tiny_model(name, seed)
    roles = Roles(model)
    probe = random_probe(VOCABULARY, seed=seed)
    coordinate, token = drawn(seed, roles.downs[0].matrices()[0][1].shape[1])
    plant = plant_input(model, roles, probe, coordinate, token)
    if strength:
        plant_weight(model, roles, probe, plant, strength)
    return model, roles, probe, plant


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CONFIGS)
def test_a_plant_at_twice_the_bound_is_found_where_it_is(name, seed):
    model, roles, probe, plant = planted(name, seed, 2.0)
    before = weights_sha256(model)
    result = search(model, roles.downs, probe)
    assert result.coordinates == [plant.coordinate]
    removal = result.removals[0]
    assert (removal.order, removal.spike.token, removal.spike.out) == (1, plant.token, plant.coordinate.out)
    assert removal.found.input == pytest.approx(plant.input, rel=1e-4)
    assert removal.spike.ratio >= KAPPA and removal.spike.rms_ratio >= RHO
    assert result.after[plant.coordinate.layer].spikes == []
    assert weights_sha256(model) == before


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("strength", [0, 0.5])
def test_a_massive_input_without_an_aligned_weight_is_not_reported(name, strength):
    model, roles, probe, plant = planted(name, 0, strength)
    result = search(model, roles.downs, probe)
    assert abs(result.before[plant.coordinate.layer].input.value) > 20 * abs(
        float(activations(model, [roles.downs[plant.coordinate.layer]], probe)[0].inputs[0].values.abs().median())
    )
    assert result.coordinates == []


@pytest.mark.parametrize("name", CONFIGS)
def test_a_random_model_has_no_super_weight_but_a_leader(name):
    model = tiny_model(name)
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    assert search(model, roles.downs, probe).removals == []
    everything = activations(model, roles.downs, probe)
    led = leader(everything)
    best = max(
        (float((inputs.values[row] * matrix * now.output[token, :, None].sign()).max()), down.layer)
        for down, now in zip(roles.downs, everything, strict=True)
        for inputs in now.inputs
        for matrix in [down.matrix(inputs.expert)]
        for row, token in enumerate(inputs.tokens.tolist())
    )
    assert (led.contribution.amount, led.contribution.coordinate.layer) == (pytest.approx(best[0], rel=1e-5), best[1])


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "olmo2"])
def test_two_weights_that_share_a_spike_are_both_found(name):
    """3 and 2 bars from two inputs: with the first gone the second still stands above the bar."""
    model, roles, probe, plant = planted(name, 1, 2.0)
    other = plant.coordinate._replace(in_=(plant.coordinate.in_ + 7) % 64)
    second = plant_input(model, roles, probe, other, plant.token)
    assert second.coordinate == other
    plant_weight(model, roles, probe, plant, 2.0)
    down = roles.downs[other.layer]
    matrix = down.matrix(other.expert)
    matrix[other.out, other.in_] = 1.5 * matrix[plant.coordinate.out, plant.coordinate.in_] * plant.input / second.input
    result = search(model, roles.downs, probe)
    assert result.coordinates == [other, plant.coordinate]
    assert result.removals[0].found.share == pytest.approx(0.6, abs=0.05)
    assert result.removals[1].found.share == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_input_and_output_maxima_on_different_tokens(name):
    """The argmax of the inputs is another channel at another token; it must not be paired with the output's argmax."""
    model, roles, probe, plant = planted(name, 2, 2.0)
    decoy = plant.coordinate._replace(in_=(plant.coordinate.in_ + 5) % 64)
    token = (plant.token + 11) % 30
    louder = plant_input(model, roles, probe, decoy, token, size=2000.0)
    roles.downs[decoy.layer].matrix()[:, decoy.in_] = 0
    plant_weight(model, roles, probe, plant, 2.0)
    result = search(model, roles.downs, probe)
    scan = result.before[decoy.layer]
    assert abs(louder.input) > abs(plant.input)
    assert (scan.input.channel, scan.output.channel) == (decoy.in_, plant.coordinate.out)
    assert result.coordinates == [plant.coordinate]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_an_opposing_weight_of_larger_magnitude_is_not_mistaken_for_it(name):
    model, roles, probe, plant = planted(name, 0, 2.0)
    opposing = plant.coordinate._replace(in_=(plant.coordinate.in_ + 3) % 64)
    second = plant_input(model, roles, probe, opposing, plant.token, size=25.0)
    plant_weight(model, roles, probe, plant, 4.0)
    matrix = roles.downs[opposing.layer].matrix()
    weight = float(matrix[plant.coordinate.out, plant.coordinate.in_])
    matrix[opposing.out, opposing.in_] = -0.5 * weight * plant.input / second.input  # takes away half of the spike
    assert abs(float(matrix[opposing.out, opposing.in_])) > abs(weight)
    result = search(model, roles.downs, probe)
    assert result.coordinates == [plant.coordinate]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_plants_in_two_layers_on_one_token_are_both_found(name):
    model = tiny_model(name)
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    first = plant_input(model, roles, probe, Coordinate(0, 5, 6), 4)
    plant_weight(model, roles, probe, first, 2.0)
    second = plant_input(model, roles, probe, Coordinate(2, 9, 10), 4)
    plant_weight(model, roles, probe, second, 2.0)
    result = search(model, roles.downs, probe)
    assert result.coordinates == [second.coordinate, first.coordinate], "the last layer is visited first"


def test_a_canceller_is_named_and_not_taken_for_a_super_weight():
    """The later plant takes away three quarters of what the earlier one put into the stream."""
    model = tiny_model("llama")
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    first = plant_input(model, roles, probe, Coordinate(0, 5, 6), 4)
    plant_weight(model, roles, probe, first, 2000.0)
    second = plant_input(model, roles, probe, Coordinate(2, 5, 10), 4)
    roles.downs[2].matrix()[5, 10] = 0
    now = activations(model, [roles.downs[2]], probe)[0]
    roles.downs[2].matrix()[5, 10] = -0.75 * float(now.stream[4, 5]) / second.input
    result = search(model, roles.downs, probe)
    assert result.coordinates == [first.coordinate]
    assert [(spike.layer, spike.out, spike.token) for spike in result.cancellers] == [(2, 5, 4)]


def test_a_canceller_is_not_hidden_by_a_smaller_spike_of_its_channel():
    """A wide scan also sees arriving near misses; one of them in the canceller's channel must not displace it."""
    first = Spike(2, 4, 5, -900.0, 500.0, -900.0, 50.0, 30.0)
    near = Spike(2, 9, 5, 40.0, 25.0, 40.0, 9.0, 41.0)
    batches = random_probe(VOCABULARY).batches(100)
    hooks = ScanHooks(Roles(tiny_model("llama")).downs[2], batches, 20.0)
    hooks.begin(batches[0])
    stream = torch.full((30, HIDDEN), 0.2)
    output = torch.full((30, HIDDEN), 0.1)
    output[4, 5], output[9, 5] = first.value, near.value
    stream[4, 5], stream[9, 5] = first.stream, near.stream
    hooks.measure([[output]], output, output, stream)
    assert {spike.token for spike in hooks.result.spikes} == {4, 9}


def test_a_spike_that_many_weights_or_the_bias_make_has_no_super_weight():
    model, roles, probe, plant = planted("gpt2", 0, 0)
    down = roles.downs[plant.coordinate.layer]
    now = activations(model, [down], probe)[0]
    over_channels, over_tokens = medians(now.output)
    bound = max(KAPPA * max(float(over_channels.max()), float(over_tokens.max())), RHO * float(now.rms.max()))
    x = now.inputs[0].values[plant.token]
    down.matrix()[plant.coordinate.out] = 20 * bound * x.sign() / (len(x) * x.abs().clamp_min(1e-4))
    down.matrix()[plant.coordinate.out, plant.coordinate.in_] = 0
    result = search(model, roles.downs, probe)
    assert result.removals == []


def test_the_limit_is_respected_and_said():
    model = tiny_model("llama")
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    for place in (Coordinate(0, 5, 6), Coordinate(2, 9, 10)):
        plant_weight(model, roles, probe, plant_input(model, roles, probe, place, 4), 2.0)
    result = search(model, roles.downs, probe, limit=1)
    assert len(result.removals) == 1 and not result.complete


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_weights_are_bit_identical_after_an_interruption_in_mid_removal(monkeypatch, error):
    model, roles, probe, plant = planted("gpt2", 0, 2.0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:  # the first look is before the removal, the second after it
            assert roles.downs[plant.coordinate.layer].matrix()[plant.coordinate.out, plant.coordinate.in_] == 0
            raise error
        return activations(*args)

    monkeypatch.setattr(searching, "activations", interrupted)
    with pytest.raises(error):
        search(model, roles.downs, probe)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_scaled_restores_negative_zero_and_repeated_coordinates():
    model = tiny_model("llama")
    downs = Roles(model).downs
    matrix = downs[0].matrix()
    matrix[1, 2] = -0.0
    with scaled(downs, [Coordinate(0, 3, 4), Coordinate(0, 3, 4), Coordinate(0, 1, 2)]):
        assert matrix[3, 4] == 0
    assert matrix[3, 4] != 0
    assert torch.signbit(matrix[1, 2])


def test_weights_of_several_matrices_are_scaled_together_and_restored():
    downs = Roles(tiny_model("mixtral")).downs
    one, other = Coordinate(0, 3, 4, 1), Coordinate(1, 2, 5, 0)
    matrix, elsewhere = downs[0].matrix(1), downs[1].matrix(0)
    before, there = matrix.clone(), elsewhere.clone()
    row = same_channel(downs, one)
    assert [place.in_ for place in row] == list(range(matrix.shape[1]))
    with scaled(downs, [*row, other], 0.5):
        assert torch.equal(matrix[3], before[3] / 2)
        assert elsewhere[2, 5] == there[2, 5] / 2
        changed = int((matrix != before).sum()), int((elsewhere != there).sum())
    assert changed == (matrix.shape[1], 1)
    assert torch.equal(matrix, before)
    assert torch.equal(elsewhere, there)


def test_the_search_is_deterministic():
    first, second = (search(m, r.downs, p) for m, r, p, _ in (planted("gpt2", 3, 2.0), planted("gpt2", 3, 2.0)))
    assert first == second
