"""Do survivors grow, and does a weight see less gradient? On studies whose answers are known."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from made_facts import Rows, masks, run, study, table, weights
from swlottery.report.page import gradient as gradient_of
from swlottery.report.page import growth


@pytest.mark.parametrize(
    ("factor", "verdict", "times"),
    [
        (0.5, "they shrink", "0.250"),
        (0.05, "they shrink", "0.00250"),
        (2.0, "they grow", "4.00"),
        (1.001, "they keep their size", "1.00"),
    ],
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
    assert f"{factor:#.3g} times [" in section.sentence, "from round 2 on"
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
    assert "0.500 times that after random pruning to 80.0 %" in section.sentence
    assert section.verdict == "too few networks to tell"


@pytest.mark.parametrize(
    ("gradient", "update", "networks", "verdict"),
    [
        (0.5, 0.5, 10, "yes"),
        (0.5, 1.0, 10, "too few networks to tell"),
        (0.5, 1.0, 14, "no"),
        (2.0, 0.5, 10, "no: more"),
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
