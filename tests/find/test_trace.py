"""A weight looked up: by hand, as the search finds it, and of an expert; the steps in checkpoints' names."""

from __future__ import annotations

import pytest
import torch

from planted import plant_input, plant_weight, random_probe
from swlottery.find import trace
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from swlottery.models.down import Inputs
from tiny import VOCABULARY, tiny_model


def test_a_weight_by_hand():
    """At the second token its contribution stands furthest above the medians: −6 of −8, over 3."""
    matrix = torch.tensor([[1.0, 2.0], [0.0, -3.0], [4.0, 2.0]])
    values = torch.tensor([[0.0, 1.0], [0.0, 2.0], [5.0, 0.1]])
    output = torch.tensor([[2.0, -3.0, 2.0], [2.0, -8.0, 2.0], [1.0, -1.0, 9.0]])
    seen = trace.measured(Coordinate(0, 1, 1), matrix, [Inputs(None, torch.arange(3), values)], output)
    # Medians over channels 2, 2, 1; over the channel's tokens 3.
    assert seen == {"value": -3.0, "rank": 2, "ratio": pytest.approx(8 / 3), "share": pytest.approx(6 / 8)}
    nowhere = trace.measured(Coordinate(0, 1, 1), matrix, [], output)
    assert (nowhere["share"], nowhere["rank"]) == (0.0, 2)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral"])
def test_what_is_found_is_looked_up_as_it_was_found(kind):
    """Ratio and share of the first removal, and its cost; a network without the weight has none of it."""
    model = tiny_model(kind)
    roles, probe = Roles(model), random_probe(VOCABULARY)
    plant = plant_input(model, roles, probe, Coordinate(1, 7, 11), token=4)
    plant_weight(model, roles, probe, plant, 2.0)
    with trace.counted(roles.downs) as forward:
        what, weights = trace.found_in(model, roles.downs, probe)
    assert what == "super_weight" and Coordinate.of(weights[0]) == plant.coordinate
    assert probe.ids.numel() * 3 < forward() < probe.ids.numel() * 6
    (seen,) = trace.look_up(model, roles.downs, probe, [plant.coordinate])
    for name in ("value", "ratio", "share"):
        assert seen[name] == pytest.approx(weights[0][name], rel=1e-5)
    assert seen["rank"] == 1
    windows = torch.randint(VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
    windows[:, 3] = probe.ids.flatten()[4]
    (worth,) = trace.effects(model, roles, windows, [plant.coordinate])
    assert worth["low"] <= worth["nll_difference"] <= worth["high"]
    roles.downs[1].matrix(plant.coordinate.expert)[7, 11] = 0
    (gone,) = trace.look_up(model, roles.downs, probe, [plant.coordinate])
    assert gone["value"] == gone["share"] == 0 and gone["ratio"] < 40
    assert trace.found_in(model, roles.downs, probe)[0] == "leader"


def test_which_weights_are_followed():
    """Those found in any, once, in the order of their first; only where there are none the last leader."""
    a, b, c = ({"layer": 1, "expert": None, "out": 2, "in": n} for n in range(3))
    found = trace.followed([("leader", [c]), ("super_weight", [b, a]), ("super_weight", [a]), ("leader", [c])])
    assert found == [Coordinate.of(b), Coordinate.of(a)]
    assert trace.followed([("leader", [a]), ("leader", [b])]) == [Coordinate.of(b)]


@pytest.mark.parametrize(
    ("name", "step", "tokens"),
    [
        ("step1000", 1000, None),
        ("step0", 0, None),
        ("checkpoint-250", 250, None),
        ("checkpoint_7", 7, None),
        ("step1000-tokens4B", 1000, 4_000_000_000),
        ("stage1-step300-tokens1.5B", 300, 1_500_000_000),
        ("Step_12-tokens800M", 12, 800_000_000),
        ("main", None, None),
        ("tokens4Bytes", None, None),
        ("stepping", None, None),
        ("step" + "9" * 30, None, None),
    ],
)
def test_steps_and_tokens_in_names(name, step, tokens):
    assert (trace.step_of(name), trace.tokens_of(name)) == (step, tokens)


def test_a_table_is_read_as_it_was_written(tmp_path):
    place = {"checkpoint": "step1, odd", "step": 1, "tokens": None, "layer": 0, "expert": None, "out": 1, "in": 2}
    seen = {"value": 0.1, "rank": 3, "ratio": 1e-30, "share": -0.5, "found": True}
    row = place | seen | {"nll_difference": None, "low": None, "high": 0.25}
    trace.write(tmp_path / "t.csv", [row, row | {"found": False, "expert": 4, "tokens": 10**12}])
    assert trace.read(tmp_path / "t.csv") == [row, row | {"found": False, "expert": 4, "tokens": 10**12}]
    assert (tmp_path / "t.csv").read_text().splitlines()[0] == ",".join(trace.COLUMNS)
