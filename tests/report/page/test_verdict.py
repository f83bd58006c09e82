"""The one rule between yes, no, and too few networks to tell."""

from __future__ import annotations

import pytest

from made_facts import kept, masks, run, study, weights
from swlottery.report.page.answer import ends, interval
from swlottery.report.page.questions import answers
from swlottery.report.page.ranks import POWER, SD, verdict
from swlottery.report.page.verdict import NO, NOT_ASKED, TOO_FEW, YES, by_interval, by_share, by_test, together


@pytest.mark.parametrize(
    ("p", "shift", "power", "expected"),
    [
        (0.01, (0.1, 3.0), 90.0, YES),
        (0.07, (-0.075, 1.07), 85.0, TOO_FEW),  # the interval holds an effect larger than the margin
        (0.60, (-0.4, 0.5), 85.0, NO),
        (0.60, (-0.4, 0.5), 50.0, TOO_FEW),  # such a test would have found nothing
        (0.60, (float("-inf"), float("inf")), 85.0, TOO_FEW),
    ],
)
def test_no_needs_an_interval_within_the_margin_and_power(p, shift, power, expected) -> None:
    row = {"p (Holm)": p, "95 % interval": interval(*shift), SD: 0.96, POWER: power}
    assert verdict(row) == expected


def test_an_interval_reads_back() -> None:
    assert ends(interval(-0.25, 1.5)) == (-0.25, 1.5)
    assert ends(interval(float("-inf"), float("inf"))) == (float("-inf"), float("inf"))


def test_the_parts() -> None:
    assert (by_test(None, True), by_test(0.02, True, alpha=0.01), by_test(0.005, False, alpha=0.01)) == (
        TOO_FEW,
        NO,
        YES,
    )
    assert [by_interval(*one, 0.5, 0.1) for one in ((0.6, 0.7), (0.45, 0.55), (0.3, 0.7))] == [YES, NO, TOO_FEW]
    assert [by_share(*one) for one in ((0.6, 0.7), (0.1, 0.4), (0.3, 0.7))] == [YES, NO, TOO_FEW]
    assert together({}) == TOO_FEW and together({"a": NO, "b": NO}) == NO
    assert together({"a": NO, "b": YES}) == f"{NO} at a; {YES} at b"


def test_questions_about_the_rate_are_not_asked_where_no_arm_has_one() -> None:
    rows: dict = {}
    for network in range(8):
        run(rows, f"x{network}", network, init="xavier")
        masks(rows, f"x{network}", 0.2, 3)
        weights(rows, f"x{network}", 1, {}, [])
        for prune in (1, 2, 3):
            kept(rows, f"x{network}", prune, 0.8**prune, True)
    (survival,) = (answer for answer in answers(study(rows)) if answer.name == "survival")
    assert survival.verdict == NOT_ASKED


def test_networks_of_two_arms_are_not_added_up() -> None:
    rows: dict = {}
    for network in range(4):
        for rate in ("0.2", "0.1"):
            run(rows, f"{rate}-{network}", network, prune_rate=rate)
            masks(rows, f"{rate}-{network}", float(rate), 3)
            weights(rows, f"{rate}-{network}", 1, {}, [])
            for prune in (1, 2, 3):
                kept(rows, f"{rate}-{network}", prune, (1 - float(rate)) ** prune, True)
    (survival,) = (answer for answer in answers(study(rows)) if answer.name == "survival")
    assert (survival.verdict, survival.networks) == ("4 of 4 kept to the end", 4)
    assert "No network here has a super weight" in survival.sentence
