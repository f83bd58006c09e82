"""Is a weight kept? `swlottery.report.page.survival`, on studies whose answers are known."""

from __future__ import annotations

import pytest

from made_facts import Rows, kept, masks, run, study, table, two_rates, weights
from swlottery.report.page import survival


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
