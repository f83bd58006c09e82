"""Is a weight more than its size? `swlottery.report.page.size`, on studies whose answers are known."""

from __future__ import annotations

import math

from made_facts import CONTROLS, OWN, Rows, kept, masks, run, study, table, weights
from swlottery.report.page import size
from swlottery.study.statistics import power


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
