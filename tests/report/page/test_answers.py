"""The answers of a report, on studies whose answers are known: `swlottery.report.page`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from made_facts import CONTROLS, OWN, Rows, kept, masks, run, settings, study, table, two_rates, weights
from swlottery.report.page import chance, found
from swlottery.report.page.arms import name_of, without_folders
from swlottery.report.page.questions import answers

# --- arms


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "20 % × 5"),
        ({"prune_rate": "0.1", "rounds": 10}, "10 % × 10"),
        ({"criterion": "random", "rounds": 3}, "20 % × 3, random"),
        ({"init": "xavier"}, "20 % × 5, xavier"),
        ({"rewind": "none"}, "20 % × 5, rewind none"),
        ({"rewind_step": 5}, "20 % × 5, rewind to step 5"),
        ({"force_prune": "sw"}, "20 % × 5, force-prune sw"),
        ({"one_shot": True}, "one shot of 20 % × 5"),
        ({"schedule": "0.4,0.1", "rounds": 2}, "schedule 0.4,0.1"),
    ],
)
def test_an_arm_is_named_from_its_own_settings(changed: dict[str, Any], name: str) -> None:
    assert name_of(settings(**changed)) == name


def test_trainings_that_differ_are_never_pooled_and_doubles_count_once() -> None:
    rows: Rows = {}
    run(rows, "a", 1)
    run(rows, "a-again", 1)
    run(rows, "b", 2)
    run(rows, "longer", 3)
    rows["runs"][3]["settings"] = rows["runs"][3]["settings"].replace('"steps": 100', '"steps": 300')
    found = study(rows)
    assert [(arm.setup, arm.runs) for arm in found.arms] == [
        ("gpt2-mini, T 100", ("a", "a-again", "b")),
        ("gpt2-mini, T 300", ("longer",)),
    ]
    assert found.arms[0].networks == ("a", "b")
    assert found.arms[1].title == "20 % × 5 (T 300)"


@pytest.mark.parametrize(
    ("changed", "titles"),
    [
        ([{}], ["20 % × 5"]),
        ([{}, {"steps": 300}], ["20 % × 5 (T 100)", "20 % × 5 (T 300)"]),
        ([{}, {"model": "llama-mini"}], ["20 % × 5 (gpt2-mini)", "20 % × 5 (llama-mini)"]),
        ([{}, {}, {"lr": "0.01"}], ["20 % × 5", "20 % × 5 (rate 0.01)"]),
        (
            [{}, {"model": "/a/t"}, {"model": "/b/u", "steps": 3}],
            [f"20 % × 5 ({m})" for m in ("gpt2-mini, T 100", "t, T 100", "u, T 3")],
        ),
    ],
)
def test_an_arms_title_holds_what_tells_set_ups_apart_and_no_more(
    changed: list[dict[str, Any]], titles: list[str]
) -> None:
    rows: Rows = {}
    for network, one in enumerate(changed):
        run(rows, f"s{network}", network, **one)
    assert [arm.title for arm in study(rows).arms] == titles


def test_a_set_up_is_called_by_the_last_part_of_a_path() -> None:
    a, b = "/one folder/here/tiny, T 5", "/there/tiny, T 6, data /texts/a"
    assert without_folders([a, b, "org/name"]) == {a: "tiny, T 5", b: "tiny, T 6, data a", "org/name": "org/name"}
    same = ["/one/tiny, T 5", "/other/tiny, T 5"]
    assert without_folders(same) == {one: one for one in same}, "two models of one name"


def test_a_twin_arm_of_the_same_rate_is_no_rate_of_its_own() -> None:
    rows: Rows = {}
    run(rows, "a", 1)
    run(rows, "short", 1, rounds=1)
    run(rows, "fine", 1, rounds=10, prune_rate="0.1")
    assert [arm.name for arm in study(rows).rates[0]] == ["20 % × 5", "10 % × 10"]


# --- b


def test_the_fall_of_a_weight_by_hand() -> None:
    rows: Rows = {}
    run(rows, "a", 1)
    masks(rows, "a", 0.2, 5)
    weights(
        rows,
        "a",
        1,
        {"percentile_remaining": 75.0},
        [{"percentile_remaining": 90.0}, {"percentile_remaining": 10.0, "alive": False}],
    )
    weights(
        rows, "a", 2, {"percentile_remaining": 50.0}, [{"percentile_remaining": 80.0}, {"percentile_remaining": None}]
    )
    made = study(rows)
    assert made.pruning_point("a", 1) == (0.25, {CONTROLS[0]: pytest.approx(0.1), CONTROLS[1]: pytest.approx(0.9)})
    own, controls = made.pruning_point("a", 2)
    assert own == pytest.approx(0.4) and controls[CONTROLS[0]] == pytest.approx(0.16)
    assert controls[CONTROLS[1]] == pytest.approx(0.9), "it fell in round 1, and keeps its place"
    assert made.pruning_point("a", 3) == (None, {}), "it has not come so far"


# --- a


def coordinates(same: bool, networks: int = 10) -> Rows:
    """1,000 coordinates of which 500 are kept: in each network others, or in all the same."""
    rows: Rows = {}
    random = np.random.default_rng(0)
    for network in range(networks):
        run(rows, f"s{network}", network, rounds=1)
        masks(rows, f"s{network}", 0.2, 1)
        chosen = np.zeros(1000, dtype=bool)
        chosen[np.arange(500) if same else random.choice(1000, 500, replace=False)] = True
        rows.setdefault("fixed", []).append(
            {
                "run": f"s{network}",
                "round": 1,
                "matrix": "m",
                "drawn": 1000,
                "kept": 500,
                "size": 10_000,
                "matrix_kept": 5000,
                "bits": np.packbits(chosen).tobytes().hex(),
            }
        )
    return rows


def test_coordinates_that_are_kept_again_and_again_break_the_symmetry() -> None:
    section = chance.drawn(study(coordinates(same=True)))
    assert section is not None
    (row,) = table(section, "chance")
    assert (
        row["dispersion"] == pytest.approx(10, rel=0.05)
        and row["p"] < 0.01
        and row["kept"] == 5000
        and row["expected"] == 5000
    )
    assert section.verdict == "yes" and section.networks == 10
    assert section.number.startswith(f"dispersion {row['dispersion']:.2f} [")
    assert row["chance, low"] < 1 < row["chance, high"] < row["dispersion"]


def test_coordinates_kept_by_chance_do_not() -> None:
    section = chance.drawn(study(coordinates(same=False)))
    assert section is not None
    (row,) = table(section, "chance")
    assert 0.9 < row["dispersion"] < 1.1 and row["p"] > 0.01
    assert section.verdict == "no" and f"{row['dispersion']:.2f} at 20 % × 1" in section.sentence
    few = chance.drawn(study(coordinates(same=False, networks=2)))
    assert few is not None and few.verdict == "too few networks to tell" and few.number == ""


def test_coordinates_kept_too_evenly_are_not_kept_again_and_again() -> None:
    rows = coordinates(same=False, networks=2)
    run(rows, "s2", 2, rounds=1)
    run(rows, "s3", 3, rounds=1)
    for at, row in enumerate(list(rows["fixed"])):  # each network beside its mirror image
        mirrored = bytes(255 - one for one in bytes.fromhex(row["bits"])).hex()
        rows["fixed"].append({**row, "run": f"s{at + 2}", "bits": mirrored})
    for name in ("s2", "s3"):
        masks(rows, name, 0.2, 1)
    section = chance.drawn(study(rows))
    assert section is not None
    (row,) = table(section, "chance")
    assert row["dispersion"] == 0 and row["p"] < 0.01
    assert section.verdict == "yes" and "dispersion 0.00 [0, 0]" in section.number


def test_weights_of_other_networks_are_looked_up_each_once() -> None:
    rows = coordinates(same=False, networks=4)
    for network in range(4):
        for other in range(4):
            if other != network:
                rows.setdefault("elsewhere", []).append(
                    {
                        "run": f"s{network}",
                        "round": 1,
                        "weight": OWN,
                        "of": f"s{other}",
                        "alive": other == network - 1,
                        "matrix_keep_rate": 0.5,
                    }
                )
    section = chance.elsewhere(study(rows))
    assert section is not None
    (row,) = table(section, "elsewhere_by_arm")
    assert (row["networks"], row["kept"], row["expected"]) == (4, 3, 2.0)
    assert row["p"] == pytest.approx(2 * 5 / 16)
    assert "was kept 3 of 4 times at 20 % × 1" in section.sentence and "2.0 (p = 0.62)" in section.sentence
    assert section.verdict == "too few networks to tell", "even four of four would have had p = 0.125"
    assert section.number == "kept 0.75 [0.19, 0.99], chance 0.50"


def test_the_coordinate_of_the_first_runs_is_told_of() -> None:
    rows: Rows = {}
    for network in range(6):
        run(rows, f"s{network}", network, rounds=2)
        masks(rows, f"s{network}", 0.2, 2)
        kept(rows, f"s{network}", 1, 0.8, True, kind="foreign", weight="(2, 447, 666)")
        kept(rows, f"s{network}", 2, 0.64, network < 3, kind="foreign", weight="(2, 447, 666)")
    assert chance.drawn(study(rows)) is None and chance.elsewhere(study(rows)) is None
    section = chance.foreign(study(rows))
    assert section is not None and (section.networks, section.verdict) == (6, "no")
    assert "3 of 6 times at 20 % × 2, (2, 447, 666)" in section.sentence and "3.0 (p = 1)" in section.sentence


# --- c, d, e, f, g


def test_twins() -> None:
    rows: Rows = {}
    for network in range(10):
        run(rows, f"s{network}", network)
        rows.setdefault("twins", []).append(
            {
                "run": f"s{network}",
                "other": f"t{network}",
                "weight": OWN,
                "found_again": network < 8,
                "percentile": 99.0,
                "rank": 19,
                "controls": 19,
                "kept": True,
                "matrix_keep_rate": 0.7,
            }
        )
    section = found.twins(study(rows))
    assert section is not None and section.verdict == "yes"
    assert section.number == "8 of 10 twins agree [0.44, 0.97]" and section.networks == 10
    assert "percentile 99.00 to 99.00 of its matrix" in section.sentence
    assert "mean rank 1.00 (p < 0.0001) among its controls" in section.sentence
    for agree, verdict in ((7, "too few networks to tell"), (0, "no")):
        for network, row in enumerate(rows["twins"]):
            row["found_again"] = network < agree
        section = found.twins(study(rows))
        assert section is not None and section.verdict == verdict


def test_what_the_initialisation_tells_of_the_kept() -> None:
    rows = two_rates(0.0, 3)
    rows["predicted"] = [
        {"run": row["run"], "round": row["round"], "auc_initial": 0.6 + 0.01 * row["round"], "auc_trained": 0.9}
        for row in rows["rounds"]
        if row["round"]
    ]
    section = found.prediction(study(rows))
    assert section is not None
    assert "0.650 at 20 % × 5 (32.8 % remaining) and 0.700 at 10 % × 10 (34.9 % remaining)" in section.sentence
    assert section.number == "20 % × 5: AUC 0.650; 10 % × 10: AUC 0.700", "three networks give no interval …"
    assert section.verdict == "too few networks to tell" and section.networks == 3


def test_a_prediction_near_to_chance_is_said_to_be_small() -> None:
    rows = two_rates(0.0, 8)
    rows["predicted"] = [
        {"run": row["run"], "round": row["round"], "auc_initial": 0.51 + 0.001 * (n % 3), "auc_trained": 0.9}
        for n, row in enumerate(rows["rounds"])
        if row["round"]
    ]
    section = found.prediction(study(rows))
    assert section is not None and section.verdict == "yes, within the margin"


def test_weights_that_are_found_again_move_or_are_lost() -> None:
    """One network finds its weight in one of two later rounds; one has another in both; in one there is neither."""
    rows: Rows = {}
    fates = (("kept", "moved"), ("moved", "moved"), ("lost", "lost"))
    for network, later in enumerate(fates):
        run(rows, f"s{network}", network, rounds=2)
        masks(rows, f"s{network}", 0.2, 2)
        weights(rows, f"s{network}", 1, {}, [])
        for round_, fate in enumerate(later, start=2):
            rows.setdefault("found", []).append(
                {
                    "run": f"s{network}",
                    "round": round_,
                    "kind": "super_weight" if network else "leader",
                    "weights": "(0, 9, 9); (0, 9, 8)" if round_ == 3 or network < 2 else "(0, 1, 1)",
                    **dict.fromkeys(("kept", "moved", "lost"), ""),
                    fate: OWN,
                }
            )
    section = found.again(study(rows))
    assert section is not None
    assert [(row["round"], row["kept"], row["moved"], row["lost"]) for row in table(section, "again")] == [
        (2, 1, 1, 1),
        (3, 0, 2, 1),
    ]
    seen = [(row["with a super weight"], row["one of the round before"]) for row in table(section, "again")]
    assert seen == [(2, 0), (2, 1)], "in round 3 one of them is where it was; two leaders are no super weight"
    assert [row["share"] for row in table(section, "again_shares")] == [0.5, 0.0, 0.0]
    assert "in 1 of 6 later rounds at 20 % × 2" in section.sentence and section.number == "0.17"
    assert section.verdict == "too few networks to tell"


def test_nothing_at_all_still_gives_sections() -> None:
    rows: Rows = {}
    run(rows, "begun", 1, state="running")
    rows["runs"].append({"run": "broken", "state": "damaged", "message": "KeyError: 'steps'"})
    sections = answers(study(rows))
    assert [section.name for section in sections] == ["runs", "anchors", "first_runs"]
    assert sections[0].verdict == "1 run in 1 arm, 0 finished"
    assert "Not readable, and left out: broken." in sections[0].sentence
    assert {row["run"]: row["state"] for row in table(sections[0], "unfinished")} == {
        "begun": "running",
        "broken": "damaged",
    }


def test_tables_of_a_whole_report_have_names_of_their_own() -> None:
    from swlottery.report.page.rows import COLUMNS

    rows = two_rates(0.2, 4)
    for row in coordinates(same=False, networks=1)["fixed"]:
        rows.setdefault("fixed", []).extend({**row, "run": f"p20-{n}"} for n in range(4))
    sections = answers(study(rows))
    names = ["runs", "super_weights", "plan_survival", "anchors", "survival", "contrast"]
    assert [section.name for section in sections[:6]] == names
    assert sections[-1].name == "first_runs" and "a coordinate of another network" in sections[-1].verdict
    names = [one.name for section in sections for one in section.tables]
    assert {"perplexity_differences", "perplexity_points"} < set(names)
    assert len(set(names)) == len(names) and not set(names) & set(COLUMNS)
    pictures = [one.name for section in sections for one in section.pictures]
    assert len(set(pictures)) == len(pictures) and "magnitude" in pictures
    remaining = [
        row["remaining, %"]
        for row in table(next(s for s in sections if s.name == "perplexity"), "perplexity")
        if row["arm"] == "20 % × 5"
    ]
    assert all(a > b for a, b in pairwise(remaining))


def test_a_table_has_the_same_columns_in_every_row() -> None:
    from swlottery.report.page.answer import Table

    with pytest.raises(ValueError, match="the rows of t do not have the same columns"):
        Table("t", "", [{"a": 1, "b": 2}, {"a": 1}])
