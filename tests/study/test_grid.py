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
        "seed0-lr1e-3-p20", {**base, "seed": 0, "data_seed": 0, "lr": 1e-3, "prune_rate": "0.2"}
    )
    last = {**base, "seed": 1, "data_seed": 1, "lr": 2e-3, "prune_rate": "0.1"}
    assert found.points[-1] == Point("seed1-lr0.002-p10", last, "seed1-lr0.002-p20")


def test_without_a_grid_there_are_only_arms_and_without_arms_only_a_grid(tmp_path: Path) -> None:
    assert [p.label for p in read(study(tmp_path, "arms: {a: {seed: 1}, b: {seed: 2}}"), tmp_path).points] == ["a", "b"]
    assert [p.label for p in read(study(tmp_path, "grid: {steps: [5, 6]}"), tmp_path).points] == ["steps5", "steps6"]
    assert read(study(tmp_path, "settings: {seed: 3}"), tmp_path).points == [Point("point", {"seed": 3})]
    assert read(study(tmp_path, "settings: {seed: 3}"), tmp_path).name == "rates"


def test_no_label_leads_out_of_the_studys_folder(tmp_path: Path) -> None:
    labels = [p.label for p in read(study(tmp_path, "arms: {'../x': {seed: 1}, '/y z': {seed: 2}}"), tmp_path).points]
    assert labels == ["_x", "_y_z"]


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
        ("arms: {a: {}, b: {seed: 1, from_round_1: a}, c: {seed: 2, from_round_1: b}}", "one step only"),
        ("grid: {seed: [1, 2, 3], data_seed: [1, 2, 3], lr: " + str(list(range(1, 20_000))) + "}", "at most 100,000"),
        ("config: missing.yaml", "cannot read the config"),
    ],
)
def test_bad_studies_are_refused(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=re.escape(complaint)):
        read(study(tmp_path, text), tmp_path)


def test_rewinding_the_rate_and_rewinding_nothing_differ_where_there_is_a_schedule(tmp_path: Path) -> None:
    text = "settings: {lr_schedule: cosine}\narms: {a: {rewind: lr}, b: {rewind: none}}"
    assert len(read(study(tmp_path, text), tmp_path).points) == 2
