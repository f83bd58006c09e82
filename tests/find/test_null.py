"""The nulls: what is permuted, what is kept, and the p-value by hand."""

import json
from pathlib import Path

import pytest
import torch

import odd
from planted import plant_input, plant_weight, random_probe
from swlottery.config import KAPPA
from swlottery.find import null, run
from swlottery.find.activations import activations
from swlottery.find.search import search
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from tiny import VOCABULARY, tiny_model

pytestmark = pytest.mark.usefixtures("no_figures")


def test_p_value_and_firing_by_hand():
    one = null.Null("entries", (1.0, 2.0, 3.0, 50.0))
    assert one.p_value(50.0) == 2 / 5
    assert one.p_value(51.0) == 1 / 5
    assert one.p_value(0.5) == 1.0
    rate, low, high = one.firing(40.0)
    assert rate == 0.25 and low == pytest.approx(0.0063, abs=1e-4) and high == pytest.approx(0.8059, abs=1e-4)
    assert null.Null("rows", (1.0,) * 400).firing(40.0)[2] == pytest.approx(1 - 0.025 ** (1 / 400))


@pytest.mark.parametrize("kind", null.KINDS)
def test_a_permuted_product_is_one_of_a_permuted_matrix(kind):
    """Only entries move, and for `rows` only within their row."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 7)
    permutation = torch.randperm(35 if kind == "entries" else 7, generator=generator)
    (product,) = null.permuted_products(torch.eye(7), matrix, kind, permutation)
    got = product.t()
    assert not torch.equal(got, matrix)
    assert torch.equal(got.flatten().sort().values, matrix.flatten().sort().values)
    same_rows = torch.equal(got.sort(dim=1).values, matrix.sort(dim=1).values)
    assert same_rows == (kind == "rows")


def test_the_largest_ratio_by_hand():
    """Entry (1, 2) is 100 where both medians are 1; entry (0, 0) is larger but the stream there is larger still."""
    output = torch.ones(3, 5)
    output[1, 2], output[0, 0] = 100.0, 500.0
    assert null.largest_ratio(output, output, torch.tensor([200.0, 10.0, 10.0])) == 100.0
    assert null.largest_ratio(output, output, torch.tensor([200.0, 30.0, 10.0])) == 0.0


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "gemma2"])
def test_a_plant_stands_far_above_its_null_and_is_taken_out_of_it(name):
    model = tiny_model(name)
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    plant = plant_input(model, roles, probe, Coordinate(1, 5, 6), 4)
    plant_weight(model, roles, probe, plant, 10.0)
    found = search(model, roles.downs, probe)
    assert found.coordinates == [plant.coordinate]
    prepared = null.prepare(activations(model, roles.downs, probe), found.coordinates)
    for kind in null.KINDS:
        drawn = null.Null(kind, tuple(null.draws(prepared, kind, 39)))
        assert max(drawn.largest) < KAPPA
        assert drawn.p_value(found.removals[0].spike.ratio) == 1 / 40
        # Left in, the planted weight lands somewhere in every draw; taken out, it does not.
        rest = null._without(roles.downs[1], plant.coordinate.expert, found.coordinates, torch.float32)
        assert rest[5, 6] == 0
        assert roles.downs[1].matrix(plant.coordinate.expert)[5, 6] != 0


def test_draws_depend_on_the_seed_and_on_nothing_else():
    model = tiny_model("llama")
    roles = Roles(model)
    probe = random_probe(VOCABULARY)
    plant_input(model, roles, probe, Coordinate(1, 5, 6), 4, size=2000.0)
    prepared = null.prepare(activations(model, roles.downs, probe), [])
    first, again, other = (list(null.draws(prepared, "entries", 5, seed)) for seed in (1, 1, 2))
    assert first == again != other and max(first) > 0


@pytest.mark.parametrize(("fast", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_draws_are_made_in_what_the_hardware_is_fast_at(fast, precision, monkeypatch):
    model = tiny_model("gpt2")
    downs = Roles(model).downs
    monkeypatch.setattr(null.hardware, "bfloat16", lambda device: (fast, ""))
    layers = null.prepare(activations(model, downs, random_probe(VOCABULARY)), [Coordinate(0, 1, 2)])
    assert {tensor.dtype for layer in layers for _, x, matrix in layer.parts for tensor in (x, matrix)} == {precision}
    assert layers[0].parts[0][2][1, 2] == 0 != downs[0].matrix()[1, 2]


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_layer_by_layer_the_draws_are_the_same(tmp_path, monkeypatch, kind):
    """Where there is room for the copies of one layer's matrices alone: GPT-2's are stored in the other order."""
    monkeypatch.chdir(tmp_path)
    odd.model(Path(kind), kind)
    odd.find(kind, "--out", "together.json", "--plots", "plots")
    prepared = []
    monkeypatch.setattr(run, "budget", lambda network: 1)
    monkeypatch.setattr(null, "copied", lambda down: 1)
    prepare = null.prepare
    monkeypatch.setattr(null, "prepare", lambda layers, found: prepared.append(len(layers)) or prepare(layers, found))
    odd.find(kind, "--out", "apart.json", "--plots", "plots")
    assert prepared == [1] * 6, "three layers, two nulls"
    together, apart = (json.loads(Path(name).read_text()) for name in ("together.json", "apart.json"))
    assert together == apart
