"""``find --ablate``: a coordinate that someone published is verified exactly as a found one."""

from __future__ import annotations

import dataclasses

import pytest
from PIL import Image

from odd import find, model, refused
from swlottery.config import FindSettings, TrainSettings
from swlottery.data.evaluation import Text
from swlottery.errors import BadInput
from swlottery.find import record as records
from swlottery.find import run as finder
from swlottery.find.controls import controls, largest_others, random_set
from swlottery.find.effects import CRITICAL
from swlottery.models import load as models
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate, check_place
from swlottery.models.loaded import wrap
from tiny import tiny_model

TEXT = Text("sentences", "\n\n".join(f"Sentence {i} of a text that nobody reads twice." for i in range(100)), "0" * 64)
FOUND = FindSettings(null_draws=3, controls=3, eval_tokens=1000)
NOT_FOUND = dataclasses.replace(FOUND, kappa=1e6)
SAME = ("layer", "out", "in", "expert", "module", "value", "rank", "perplexity_ratio", "nll_difference")
SAME += ("nll_difference_interval", "verdict", "tokens_to_decide")


def text_of(coordinate):
    return ",".join(map(str, coordinate[:3]))


@pytest.fixture(scope="module")
def planted(planted_gpt2):
    return models.load(str(planted_gpt2[0]), device="cpu"), planted_gpt2[1]


def test_the_planted_weight_has_the_numbers_that_it_has_when_it_is_found(planted):
    """κ so high that nothing is found; only the spike to put back is another then."""
    loaded, coordinate = planted
    (found,) = finder.examine(loaded, FOUND, TEXT)["super_weights"]
    asked = finder.examine(loaded, dataclasses.replace(NOT_FOUND, ablate=[text_of(coordinate)]), TEXT)
    (ablated,) = asked["ablated"]
    assert asked["super_weights"] == [] and found["nll_difference"] > 0
    assert {name: ablated[name] for name in SAME} == {name: found[name] for name in SAME}
    assert asked["ablated_controls"] == finder.examine(loaded, FOUND, TEXT)["controls"]


def test_what_is_found_too_is_not_verified_twice(planted):
    loaded, coordinate = planted
    other, events = Coordinate(0, 3, 7), []
    settings = dataclasses.replace(FOUND, ablate=[text_of(coordinate), text_of(other), text_of(other)])
    record = finder.examine(loaded, settings, TEXT, observe=events.append)
    without = finder.examine(loaded, FOUND, TEXT)
    rows = [event for event in events if isinstance(event, finder.Ablation)]
    alone = [row.coordinates for row in rows if row.kind == "alone"]
    assert alone == [(coordinate,), (other,)]
    assert [Coordinate.of(weight) for weight in record["ablated"]] == [coordinate, other]
    assert {name: record["ablated"][0][name] for name in SAME} == {
        name: without["super_weights"][0][name] for name in SAME
    }
    assert [Coordinate.of(weight) for weight in records.not_found(record)] == [other]
    assert record["ablated"][1]["verdict"] in ("inert", "weak", "undetermined")
    own = {key: value for key, value in record.items() if not key.startswith("ablated")}
    assert {own["forward_tokens"].pop(f"ablated {what}") > 0 for what in ("verdicts", "description")} == {True}
    assert own == without, "what is found, and its numbers, do not depend on what was asked for"


def test_several_are_tested_together_too(planted, tmp_path):
    loaded, coordinate = planted
    settings = dataclasses.replace(NOT_FOUND, ablate=[text_of(coordinate), "0,3,7"])
    record = finder.examine(loaded, settings, TEXT)
    records.save(record, tmp_path / "record.json")
    (joint,) = records.load(tmp_path / "record.json")["ablated_joint"]
    assert (joint["kind"], joint["members"]) == ("joint", [0, 1])
    assert joint["nll_difference_interval"][1] < CRITICAL and record["ablated_controls"] == [], "too small to need more"


def test_no_control_is_a_weight_that_was_asked_for():
    downs = Roles(tiny_model("gpt2")).downs
    found = [Coordinate(0, 3, 5)]
    for asked in ([controls(downs, found, 4)[0]], largest_others(downs, found), random_set(downs, found, 3)):
        never = set(asked)
        for chosen in (controls(downs, found, 4, never), largest_others(downs, found, never)):
            assert not never & {*chosen} and len(chosen) in (1, 4)
        assert not never & {*random_set(downs, found, 3, never)}


@pytest.mark.parametrize("place", [(3, 0, 0), (0, 32, 0), (0, 0, 128), (0, 0, 0, 0)])
def test_a_coordinate_that_the_model_does_not_have(place, here, tiny_gpt2):
    said = refused(find(tiny_gpt2, "--ablate", ",".join(map(str, place))), f"has no weight {Coordinate(*place)}")
    assert "it has 2 layers of (32, 128)" in said
    assert not list(here.glob("[!t]*")), "nothing is written"


def test_a_mixture_needs_the_expert():
    downs = Roles(tiny_model("mixtral")).downs
    experts = downs[0].experts
    check_place(downs, Coordinate(0, 1, 2, experts - 1), "m")
    for expert in (None, experts):
        with pytest.raises(BadInput, match=rf"each of {experts} experts \(LAYER,OUT,IN,EXPERT\)"):
            check_place(downs, Coordinate(0, 1, 2, expert), "m")


def test_an_expert_is_the_fourth_number(here):
    said = find(model(here / "m", "mixtral"), "--ablate", "0,1,2,1")
    assert said.code == 0 and "(0, 1, 2, expert 1) (not found)" in said.out
    (ablated,) = records.load(here / "super_weights" / "m.json")["ablated"]
    assert Coordinate.of(ablated) == Coordinate(0, 1, 2, 1)


def test_the_log_the_record_and_the_figure_have_it(here, planted_gpt2):
    folder, coordinate = planted_gpt2
    said = find(folder, "--kappa", "1000000", "--ablate", text_of(coordinate), "--ablate", "0,3,7", "--out", "r.json")
    assert said.code == 0, said
    assert "Do those of --ablate matter, which were not found?" in said.out
    assert f"{coordinate} (not found)" in said.out and "ablated description" in said.out
    record = records.load(here / "r.json")
    assert record["ablated"][0]["verdict"] in said.out
    from swlottery.report.figures.forest import forest

    labels = [row.label for row in forest(record)]
    assert labels[:2] == ["Asked for, and not found", f"{coordinate}, {record['ablated'][0]['verdict']}"]
    assert "2 of these together" in labels[3]
    (figure,) = here.glob("plots/*/ablations.png")
    assert Image.open(figure).width > 1000


def test_training_never_takes_it_for_a_super_weight(here, planted_gpt2):
    """A record without a super weight gives its leader, whatever was ablated."""
    from swlottery.lottery.start import network
    from swlottery.watch.tracked import beforehand

    folder, _ = planted_gpt2
    assert find(folder, "--kappa", "1000000", "--ablate", "0,3,7", "--out", "r.json").code == 0
    settings = TrainSettings(model=str(folder), super_weights="r.json", device="cpu")
    (tracked,) = beforehand(network(settings), settings)
    assert tracked.kind == "leader" and tracked.coordinate != Coordinate(0, 3, 7)


def test_from_python_too(planted):
    import swlottery

    loaded, coordinate = planted
    record = swlottery.find(
        loaded.model, loaded.tokenizer, ablate=[tuple(coordinate[:3])], null_draws=3, controls=2, eval_tokens=640
    )
    assert Coordinate.of(record["ablated"][0]) == coordinate
    assert wrap(loaded.model, loaded.tokenizer).weights_sha256 == loaded.weights_sha256
