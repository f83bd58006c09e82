"""The answers of a report, on studies whose answers are known: `swlottery.report.page`."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from made_facts import CONTROLS, OWN, Rows, kept, masks, run, settings, study, weights
from swlottery.report.page import chance, cost, critical, found, growth, matrices, rate, rewinding, size, survival
from swlottery.report.page import gradient as gradient_of
from swlottery.report.page.arms import name_of, without_folders
from swlottery.report.page.questions import answers
from swlottery.study.statistics import power


def table(section: Any, name: str) -> list[dict[str, Any]]:
    return next(list(one.rows) for one in section.tables if one.name == name)


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
    assert list(found.units(found.arms[0]).values()) == ["a", "b"]
    assert found.title(found.arms[1]) == "20 % × 5 (gpt2-mini, T 300)"


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


def ranked(above: bool, networks: int = 10) -> Rows:
    """Networks in which the followed weight is above all controls, or in their middle, after round 2."""
    rows: Rows = {}
    for network in range(networks):
        run(rows, f"s{network}", network)
        masks(rows, f"s{network}", 0.2, 5)
        kept(rows, f"s{network}", 1, 0.8, True)
        for round_ in (1, 2):
            own = 3.0 if above else 2.0 + 0.001 * network
            weights(
                rows,
                f"s{network}",
                round_,
                {"over_threshold": own, "value": 2.0},
                [{"over_threshold": 1.1 + 0.1 * n, "value": 1.1 + 0.1 * n} for n in range(19)],
            )
    return rows


def test_a_weight_above_its_controls_everywhere_is_more_than_its_size() -> None:
    section = size.answer(study(ranked(above=True)))
    assert section is not None
    (row,) = table(section, "size")
    assert row["mean rank"] == 1.0 and math.isclose(row["p"], 2 / 20**10) and row["networks"] == 10
    assert section.verdict == "yes" and section.networks == 10
    assert section.number == f"shift of log|w| {row['shift']:+.3f} {row['95 % interval']}" and row["shift"] > 0
    assert "20 % × 5: mean rank 1.00, p < 0.0001 by Holm" in section.sentence
    (inside,) = table(section, "size_sensitivity")
    assert inside["networks"] == 10 and inside["mean rank"] == 1.0, "by |θ_T1| it is in the middle"


def test_controls_matched_at_initialisation_are_another_comparison() -> None:
    rows = ranked(above=True)
    rows["initial"] = [
        {"run": f"s{n}", "round": 2, "weight": at, "of": OWN, "over_threshold": 9.0}
        for n in range(10)
        for at in CONTROLS
    ]
    section = size.answer(study(rows))
    assert section is not None
    found = {row["only or against"]: row for row in table(section, "size_sensitivity")}
    assert (
        found["controls matched on |θ_0|"]["mean rank"] == 0.0 and found["controls matched on |θ_0|"]["networks"] == 10
    )


def test_rates_are_one_family_in_each_set_up() -> None:
    rows = ranked(above=True, networks=3)
    for row in list(rows["runs"]):
        rows["runs"].append(
            {**row, "run": "long-" + row["run"], "settings": row["settings"].replace('"steps": 100', '"steps": 300')}
        )
    for name in ("weights", "kept", "rounds"):
        rows[name] += [{**row, "run": "long-" + row["run"]} for row in rows[name]]
    section = size.answer(study(rows))
    assert section is not None and [row["p (Holm)"] == row["p"] for row in table(section, "size")] == [True, True]


def test_a_weight_in_the_middle_of_its_controls_is_an_ordinary_one_where_the_power_suffices() -> None:
    section = size.answer(study(ranked(above=False)))
    assert section is not None and section.verdict == "no"
    (row,) = table(section, "size")
    assert row["power at 1 sd, %"] == 100 * power(10, 1.0) > 80
    assert f"power {row['power at 1 sd, %']:.0f} %" in section.sentence
    few = size.answer(study(ranked(above=False, networks=5)))
    assert few is not None and few.verdict == "too few networks to tell" and few.networks == 5


def test_one_network_gives_no_answer() -> None:
    section = size.answer(study(ranked(above=True, networks=1)))
    assert section is not None and section.verdict == "too few networks to tell"
    assert (section.networks, section.number, section.sentence) == (1, "", "")


def test_a_weight_that_prune_1_took_is_left_out_and_counted() -> None:
    rows = ranked(above=True, networks=3)
    for row in rows["weights"]:
        if row["run"] == "s0" and row["kind"] == "leader" and row["round"] == 2:
            row |= {"over_threshold": 0.0, "alive": False}
    rows["kept"][0]["alive"] = False
    section = size.answer(study(rows))
    assert section is not None
    (row,) = table(section, "size")
    assert (row["networks"], row["left out"]) == (2, 1)


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
    assert made.fall("a", 1) == (0.25, {CONTROLS[0]: pytest.approx(0.1), CONTROLS[1]: pytest.approx(0.9)})
    own, controls = made.fall("a", 2)
    assert own == pytest.approx(0.4) and controls[CONTROLS[0]] == pytest.approx(0.16)
    assert controls[CONTROLS[1]] == pytest.approx(0.9), "it fell in round 1, and keeps its place"
    assert made.fall("a", 3) == (None, {}), "it has not come so far"


def two_rates(shift: float, networks: int = 10, bracketed: bool = False) -> Rows:
    """Pairs of runs at 20 % and at 10 %, in which only the followed weight falls later at 10 %, by ``shift`` in log q; bracketed: after
    round 1 it stands in the middle of its controls."""
    rows: Rows = {}
    random = np.random.default_rng(1)
    for network in range(networks):
        for name, part, prunes in (("p20", 0.2, 5), ("p10", 0.1, 10)):
            label = f"{name}-{network}"
            run(rows, label, network, prune_rate=str(part), rounds=prunes)
            masks(rows, label, part, prunes)
            kept(rows, label, 1, 1 - part, True)
            for round_ in range(1, prunes + 2):
                left = (1 - part) ** (round_ - 1)
                own = 0.1 * math.exp(-shift if name == "p10" else 0)

                def at(q: float, value: float = 1.0, left: float = left) -> dict[str, Any]:
                    return {"percentile_remaining": 100 * (1 - q / left), "value": value}

                weights(
                    rows,
                    label,
                    round_,
                    at(own * math.exp(0.02 * random.normal())),
                    [at(0.1 * math.exp(0.1 * random.normal()), 0.5 + n % 2 if bracketed else 1.0) for n in range(19)],
                )
    return rows


def test_a_difference_between_the_rates_is_found_at_matched_masks() -> None:
    section = rate.answer(study(two_rates(0.5, bracketed=True)))
    assert section is not None
    rows = table(section, "contrast")
    assert [row["masks"] for row in rows] == ["1 ~ 2", "2 ~ 4", "5 ~ 10"]
    assert all(row["p (Holm)"] < 1e-3 and row["networks"] == 10 and 0.35 < row["shift of d"] < 0.65 for row in rows)
    assert section.verdict == "yes" and section.number.startswith("shift of d +0.") and section.networks == 10
    assert "20 % × 5 against 10 % × 10: mean rank" in section.sentence and "p < 0.0001 by Holm" in section.sentence
    other = rate.answer(study(two_rates(-0.5, bracketed=True)))
    assert other is not None and other.verdict == "yes" and other.number.startswith("shift of d -0.")


def test_the_rate_matters_if_one_of_its_differences_is_borne_out() -> None:
    """As docs/study.md has it: one contrast with the same sign in the bracketed networks is enough."""
    rows = [
        {"p (Holm)": 0.01, "their mean rank": rank, "mean rank of d": 0.9, "shift of d": shift, "within ½ sd": False, "networks": 10}
        for rank, shift in ((0.8, 0.5), (0.2, 0.5))
    ]  # fmt: skip
    assert rate._verdict(rows) == "yes" and rate._verdict(rows[1:]) == "too few networks to tell"


def test_a_difference_that_no_bracketed_network_can_bear_out_is_not_the_rates() -> None:
    section = rate.answer(study(two_rates(0.5)))
    assert section is not None and section.verdict == "too few networks to tell"
    assert {row["bracketed networks"] for row in table(section, "contrast")} == {0}


def test_no_difference_between_the_rates_is_not_claimed() -> None:
    section = rate.answer(study(two_rates(0.0, 40)))
    assert section is not None and section.verdict == "no" and section.networks == 40
    assert all(row["within ½ sd"] and row["p (Holm)"] > 0.05 for row in table(section, "contrast"))
    few = rate.answer(study(two_rates(0.0, 2)))
    assert few is not None and few.verdict == "too few networks to tell" and few.networks == 2
    assert table(few, "contrast")[0]["power at 1 sd, %"] == 100 * power(2, 1.0, level=0.05 / 3), "Holm's first of three"
    assert "power 11 %" in few.sentence
    one = rate.answer(study(two_rates(0.0, 1)))
    assert one is not None and (one.verdict, one.number) == ("too few networks to tell", "")


def test_a_difference_that_bracketed_networks_contradict_is_not_the_rates() -> None:
    rows = two_rates(0.5, 12)
    for row in rows["weights"]:
        network = int(row["run"].partition("-")[2])
        if row["round"] == 1 and network < 3:  # three networks where the weight stands in the middle …
            row["value"] = 1.0 if row["kind"] == "leader" else 0.5 + (CONTROLS.index(row["weight"]) >= 9)
        elif row["round"] == 1:  # … and others where it stands above all controls
            row["value"] = 2.0 if row["kind"] == "leader" else 1.0
        elif network < 3 and row["kind"] == "leader" and row["run"].startswith("p20"):  # and the effect is the opposite
            row["percentile_remaining"] = 100 - (100 - row["percentile_remaining"]) * math.exp(-1.5)
    section = rate.answer(study(rows))
    assert section is not None
    first = table(section, "contrast")[0]
    assert (
        first["bracketed networks"] == 3
        and first["their mean rank"] < 0.5 < first["mean rank of d"]
        and first["p (Holm)"] < 0.05
    )
    assert section.verdict == "too few networks to tell"


def test_losses_at_equal_remaining_weights_by_hand() -> None:
    """A loss of 5 + mask/10: 20 % leaves after m prunes what 10 % leaves after 2.118 m, of which it makes ten; beyond, nothing is said."""
    section = cost.answer(study(two_rates(0.0, 3)))
    assert section is not None
    points = table(section, "perplexity_points")
    assert len(points) == 12 and {row["run"] for row in points} == {"p20-0", "p20-1", "p20-2"}
    found = [row["difference"] for row in table(section, "perplexity_differences")]
    prunes = math.log(0.8) / math.log(0.9)
    assert found == pytest.approx([m / 10 * (1 - prunes) for m in range(1, 5)])
    assert [row["difference"] for row in points] == pytest.approx([d for d in found for _ in range(3)])
    assert [row["remaining, %"] for row in table(section, "perplexity_differences")] == pytest.approx(
        [80, 64, 51.2, 40.96]
    )
    assert section.verdict == "perplexity rises" and section.networks == 3
    assert section.number.startswith("20 % × 5: 244.7 [244.7, 244.7]; 10 % × 10: ")
    assert "from 148.4 to 244.7 at 20 % × 5" in section.sentence and "41.0 % remaining" in section.sentence
    assert section.sentence.endswith(f" is {found[-1]:+.4f} nat.") and "∞" not in section.sentence
    enough = cost.answer(study(two_rates(0.0, 6)))
    assert enough is not None and enough.sentence.endswith("] nat.")
    (axes,) = section.pictures[0].figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == 3 * (6 + 11), "one a run and mask"


def test_pairs_that_are_not_finished_and_weights_that_prune_1_took_are_left_out() -> None:
    rows = two_rates(0.5, 6)
    next(row for row in rows["runs"] if row["run"] == "p10-0")["state"] = "running"
    next(row for row in rows["kept"] if row["run"] == "p20-1")["alive"] = False
    section = rate.answer(study(rows))
    assert section is not None
    assert {(row["networks"], row["left out"]) for row in table(section, "contrast")} == {(4, 1)}


def stood(controls: int, lost: int = 0, networks: int = 8) -> Rows:
    rows: Rows = {}
    for network in range(networks):
        run(rows, f"s{network}", network, rounds=2)
        masks(rows, f"s{network}", 0.2, 2)
        weights(rows, f"s{network}", 1, {}, [{}])
        kept(rows, f"s{network}", 1, 0.8, True)
        kept(rows, f"s{network}", 2, 0.64, network >= lost, controls=controls)
    return rows


def test_where_nothing_was_lost_survival_tells_nothing() -> None:
    section = survival.answer(study(stood(controls=19)))
    assert section is not None and section.networks == 8
    assert (section.verdict, section.number) == ("8 of 8 kept to the end", "100 % [63.1, 100]")
    assert "Of the leaders, pruning kept 8 of 8 at 20 % × 2" in section.sentence
    assert "64.00 % remain, of their matrices 50.0 %, of their controls 100.0 %; p = 1 by Holm" in section.sentence


def test_survival_against_the_controls() -> None:
    section = survival.answer(study(stood(controls=4)))
    assert section is not None
    (test,) = table(section, "survival_tests")
    assert (
        test["kept"] == 8 and test["expected"] == pytest.approx(8 * 5 / 20) and test["p"] == pytest.approx(2 * 0.25**8)
    )
    assert section.verdict == "8 of 8 kept to the end, more often than controls" and "p < 0.0001" in section.sentence
    first, second = table(section, "survival")
    assert (first["remaining, %"], second["remaining, %"], second["controls kept, %"]) == (
        80.0,
        64.0,
        pytest.approx(100 * 4 / 19),
    )


def test_what_is_lost_at_random_or_still_goes_is_not_told_of_the_rates() -> None:
    rows = stood(controls=19, networks=3)
    run(rows, "random", 1, rounds=2, criterion="random")
    run(rows, "going", 9, rounds=2, state="running")
    for name in ("random", "going"):
        masks(rows, name, 0.2, 2)
        weights(rows, name, 1, {}, [{}])
        kept(rows, name, 1, 0.8, False)
    section = survival.answer(study(rows))
    assert section is not None and (section.verdict, section.networks) == ("3 of 3 kept to the end", 3)
    assert {row["arm"] for row in table(section, "survival")} == {"20 % × 2", "20 % × 2, random"}


def test_where_nothing_was_lost_at_two_rates_survival_does_not_tell_them_apart() -> None:
    section = survival.answer(study(two_rates(0.0, 3)))
    assert section is not None and "survival cannot tell one rate from another" in section.sentence


def test_a_run_that_lost_one_of_two_super_weights_has_lost_one() -> None:
    rows: Rows = {}
    run(rows, "a", 1, rounds=1)
    masks(rows, "a", 0.2, 1)
    weights(rows, "a", 1, {}, [{}], kind="super_weight")
    kept(rows, "a", 1, 0.8, True, kind="super_weight")
    kept(rows, "a", 1, 0.8, False, kind="super_weight", weight="(0, 1, 1)")
    section = survival.answer(study(rows))
    assert section is not None and section.verdict == "1 of 2 kept to the end" and section.networks == 1
    assert section.number == "50 %" and "Of the super weights, pruning kept 1 of 2 at 20 % × 1" in section.sentence


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
        rows.setdefault("fixed", []).append({"run": f"s{network}", "round": 1, "matrix": "m", "drawn": 1000, "kept": 500, "size": 10_000, "matrix_kept": 5000,
                                             "bits": np.packbits(chosen).tobytes().hex()})  # fmt: skip
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
    assert section.number == f"kept 0.75 {row['95 % interval of the kept fraction']}, chance 0.50"


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


@pytest.mark.parametrize(
    ("factor", "verdict", "times"),
    [(0.5, "they shrink", "0.25"), (2.0, "they grow", "4.00"), (1.001, "they keep their size", "1.00")],
)
def test_the_growth_of_survivors_by_hand(factor: float, verdict: str, times: str) -> None:
    """Tracked weights change by a factor a round, controls by three, whatever their signs; one is pruned in round 2."""
    rows: Rows = {}
    for network in range(7):
        run(rows, f"s{network}", network, rounds=2)
        masks(rows, f"s{network}", 0.2, 2)
        for round_ in (1, 2, 3):
            value = 0.0 if network == 6 and round_ == 3 else (-1) ** network * factor ** (round_ - 1)
            controls = [{"value": -(3.0 ** (round_ - 1))} for _ in range(19)] if round_ < 3 else [{"value": None}] * 19
            weights(rows, f"s{network}", round_, {"value": value}, controls)
    section = growth.answer(study(rows))
    assert section is not None and (section.verdict, section.networks) == (verdict, 6)
    assert section.number.startswith(f"{times} times [")
    assert f"{section.number} its size after round 1 at 20 % × 2 (64.0 % remaining;" in section.sentence
    assert f"{factor:.2f} times [" in section.sentence, "from round 2 on"
    second, third = table(section, "sizes")
    assert (second["networks"], second["followed, times"], second["controls, times"]) == (
        7,
        pytest.approx(factor),
        pytest.approx(3.0),
    )
    assert (third["networks"], third["followed, times"], third["controls, times"]) == (
        6,
        pytest.approx(factor**2),
        None,
    )
    assert third["remaining, %"] == pytest.approx(64.0), "the mask that it was trained under"


@pytest.mark.parametrize(
    ("gradient", "update", "networks", "verdict"),
    [
        (0.5, 0.5, 10, "yes"),
        (0.5, 1.0, 10, "too few networks to tell"),
        (0.5, 1.0, 14, "no"),
        (2.0, 0.5, 10, "no"),
        (1.0, 1.0, 10, "too few networks to tell"),
    ],
)
def test_less_gradient_needs_a_smaller_update_too(gradient: float, update: float, networks: int, verdict: str) -> None:
    rows: Rows = {}
    random = np.random.default_rng(2)
    for network in range(networks):
        for name, part in (("p20", 0.2), ("p10", 0.1)):
            run(rows, f"{name}-{network}", network, prune_rate=str(part))
            masks(rows, f"{name}-{network}", part, 5)
            own = {"gradient": gradient, "update": update} if name == "p10" else {"gradient": 1.0, "update": 1.0}
            noise = [
                {column: float(np.exp(0.05 * random.normal())) for column in ("gradient", "update")} for _ in range(19)
            ]
            weights(rows, f"{name}-{network}", 2, own, noise)
    section = gradient_of.answer(study(rows))
    assert section is not None and (section.verdict, section.networks) == (verdict, networks)
    assert re.match(
        r"\|gradient\|, 10 % × 5 over 20 % × 5: shift of log ratio .*; \|update\|, 10 % × 5", section.number
    )
    assert re.search(r"the ratios of the controls are (0\.9|1\.0)\d and (0\.9|1\.0)\d\.$", section.sentence)
    (row, _) = table(section, "gradient_contrast")
    assert row["log ratio"] == pytest.approx(math.log(gradient)) and abs(row["controls, log ratio"]) < 0.02
    assert len(table(section, "gradient_points")) == 2 * networks * 3


def test_a_super_weight_near_to_pruning_and_tickets_without_it() -> None:
    rows: Rows = {}
    for seed in (1, 2):
        for name, changed in (
            ("alone", {}),
            ("pruned", {"force_prune": "sw"}),
            ("controls", {"force_prune": "controls"}),
        ):
            run(rows, f"{name}{seed}", 1, rounds=1, **{"seed": 0, "data_seed": seed} | changed)
            losses = {"alone": (4.0, 6.0), "pruned": (4.5, 8.0), "controls": (4.1, 6.1)}[name]
            masks(rows, f"{name}{seed}", 0.2, 1, *losses)
        weights(rows, f"alone{seed}", 1, {"percentile_remaining": 60.0}, [], kind="super_weight")
        for round_, weight in ((1, OWN), (2, "(0, 9, 9)")):
            rows.setdefault("found", []).append({
                "run": f"pruned{seed}", "round": round_, "kind": "super_weight" if seed == 1 else "leader", "weights": weight, "kept": "", "moved": "", "lost": OWN,
            })  # fmt: skip
    section = critical.answer(study(rows))
    assert section is not None
    assert section.verdict == "1 of 1 pruned below 67.23 % sparsity; not replaced by training"
    assert section.number == "60.00 % sparsity; +0.400 nat" and section.networks == 1
    assert {row["weight"] for row in table(section, "critical")} == {OWN}
    assert {row["weights in scope larger than it then"] for row in table(section, "critical")} == {400_000}
    assert "cost 2.00 nat, of which training recovers 75 %" in section.sentence
    assert "the final ticket is +0.400 nat" in section.sentence and "(2 runs)" in section.sentence
    assert "super weights in 1 of 2 final tickets without them, 1 of these new" in section.sentence
    assert [(row["run"], row["found"]) for row in table(section, "found_last")] == [
        ("pruned1", "(0, 9, 9)"),
        ("pruned2", "(0, 9, 9)"),
    ]
    assert {row["run"] for row in table(section, "without")} == {"pruned1", "pruned2"}
    (axes,) = section.pictures[1].figure.axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_marker() != "."] == pytest.approx([4.0, 4.5, 4.1])
    assert [row["gap to controls"] for row in table(section, "without")] == [pytest.approx(0.4)] * 4


def test_super_weights_that_no_arm_prunes_first() -> None:
    rows: Rows = {}
    run(rows, "a", 1, rounds=1)
    masks(rows, "a", 0.2, 1)
    weights(rows, "a", 1, {"percentile_remaining": 99.0}, [], kind="super_weight")
    section = critical.answer(study(rows))
    assert section is not None and section.verdict == "0 of 1 pruned below 67.23 % sparsity"
    assert section.number == "99.00 % sparsity" and [one.name for one in section.tables] == ["critical"]


def what_is_left(**shares: dict[str, Any]) -> Rows:
    """Three networks an arm, of which each of three prunes at 20 % leaves a share of c_proj; the followed weight is kept."""
    rows: Rows = {}
    for network in range(3):
        for name, arm in shares.items():
            label, share = f"{name}{network}", arm["share"]
            run(rows, label, network, **{key: value for key, value in arm.items() if key != "share"})
            masks(rows, label, 0.2, 3)
            weights(rows, label, 1, {}, [])
            for prune in (1, 2, 3):
                kept(rows, label, prune, 0.8**prune, True)
                rows.setdefault("fixed", []).append({
                    "run": label, "round": prune, "matrix": "m", "drawn": 0, "kept": 0, "size": 100_000, "matrix_kept": round(100_000 * share**prune), "bits": "",
                })  # fmt: skip
    return rows


def test_random_pruning_and_the_matrices() -> None:
    section = matrices.answer(study(what_is_left(r={"share": 0.8, "criterion": "random"}, g={"share": 0.6})))
    assert section is not None and section.number == "51.2 % [51.2, 51.2]" and section.networks == 3
    assert section.verdict == "20 % × 5, random keeps most, in every network"
    assert section.sentence.startswith(
        "With 51.2 % of all weights remaining, c_proj keeps 51.2 % [51.2, 51.2] under 20 %"
    )
    assert section.sentence.endswith("and 21.6 % [21.6, 21.6] under 20 % × 5 (tracked weight kept in 3 of 3).")


@pytest.mark.parametrize(
    ("xavier", "layer", "order"),
    [
        (0.9, 0.8, [", xavier", ", layer-magnitude", ""]),
        (0.7, 0.8, [", layer-magnitude", ", xavier", ""]),
        (0.5, 0.8, [", layer-magnitude", "", ", xavier"]),
    ],
)
def test_whether_only_xavier_keeps_c_proj(xavier: float, layer: float, order: list[str]) -> None:
    made = what_is_left(
        x={"share": xavier, "init": "xavier"},
        plain={"share": 0.6},
        layer={"share": layer, "criterion": "layer-magnitude"},
        rewound={"share": 0.99, "rewind": "none"},
    )
    section = matrices.answer(study(made))
    assert section is not None and section.verdict == f"20 % × 5{order[0]} keeps most, in every network"
    places = [section.sentence.index(f"under 20 % × 5{arm} (tracked weight kept in 3 of 3)") for arm in order]
    assert places == sorted(places) and "rewind" not in section.sentence, "one arm of each initialisation and criterion"


def test_one_initialisation_and_criterion_are_not_compared() -> None:
    section = matrices.answer(study(what_is_left(plain={"share": 0.6}, rewound={"share": 0.99, "rewind": "none"})))
    assert section is not None and section.verdict.startswith("nothing to compare") and section.sentence == ""
    assert len(table(section, "matrices")) == 6


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


def test_weights_that_are_found_again_move_or_are_lost() -> None:
    """Of three networks one finds its weight again in one of two later rounds; another leads in one; and in one there is neither."""
    rows: Rows = {}
    fates = (("kept", "moved"), ("moved", "moved"), ("lost", "lost"))
    for network, later in enumerate(fates):
        run(rows, f"s{network}", network, rounds=2)
        masks(rows, f"s{network}", 0.2, 2)
        weights(rows, f"s{network}", 1, {}, [])
        for round_, fate in enumerate(later, start=2):
            rows.setdefault("found", []).append({
                "run": f"s{network}", "round": round_, "kind": "leader", "weights": "(0, 9, 9)", **dict.fromkeys(("kept", "moved", "lost"), ""), fate: OWN,
            })  # fmt: skip
    section = found.again(study(rows))
    assert section is not None
    assert [(row["round"], row["kept"], row["moved"], row["lost"]) for row in table(section, "again")] == [
        (2, 1, 1, 1),
        (3, 0, 2, 1),
    ]
    assert [row["share"] for row in table(section, "again_shares")] == [0.5, 0.0, 0.0]
    assert "in 1 of 6 later rounds at 20 % × 2" in section.sentence and section.number == "0.17"
    assert section.verdict == "too few networks to tell"


@pytest.mark.parametrize(("shift", "verdict"), [(1.0, "yes"), (0.0, "no")])
def test_what_rewinding_changes(shift: float, verdict: str) -> None:
    rows = two_rates(shift)
    for row in rows["runs"]:  # what was the second rate is now the plain one, and the first does not rewind
        changed = {"rounds": 5, "prune_rate": "0.2"} | ({"rewind": "none"} if row["run"].startswith("p20") else {})
        row["settings"] = json.dumps(json.loads(row["settings"]) | changed)
    section = rewinding.answer(study(rows))
    assert section is not None and (section.verdict, section.networks) == (verdict, 10)
    (row,) = table(section, "rewinding")
    assert (row["p (Holm)"] < 0.05) == (shift > 0) and row["networks"] == 10
    assert section.number == f"shift of d {row['shift of d']:+.3f} {row['95 % interval']}"
    assert f"(20 % × 5, rewind none: mean rank {row['mean rank of d']:.2f}, p " in section.sentence


def test_nothing_at_all_still_gives_sections() -> None:
    rows: Rows = {}
    run(rows, "begun", 1, state="running")
    rows["runs"].append({"run": "broken", "state": "damaged", "message": "KeyError: 'steps'"})
    sections = answers(study(rows))
    assert [section.name for section in sections] == ["runs", "first_runs"]
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
    assert [section.name for section in sections[:3]] == ["runs", "survival", "contrast"]
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


def test_growth_against_random_pruning_in_networks_that_kept_the_weight_under_both() -> None:
    """Half as large as under random pruning, in two of three networks: the third lost it there."""
    rows: Rows = {}
    for network in range(3):
        for name, changed in (("plain", {}), ("random", {"criterion": "random"})):
            run(rows, f"{name}-{network}", network, rounds=1, **changed)
            masks(rows, f"{name}-{network}", 0.2, 1)
            for round_ in (1, 2):
                size = 1.0 if name == "random" or round_ == 1 else 0.5
                weights(
                    rows,
                    f"{name}-{network}",
                    round_,
                    {"value": 0.0 if (name, network, round_) == ("random", 2, 2) else size},
                    [],
                )
    section = growth.answer(study(rows))
    assert section is not None
    (row,) = table(section, "sizes_against_random")
    assert (row["arm"], row["networks"], row["difference"]) == ("20 % × 1", 2, pytest.approx(math.log(0.5)))
    assert "0.50 times that after random pruning to 80.0 %" in section.sentence
    assert section.verdict == "too few networks to tell"


def test_a_table_has_the_same_columns_in_every_row() -> None:
    from swlottery.report.page.answer import Table

    with pytest.raises(ValueError, match="the rows of t do not have the same columns"):
        Table("t", "", [{"a": 1, "b": 2}, {"a": 1}])
