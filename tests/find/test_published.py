"""What others have published: the table, which model is meant, and what becomes of each weight."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from odd import find, model
from swlottery.config import FindSettings
from swlottery.data.evaluation import Text, quick
from swlottery.find import published
from swlottery.find import record as records
from swlottery.find import run as finder
from swlottery.find.activations import Activations
from swlottery.find.events import Planned
from swlottery.find.published import Published, identity, known, table, why, why_missed
from swlottery.find.search import Search, search
from swlottery.models import load as models
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate, scaled
from swlottery.models.down import Inputs
from swlottery.models.loaded import wrap
from swlottery.report.logs.published import sentences
from tiny import tiny_model

pytestmark = pytest.mark.usefixtures("no_figures")

TEXT = Text("sentences", "\n\n".join(f"Sentence {i} of a text that nobody reads twice." for i in range(100)), "0" * 64)
SETTINGS = FindSettings(null_draws=3, controls=3, eval_tokens=1000)
PLANTED, SAME_SPIKE, NO_SPIKE = Coordinate(1, 5, 60), Coordinate(1, 5, 61), Coordinate(0, 3, 7)


def test_the_table():
    assert len(table()) == 14
    assert [one.coordinate for one in table()["meta-llama/Llama-2-7b-hf"]] == [Coordinate(1, 2533, 7890)]
    assert [one.coordinate.out for one in table()["meta-llama/Meta-Llama-3-8B"]] == [788, 1384, 4062]
    controls = {model for model, said in table().items() if any(one.negative for one in said)}
    assert controls == {"openai-community/gpt2", "allenai/OLMo-2-1124-7B"}
    (nothing,) = table()["allenai/OLMo-2-1124-7B"]
    assert nothing.coordinate is None
    assert all(one.source for said in table().values() for one in said)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("allenai/OLMo-1B-0724-hf", ("allenai/OLMo-1B-0724-hf", False)),
        ("ALLENAI/olmo-1b-0724-HF", ("allenai/OLMo-1B-0724-hf", False)),
        ("someone/OLMo-1B-0724-hf", None),
        ("/data/OLMo-1B-0724-hf", ("allenai/OLMo-1B-0724-hf", True)),
        ("./olmo-1b-0724-hf/", ("allenai/OLMo-1B-0724-hf", True)),
        ("/data/OLMo-1B-0724-hf/checkpoint", None),
        ("/data/Qwen2.5-3B.gguf", ("Qwen/Qwen2.5-3B", True)),
        ("/data/qwen2.5-3b-q4_k_m.gguf", ("Qwen/Qwen2.5-3B", True)),
        ("/data/Qwen2.5-3B.BF16.gguf", ("Qwen/Qwen2.5-3B", True)),
        ("/data/Qwen2.5-3B-Instruct.gguf", None),
        ("~/hub/models--Qwen--Qwen2.5-3B/snapshots/0123abcd", ("Qwen/Qwen2.5-3B", True)),
        ("/hub/models--someone--Qwen2.5-3B/snapshots/Qwen2.5-3B", None),
        ("gpt2", ("openai-community/gpt2", True)),
        ("gpt2-medium", None),
        ("smollm2", None),
    ],
)
def test_which_model_is_meant(name, answer):
    assert identity(name) == answer


def test_the_working_folder_has_a_name_too(tmp_path, monkeypatch):
    (tmp_path / "Qwen" / "Qwen2.5-3B").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert identity("Qwen/Qwen2.5-3B") == ("Qwen/Qwen2.5-3B", True), "a folder here wins over the hub"
    monkeypatch.chdir("Qwen/Qwen2.5-3B")
    assert identity(".") == ("Qwen/Qwen2.5-3B", True)


def test_a_name_alone_is_believed_only_where_there_is_room():
    """A network without a place for every published weight is another one; a hub id says what it is."""
    small = Roles(tiny_model("gpt2")).downs
    by_id = FindSettings(model="openai-community/gpt2")
    assert known("openai-community/gpt2", by_id, small) is not None
    assert known("/data/gpt2", FindSettings(model="/data/gpt2"), small) is None
    assert known("openai-community/gpt2", FindSettings(model="a loaded model"), small) is None
    olmo = known("/data/OLMo-2-1124-7B", FindSettings(model="/data/OLMo-2-1124-7B"), small)
    assert olmo is not None and olmo.by_name and olmo.coordinates == []


def say(monkeypatch, *weights, model="lab/planted"):
    """Have these weights be published."""
    said = tuple(Published(weight, "somebody", f"a note on {weight}") for weight in weights)
    monkeypatch.setattr(published, "table", lambda: {model: said})


def test_a_random_network_is_not_the_model_of_its_name(monkeypatch):
    say(monkeypatch, NO_SPIKE, model="lab/gpt2")
    downs = Roles(tiny_model("gpt2")).downs
    assert known("gpt2", FindSettings(model="gpt2"), downs) is not None
    assert known("gpt2", FindSettings(model="gpt2", start="scratch"), downs) is None


@pytest.fixture
def planted(planted_gpt2, here):
    """The planted network by a path that says which model it is."""
    (here / "models--lab--planted").mkdir()
    link = here / "models--lab--planted" / "snapshot"
    os.symlink(planted_gpt2[0], link)
    assert planted_gpt2[1] == PLANTED
    return link


def examined(folder: Path, **changes):
    loaded = models.load(str(folder), device="cpu")
    events = []
    record = finder.examine(loaded, dataclasses.replace(SETTINGS, **changes), TEXT, observe=events.append)
    records.save(record, Path("record.json"))
    return record, events


def test_what_became_of_each(planted, monkeypatch):
    say(monkeypatch, PLANTED, SAME_SPIKE, NO_SPIKE)
    record, events = examined(planted)
    found, same, none = record["published"]
    (weight,) = record["super_weights"]
    assert record["published_model"] == "lab/planted" and record["published_by_name"]
    assert [Coordinate.of(one) for one in record["published"]] == [PLANTED, SAME_SPIKE, NO_SPIKE]
    assert (found["found"], found["removal"], found["verdict"]) == (True, 1, weight["verdict"])
    assert found["why"] is None and found["nll_difference"] == weight["nll_difference"]
    assert found["value"] == weight["value"] and found["note"] == f"a note on {PLANTED}"
    for one in (same, none):
        assert (one["found"], one["removal"], one["verdict"]) == (False, None, None)
    assert same["why"].startswith(f"removal 1, {PLANTED}, makes the spike of its channel (share ")
    assert none["why"].startswith("its channel has no spike: its largest ratio is ")
    planned = [event for event in events if isinstance(event, Planned)]
    compared = [event for event in planned if event.published]
    assert [one.published for one in compared] == ["lab/planted"]
    most = {name: passes * one.tokens for one in planned for name, passes in one.passes.items()}
    assert most.keys() == record["forward_tokens"].keys()
    assert all(tokens <= most[name] + 0.5 for name, tokens in record["forward_tokens"].items())
    assert record["forward_tokens"]["published"] == round(most["published"]), "all documents, from the first block on"
    rows = events[events.index(compared[0]) + 1 :]
    kinds = [(row.kind, row.coordinates) for row in rows if isinstance(row, finder.Ablation)]
    assert kinds == [("alone", (SAME_SPIKE,)), ("alone", (NO_SPIKE,)), ("joint", (PLANTED, SAME_SPIKE, NO_SPIKE))]


def test_the_effects_are_those_of_the_weights_at_zero(planted, monkeypatch):
    say(monkeypatch, PLANTED, NO_SPIKE)
    record, _ = examined(planted)
    loaded = models.load(str(planted), device="cpu")
    windows = quick(TEXT, loaded.tokenizer, SETTINGS.eval_tokens, 128).windows
    windows = windows[:, : record["eval_tokens"] // record["documents"]]

    def loss(*weights):
        with scaled(Roles(loaded.model).downs, weights), torch.no_grad():
            return sum(float(loaded.model(row[None], labels=row[None]).loss) for row in windows) / len(windows)

    intact = loss()
    alone, joint = loss(NO_SPIKE) - intact, loss(PLANTED, NO_SPIKE) - intact
    assert record["published"][1]["nll_difference"] == pytest.approx(alone, abs=2e-6)
    assert record["published_joint"]["nll_difference"] == pytest.approx(joint, abs=2e-6)
    assert abs(joint) > 1e-4 > abs(alone)


def test_nothing_else_changes(planted, monkeypatch):
    say(monkeypatch)
    without, _ = examined(planted)
    assert without["published"] == [] and without["published_joint"] is None
    say(monkeypatch, PLANTED, NO_SPIKE)
    record, _ = examined(planted)
    used, nothing = record["forward_tokens"].pop("published"), without["forward_tokens"].pop("published")
    assert used > nothing == 0
    other = {key: value for key, value in record.items() if not key.startswith("published")}
    assert other == {key: value for key, value in without.items() if not key.startswith("published")}
    say(monkeypatch, PLANTED, model="lab/another")
    assert examined(planted)[0] == other, "of a model of which nothing is published nothing is said"


def test_one_that_was_asked_for_too(planted, monkeypatch):
    say(monkeypatch, NO_SPIKE)
    record, _ = examined(planted, ablate=["0,3,7"])
    (asked,), (weight,) = record["ablated"], record["published"]
    assert not weight["found"] and weight["nll_difference"] == asked["nll_difference"]
    assert weight["nll_difference_interval"] == asked["nll_difference_interval"]


def test_a_spike_below_the_bar(planted, monkeypatch):
    say(monkeypatch, PLANTED)
    ratio = examined(planted)[0]["super_weights"][0]["ratio"]
    record, _ = examined(planted, kappa=ratio / 0.8)
    assert record["super_weights"] == []
    (weight,) = record["published"]
    assert weight["why"] == f"the spike of its channel is below the bar: its largest ratio is {ratio:.1f}, 0.80 of κ"


def test_a_weight_that_the_model_does_not_have(planted_gpt2, monkeypatch, tmp_path):
    """A hub id is believed whatever the shapes: the weight that is not there is named."""
    say(monkeypatch, PLANTED, Coordinate(7, 1, 2))
    loaded = dataclasses.replace(models.load(str(planted_gpt2[0]), device="cpu"), name="lab/planted")
    record = finder.examine(loaded, dataclasses.replace(SETTINGS, model="lab/planted"), TEXT)
    records.save(record, tmp_path / "record.json")
    missing = record["published"][1]
    assert not record["published_by_name"] and missing["why"] == "the model has no such weight"
    assert missing["value"] is None and missing["nll_difference"] is None and record["published_joint"] is None
    assert record["published"][0]["found"]


def test_the_limit_came_before_it(planted_gpt2):
    loaded = models.load(str(planted_gpt2[0]), device="cpu")
    downs, probe = (
        Roles(loaded.model).downs,
        finder.probes.build(loaded.tokenizer, ["Apple Inc. is a worldwide tech"], 512),
    )
    result = search(loaded.model, downs, probe, limit=0)
    assert "--max-weights" in why_missed(loaded.model, downs, probe, result, [PLANTED], 40.0)[PLANTED]


def channel(size: float, stream: float, weights: dict[int, float], rest: float = 1.0) -> tuple[Activations, Coordinate]:
    """A layer with an output of ``size`` in channel 3 at token 2, and the weights that feed that channel."""
    down = Roles(tiny_model("llama")).downs[1]
    output = torch.full((12, 64), 0.1)
    output[2, 3] = size
    after = output + rest
    after[2, 3] = stream
    values = torch.zeros(12, 128)
    values[2] = 1.0
    down.matrix()[3] = 0.0
    for in_, weight in weights.items():
        down.matrix()[3, in_] = weight
    return Activations(down, [Inputs(None, torch.arange(12), values)], output, output, after), Coordinate(1, 3, 9)


@pytest.mark.parametrize(
    ("size", "stream", "weights", "rest", "words"),
    [
        (100.0, 100.0, {}, 50.0, "is 2.0 times the stream's RMS, where ρ = 5 is needed"),
        (100.0, 1.0, {}, 1.0, "the spike of its channel cancels an earlier one (ratio 1000)"),
        (100.0, 100.0, dict.fromkeys(range(9, 109), 1.0), 1.0, "no single weight makes the spike of its channel"),
        (100.0, 100.0, {}, 1.0, "no single weight makes the spike of its channel"),
        (-100.0, -100.0, {9: -100.0}, 1.0, "it makes 100% of its channel's spike"),
    ],
)
def test_why(size, stream, weights, rest, words):
    """ρ is missed; the stream held the opposite; many weights or a bias make it; its own, behind the limit."""
    now, coordinate = channel(size, stream, weights, rest)
    assert words in why(now, coordinate, Search([], []), 40.0)


def test_a_mixture_has_no_weight_without_its_expert(here, monkeypatch):
    say(monkeypatch, NO_SPIKE)
    model(here / "planted", "mixtral")
    said = find("./planted", "--out", "r.json")
    assert said.code == 0 and "published" not in records.load(here / "r.json")


def test_the_log(planted, monkeypatch):
    say(monkeypatch, SAME_SPIKE, NO_SPIKE)
    said = find(planted, "--out", "r.json")
    assert said.code == 0, said
    plan = said.out.index("Do those matter that are published of lab/planted?")
    assert "cost: at most " in said.out[plan:] and "(published)" in said.out[plan:]
    text = " ".join(said.out[said.out.index("What is published of lab/planted") :].split())
    assert "said to be lab/planted by its name" in text
    assert f"{SAME_SPIKE} was not found: removal 1, {PLANTED}, makes the spike" in text
    assert f"{NO_SPIKE} was not found: its channel has no spike" in text and "and idle alone" in text
    assert f"Found and not published: {PLANTED} (" in text
    assert f"Source: somebody; {SAME_SPIKE}: a note on {SAME_SPIKE}; " in text
    assert "all of them together" in text


def test_a_negative_control(here):
    """GPT-2 by its folder in the hub's cache, and a model that has no coordinate at all."""
    cached = here / "models--openai-community--gpt2" / "snapshots"
    model(cached / "0", "gpt2", n_embd=448, n_inner=672)
    said = find(cached / "0", "--out", "r.json")
    assert "A negative control, where no critical weight is expected: none found." in said.out
    assert "value 15.07" in said.out and "(2, 447, 666) was not found" in said.out
    model(here / "OLMo-2-1124-7B", "olmo2")
    said = find("./OLMo-2-1124-7B", "--out", "r.json")
    assert "said to be allenai/OLMo-2-1124-7B by its name" in said.out
    assert "Do those matter" not in said.out and "no massive activations reported" in said.out
    assert "A negative control, where no critical weight is expected: none found." in sentences(
        records.load(Path("r.json"))
    )


def test_a_loaded_model_is_known_by_its_name(planted_gpt2, monkeypatch):
    say(monkeypatch, PLANTED)
    loaded = models.load(str(planted_gpt2[0]), device="cpu")
    mine = wrap(loaded.model, loaded.tokenizer, "lab/planted")
    record = finder.examine(mine, dataclasses.replace(SETTINGS, model="a loaded model"), TEXT)
    assert record["published_by_name"] and record["published"][0]["found"]
