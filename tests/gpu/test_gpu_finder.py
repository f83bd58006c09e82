"""The finder on a GPU that is none finds, draws and verifies what it does on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from fake_gpu import NAME
from swlottery.cli import main
from swlottery.find import null, verify
from swlottery.find import record as records
from swlottery.find.ablation import Evaluator
from swlottery.find.coordinates import Coordinate
from swlottery.find.planted import plant_input, plant_weight, random_probe
from swlottery.find.search import leader, search
from swlottery.find.spikes import KAPPA, activations
from swlottery.lineage import weights_sha256
from swlottery.roles import Roles
from tiny import VOCABULARY, tiny_model


def test_the_command_writes_the_record_of_the_cpu(planted_gpt2, found_record, gpu, tmp_path):
    """Search, nulls, verification, record and figures, of a network with a super weight."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))
    arguments = ["--model", str(planted_gpt2[0]), "--out", str(tmp_path / "record.json"), "--plots", str(tmp_path / "plots"),
                 "--eval-text", str(text), "--eval-tokens", "2000", "--controls", "4", "--null-draws", "19"]  # fmt: skip
    assert main(["find", *arguments]) == 0
    mine, other = records.load(tmp_path / "record.json"), records.load(found_record)
    assert mine["device"] == f"{NAME}:0" and mine["weights_sha256"] == other["weights_sha256"]
    assert len(mine["super_weights"]) == len(other["super_weights"]) == 1
    for weight, plain in zip(mine["super_weights"], other["super_weights"], strict=True):
        for name in ("layer", "out", "in", "rank", "token", "verdict", "removal"):
            assert weight[name] == plain[name], name
        for name in ("value", "spike", "ratio", "share", "nll_difference"):
            assert weight[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-6), name
    assert mine["baseline_nll"] == pytest.approx(other["baseline_nll"], rel=1e-5)
    assert mine["controls"][0]["coordinates"] == other["controls"][0]["coordinates"]
    for one, plain in zip(mine["nulls"], other["nulls"], strict=True):
        assert (one["draws"], one["p_value"]) == (plain["draws"], plain["p_value"])


def planted(name: str) -> tuple[Any, Any, Coordinate]:
    """A tiny model with one super weight, made on the CPU, and what was planted."""
    model = tiny_model(name, 1)
    probe = random_probe(VOCABULARY, seed=1)
    plant = plant_input(model, Roles(model), probe, Coordinate(1, 5, 60), 7)
    plant_weight(model, Roles(model), probe, plant, 2.0)
    return model, probe, plant.coordinate


# With experts; with a norm behind the MLP; that overwrites its activations; with biases and norms elsewhere.
@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma2", "falcon", "opt-350m"])
def test_every_part_gives_what_it_gives_on_the_cpu(name, gpu):
    model, probe, coordinate = planted(name)
    windows = torch.randint(1, VOCABULARY, (30, 12), generator=torch.Generator().manual_seed(0))
    found = {}
    for device in ("cpu", NAME):
        model.to(device)
        here = dataclasses.replace(probe, ids=probe.ids.to(device), valid=probe.valid.to(device))
        roles = Roles(model)
        before = weights_sha256(model)
        result = search(model, roles.downs, here)
        assert result.coordinates == [coordinate]
        everything = activations(model, roles.downs, here)
        led = leader(roles.downs, everything)
        draws = [next(null.draws(roles.downs, everything, result.coordinates, kind, 1)) for kind in null.KINDS]
        evaluator = Evaluator(model, roles, windows, [1])
        losses = [evaluator.baseline, evaluator.nll([coordinate]), evaluator.nll([coordinate], (coordinate, KAPPA))]
        controls = verify.controls(roles.downs, [coordinate], 3)
        others = verify.largest_others(roles.downs, [coordinate])
        assert weights_sha256(model) == before
        found[device] = (led.contribution.coordinate, controls, others), np.stack(losses), draws
    assert found[NAME][0] == found["cpu"][0]
    np.testing.assert_allclose(found[NAME][1], found["cpu"][1], rtol=1e-4)
    assert found[NAME][2] == pytest.approx(found["cpu"][2], rel=0.05), "the matrices may be in bfloat16"


def test_in_bfloat16(gpu):
    """As it is stored: the nulls, the medians and the losses all work in it."""
    model, probe, coordinate = planted("llama")
    model.to(NAME, torch.bfloat16)
    here = dataclasses.replace(probe, ids=probe.ids.to(NAME), valid=probe.valid.to(NAME))
    roles = Roles(model)
    assert search(model, roles.downs, here).coordinates == [coordinate]
    everything = activations(model, roles.downs, here)
    assert next(null.draws(roles.downs, everything, [coordinate], "entries", 1)) >= 0
    windows = torch.randint(1, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
    assert np.isfinite(Evaluator(model, roles, windows, [1]).nll([coordinate])).all()
