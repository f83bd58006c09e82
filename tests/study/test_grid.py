"""Studies: from a small file to its points."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swlottery.errors import BadInput
from swlottery.study.grid import Point, read


def study(folder: Path, text: str) -> Path:
    path = folder / "rates.yaml"
    path.write_text(text)
    return path


WHOLE = """
name: small
config: base.yaml
settings: {threads: 1, steps: 7}
grid:
  seed+data_seed: [0, 1]
  lr: [1e-3, 2.0e-3]
arms:
  p20: {prune_rate: 0.2}
  p10: {prune_rate: 0.1, from_round_1: p20}
"""


def test_a_grid_with_arms_of_which_one_branches(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: gpt2-mini\nstart: scratch\nsteps: 300\n")
    found = read(study(tmp_path, WHOLE), tmp_path)
    assert found.name == "small" and len(found.points) == 8
    base = {"model": "gpt2-mini", "start": "scratch", "steps": 7, "threads": 1}
    assert found.points[0] == Point(
        "seed0-lr1e-3-p20", {**base, "seed": 0, "data_seed": 0, "lr": 1e-3, "prune_rate": "0.2"}, None, "p20"
    )
    last = {**base, "seed": 1, "data_seed": 1, "lr": 2e-3, "prune_rate": "0.1"}
    assert found.points[-1] == Point("seed1-lr0.002-p10", last, "seed1-lr0.002-p20", "p10")


def test_without_a_grid_there_are_only_arms_and_without_arms_only_a_grid(tmp_path: Path) -> None:
    assert [p.label for p in read(study(tmp_path, "arms: {a: {seed: 1}, b: {seed: 2}}"), tmp_path).points] == ["a", "b"]
    assert [p.label for p in read(study(tmp_path, "grid: {steps: [5, 6]}"), tmp_path).points] == ["steps5", "steps6"]
    assert read(study(tmp_path, "settings: {seed: 3}"), tmp_path).points == [Point("point", {"seed": 3})]
    assert read(study(tmp_path, "settings: {seed: 3}"), tmp_path).name == "rates"


def test_no_label_leads_out_of_the_studys_folder(tmp_path: Path) -> None:
    labels = [p.label for p in read(study(tmp_path, "arms: {'../x': {seed: 1}, '/y z': {seed: 2}}"), tmp_path).points]
    assert labels == ["_x", "_y_z"]


def test_a_long_label_is_still_the_name_of_a_folder(tmp_path: Path) -> None:
    first, second = (f"a{'b' * 300}{end}" for end in "cd")
    labels = [
        p.label for p in read(study(tmp_path, f"arms: {{{first}: {{seed: 1}}, {second}: {{}}}}"), tmp_path).points
    ]
    assert len(set(labels)) == 2 and {len(label) for label in labels} == {240}


def test_an_arm_that_takes_up_another_with_an_alias(tmp_path: Path) -> None:
    text = "arms: {a: &a {seed: 1, lr: 1.0}, b: {<<: *a, seed: 2}}"
    assert read(study(tmp_path, text), tmp_path).points[1] == Point("b", {"seed": 2, "lr": 1.0}, None, "b")


def test_the_config_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("steps: 7")
    assert read(study(tmp_path, "config: ~/base.yaml"), tmp_path / "root").points[0].settings == {"steps": 7}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1, 2]", "holds no study"),
        ("a: [", "is not YAML"),
        ("gird: {seed: [1]}", "unknown part gird: did you mean grid?"),
        ("grid: {sead: [1]}", "unknown setting sead: did you mean seed?"),
        ("grid: {seed: 1}", "grid: seed: give a list of values"),
        ("grid: {seed: []}", "grid: seed: give a list of values"),
        ("settings: [1]", "settings: write one 'name: value' a line"),
        ("arms: {a: 3}", "arms: a holds no settings"),
        ("settings: {runs: elsewhere}", "runs is not for a study"),
        ("name: ../up", "is no name of a folder"),
        ("grid: {prune_rate: [0.2, 2]}", "point prune_rate2: --prune-rate 2: a fraction between 0 and 1"),
        ("arms: {a: {seed: 0}, b: {}}", "the points a and b are the same run"),
        ("arms: {a b: {seed: 1}, a_b: {seed: 2}}", "two points are called a_b"),
        ("arms: {a: {rewind: lr}, b: {rewind: none}}", "the points a and b are the same run"),
        ("arms: {a: {from_round_1: a}}", "a branches from itself"),
        ("arms: {a: {}, b: {rounds: 1, from_round_1: a}, c: {rounds: 2, from_round_1: b}}", "one step only"),
        ("arms: {a: {}, b: {seed: 1, from_round_1: a}}", "b branches from a, and has another seed"),
        ("grid: {seed: [1, 2, 3], data_seed: [1, 2, 3], lr: " + str(list(range(1, 20_000))) + "}", "at most 100,000"),
        ("config: missing.yaml", "cannot read the config"),
        ('config: "a\\0b"', "cannot read the config"),
        ("arms: {a: {seed: 1}, b: {seed: 2}, a: {seed: 3}}", "a stands twice"),
        ("arms: {1: {seed: 1}, '1': {seed: 2}}", "1 stands twice"),
        ("arms: {a: {seed: 1, lr: 1, seed: 2}}", "seed stands twice"),
        ("grid: {seed: [1], seed: [2]}", "seed stands twice"),
        ("grid: {seed: [1], seed+data_seed: [2]}", "grid: seed stands twice"),
        ("grid: {seed: [1]}\ngrid: {lr: [2]}", "grid stands twice"),
        ("arms: {a: {tokenizer: builtin}}", "point a: --tokenizer builtin changes nothing"),
        ("name: " + "n" * 201, "is no name of a folder"),
    ],
)
def test_bad_studies_are_refused(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(complaint)):
        read(study(tmp_path, text), tmp_path)


def test_rewinding_the_rate_and_rewinding_nothing_differ_where_there_is_a_schedule(tmp_path: Path) -> None:
    text = "settings: {lr_schedule: cosine}\narms: {a: {rewind: lr}, b: {rewind: none}}"
    assert len(read(study(tmp_path, text), tmp_path).points) == 2


def test_branches_of_different_outside_runs_are_no_twins(tmp_path: Path) -> None:
    text = "arms: {a: {from_round_1: runs/x}, b: {from_round_1: runs/y}}"
    assert [p.parent for p in read(study(tmp_path, text), tmp_path).points] == [None, None]
    with pytest.raises(BadInput, match="the same run"):
        read(study(tmp_path, text.replace("y", "x")), tmp_path)
