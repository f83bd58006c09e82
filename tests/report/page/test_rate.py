"""Two arms in networks that share round 1: the rate, the rewinding and the cost, on studies whose answers are known."""

from __future__ import annotations

import json
import math

import pytest

from made_facts import CONTROLS, Rows, masks, run, study, table, two_rates
from swlottery.report.page import cost, rate
from swlottery.study.statistics import power


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
    row = {"p (Holm)": 0.01, "mean rank of d": 0.9, "within ½ sd": False}
    rows = [{**row, "their mean rank": rank} for rank in (0.8, 0.2)]
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
    """A loss of 5 + mask/10: 20 % leaves after m prunes what 10 % leaves after 2.118 m, of which it makes ten."""
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
    assert section.verdict == "too few networks to tell" and section.networks == 3
    assert section.number.startswith("20 % × 5: perplexity 148.4 to 244.7, loss +0.500 nat; 10 % × 10: ")
    assert "from 148.4 to 244.7 at 20 % × 5" in section.sentence and "41.0 % remaining" in section.sentence
    assert section.sentence.endswith(f" is {found[-1]:+.4f} nat.") and "∞" not in section.sentence
    enough = cost.answer(study(two_rates(0.0, 6)))
    assert enough is not None and enough.sentence.endswith("] nat.")
    assert enough.verdict == "the loss rises" and "loss +0.500 [0.5, 0.5] nat" in enough.number
    (axes,) = section.pictures[0].figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == 3 * (6 + 11), "one a run and mask"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (-0.01, "the loss falls, within the margin"),
        (0.3, "the loss rises"),
        (0.0, "nothing: the loss changes by less than 0.05 nat"),
    ],
)
def test_what_pruning_costs_is_judged_network_by_network(change: float, verdict: str) -> None:
    """The networks differ by far more than pruning changes any of them: two medians would not tell."""
    rows: Rows = {}
    for network in range(8):
        run(rows, f"s{network}", network, rounds=1)
        masks(rows, f"s{network}", 0.2, 1)
        rows["rounds"][-2]["val_loss"] = 5.0 + network
        rows["rounds"][-1]["val_loss"] = 5.0 + network + change + 0.002 * (-1) ** network
    section = cost.answer(study(rows))
    assert section is not None and section.verdict == verdict
    (row,) = table(section, "loss_changes")
    assert row["networks"] == 8 and row["change"] == pytest.approx(change)


def test_pairs_that_are_not_finished_and_weights_that_prune_1_took_are_left_out() -> None:
    rows = two_rates(0.5, 6)
    next(row for row in rows["runs"] if row["run"] == "p10-0")["state"] = "running"
    next(row for row in rows["kept"] if row["run"] == "p20-1")["alive"] = False
    section = rate.answer(study(rows))
    assert section is not None
    assert {(row["networks"], row["left out"]) for row in table(section, "contrast")} == {(4, 1)}


@pytest.mark.parametrize(("shift", "verdict"), [(1.0, "yes"), (0.0, "no")])
def test_what_rewinding_changes(shift: float, verdict: str) -> None:
    rows = two_rates(shift)
    for row in rows["runs"]:  # what was the second rate is now the plain one, and the first does not rewind
        changed = {"rounds": 5, "prune_rate": "0.2"} | ({"rewind": "none"} if row["run"].startswith("p20") else {})
        row["settings"] = json.dumps(json.loads(row["settings"]) | changed)
    section = rate.rewinding(study(rows))
    assert section is not None and (section.verdict, section.networks) == (verdict, 10)
    (row,) = table(section, "rewinding")
    assert (row["p (Holm)"] < 0.05) == (shift > 0) and row["networks"] == 10
    assert section.number == f"shift of d {row['shift of d']:+.3f} {row['95 % interval']}"
    assert f"(20 % × 5, rewind none: mean rank {row['mean rank of d']:.2f}, p " in section.sentence
