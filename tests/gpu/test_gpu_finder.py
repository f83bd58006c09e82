"""The finder on a GPU that is none finds, draws and verifies what it does on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from fake_gpu import NAME
from planted import plant_input, plant_weight, random_probe
from swlottery.cli import main
from swlottery.config import FindSettings
from swlottery.data.evaluation import Documents, Text
from swlottery.find import record as records
from swlottery.find import run as finder
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from swlottery.models.lineage import weights_sha256
from swlottery.models.loaded import Loaded
from tiny import VOCABULARY, tiny_model


def test_the_command_writes_the_record_of_the_cpu(planted_gpt2, found_record, gpu, tmp_path):
    """Search, nulls, verification, record and figures, of a network with a super weight."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))
    record = tmp_path / "record.json"
    places = ["--model", str(planted_gpt2[0]), "--out", str(record), "--plots", str(tmp_path / "plots")]
    lengths = ["--eval-text", str(text), "--eval-tokens", "2000", "--controls", "4", "--null-draws", "19"]
    assert main(["find", *places, *lengths]) == 0
    mine, other = records.load(record), records.load(found_record)
    assert mine["device"] == f"{NAME}:0" and mine["weights_sha256"] == other["weights_sha256"]
    assert len(mine["super_weights"]) == len(other["super_weights"]) == 1
    for weight, plain in zip(mine["super_weights"], other["super_weights"], strict=True):
        for name in ("layer", "out", "in", "rank", "token", "verdict", "removal"):
            assert weight[name] == plain[name], name
        for name in ("value", "spike", "ratio", "share", "nll_difference"):
            assert weight[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-6), name
    assert mine["baseline_nll"] == pytest.approx(other["baseline_nll"], rel=1e-5)
    assert [one["coordinates"] for one in mine["controls"]] == [one["coordinates"] for one in other["controls"]]
    for one, plain in zip(mine["nulls"], other["nulls"], strict=True):
        assert (one["draws"], one["p_value"]) == (plain["draws"], plain["p_value"])


def planted(name: str) -> tuple[Any, Any, Coordinate]:
    """A tiny model with one super weight, made on the CPU, and what was planted."""
    model = tiny_model(name, 1)
    probe = random_probe(VOCABULARY, seed=1)
    plant = plant_input(model, Roles(model), probe, Coordinate(1, 5, 60), 7)
    plant_weight(model, Roles(model), probe, plant, 2.0)
    return model, probe, plant.coordinate


def words() -> Any:
    """A tokenizer of the words ``<0>``, ``<1>``, … that `random_probe` writes."""
    inner = Tokenizer(WordLevel({f"<{token}>": token for token in range(VOCABULARY)}, unk_token="<0>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<0>")


def found(model: Any, probe: Any, windows: torch.Tensor) -> tuple[Any, dict[Any, Any], list[float]]:
    """All that the finder does with a model where it is: the last event, the ablations, what the nulls drew.

    The weights stay as they are.
    """
    device = str(next(model.parameters()).device)
    here = dataclasses.replace(probe, ids=probe.ids.to(device), valid=probe.valid.to(device))
    before = weights_sha256(model)
    loaded = Loaded(model, words(), "tiny", "tiny", None, before, "float32", "float32", device)
    settings = FindSettings(null_draws=2, controls=3)
    events: list[finder.Event] = []
    prepared = finder.Prepared(here, Text("text", "nothing", "0" * 64), Documents(windows, 1, 1))
    finder.find(loaded, prepared, settings, events.append)
    (tested,) = (event for event in events if isinstance(event, finder.Tested))
    assert weights_sha256(model) == before
    rows = {(one.kind, one.coordinates): one for one in events if isinstance(one, finder.Ablation)}
    assert np.isfinite([row.difference for row in rows.values()]).all()
    finished = events[-1]
    assert isinstance(finished, finder.Finished)
    return finished, rows, [ratio for one in tested.nulls for ratio in one.largest]


# With experts; with a norm behind the MLP; that overwrites its activations; with biases and norms elsewhere.
@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma2", "falcon", "opt-350m"])
def test_every_part_gives_what_it_gives_on_the_cpu(name, gpu):
    """Search, leader, nulls, and each kind of ablation."""
    model, probe, coordinate = planted(name)
    windows = torch.randint(1, VOCABULARY, (30, 12), generator=torch.Generator().manual_seed(0))
    plain, plain_rows, plain_draws = found(model, probe, windows)
    mine, rows, draws = found(model.to(NAME), probe, windows)
    (weight,), (other,) = mine.record["super_weights"], plain.record["super_weights"]
    for one in (weight, other):
        assert Coordinate.of(one) == coordinate
    assert mine.record["leader"]["in"] == plain.record["leader"]["in"]
    assert list(rows) == list(plain_rows)
    for row, same in zip(rows.values(), plain_rows.values(), strict=True):
        np.testing.assert_allclose(row.documents, same.documents, rtol=1e-3, atol=2e-5)
    assert draws == pytest.approx(plain_draws, rel=0.05), "the matrices may be in bfloat16"


def test_in_bfloat16(gpu):
    """As it is stored: the nulls, the medians and the losses all work in it."""
    model, probe, coordinate = planted("llama")
    model.to(NAME, torch.bfloat16)
    windows = torch.randint(1, VOCABULARY, (30, 12), generator=torch.Generator().manual_seed(0))
    finished, _, draws = found(model, probe, windows)
    assert [Coordinate.of(one) for one in finished.record["super_weights"]] == [coordinate]
    assert len(draws) == 4
