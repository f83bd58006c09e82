"""The plan's questions, on studies whose answers are known: docs/study.md has their rules."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from made_facts import Rows, kept, masks, run, study, table, weights
from swlottery.report.page import plan, variance
from swlottery.report.page.answer import Answer
from swlottery.report.page.arms import Study


def network(
    rows: Rows,
    name: str,
    seed: int,
    over: float = 4.0,
    loss: float = 5.0,
    kind: str = "super_weight",
    prunes: int = 5,
    falls: int = 0,
    state: str = "finished",
    network: str = "",
    **changed: Any,
) -> None:
    """One run of a seed: its weight is ``over`` times the threshold at each prune, and falls at one."""
    run(rows, name, seed, state, **{"rounds": prunes} | changed)
    rows["runs"][-1]["network"] = network or name
    masks(rows, name, float(changed.get("prune_rate", 0.2)), prunes, loss)
    weights(rows, name, 1, {}, [], kind=kind)
    for prune in range(1, prunes + 1):
        kept(rows, name, prune, 0.8**prune, not falls or prune < falls, kind=kind)
        rows["kept"][-1]["over_threshold"] = 0.0 if falls and prune > falls else 0.5 if prune == falls else over


def two_budgets(seeds: int = 8, factor: float = 2.0, **longer: Any) -> Rows:
    """A and B: B's weights are ``factor`` times as far from pruning, but for a little."""
    rows: Rows = {}
    for seed in range(seeds):
        network(rows, f"A2-{seed}", seed, over=4.0)
        network(rows, f"B2-{seed}", seed, over=4.0 * factor * 1.01**seed, steps=400, **longer)
    return rows


def answers(made: Study) -> dict[str, Answer]:
    compared = plan.compared(made)
    return {one.name: one for one in [*plan.answers(compared), *variance.answers(made, compared)]}


def test_a_budget_that_takes_the_weights_further_from_pruning() -> None:
    found = answers(study(two_budgets()))
    section = found["plan_budget"]
    assert section.verdict == "yes: further from pruning" and section.networks == 8
    row = table(section, "plan_budget")[-1]
    assert row["networks that count"] == "with a super weight" and row["pairs share"] == "θ_0"
    assert row["difference"] == pytest.approx(math.log(2.0) + 3.5 * math.log(1.01))
    assert row["p"] == 2 / 2**8 and row["p (Holm)"] == 2 * row["p"], "steps is asked of the same arms"
    assert row["remaining, %"] == pytest.approx(100 * 0.8**5)
    assert len(table(section, "plan_budget_masks")) == 5 * 2 and len(table(section, "plan_budget_points")) == 8
    assert found["plan_steps"].verdict == "no", "both lose as much to pruning"
    assert found["plan_significance"].verdict == "yes"
    assert found["plan_significance"].sentence.endswith("significant: budget.")
    assert found["plan_variance"].verdict == "yes" and found["plan_variance"].networks == 8


def test_pairs_that_can_be_significant_only_behind_others_say_so() -> None:
    """Of six pairs the least p is 2/2⁶ = 0.031: above 0.05 when it is the first of two."""
    few, enough = (answers(study(two_budgets(seeds)))["plan_budget"].sentence for seeds in (6, 8))
    assert "6 pairs give no p below 0.031: as one of 2 questions it can be significant only if others are." in few
    assert "give no p below" not in enough


def test_seeds_that_suffice_for_one_question_only() -> None:
    rows = two_budgets()
    for row in rows["rounds"]:
        if row["run"].startswith("B") and row["round"]:
            row["val_loss"] += int(row["run"][-1])  # the cost of pruning scatters
    assert answers(study(rows))["plan_variance"].verdict == "yes for budget; no for steps"


def test_a_difference_inside_the_margin_is_none() -> None:
    found = answers(study(two_budgets(factor=0.96)))
    assert found["plan_budget"].verdict == "no" and found["plan_significance"].verdict == "no"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_few_seeds_give_intervals_and_no_test(seeds: int) -> None:
    found = answers(study(two_budgets(seeds, factor=50.0)))
    section = found["plan_budget"]
    assert section.verdict == "too few networks to tell" and "no test" in section.sentence
    row = table(section, "plan_budget")[0]
    assert row["interval by"] == "Student" and row["p"] is None and "∞" not in row["95 % interval"]
    assert found["plan_significance"].verdict == "too few networks to tell"
    assert "0 could be tested" in found["plan_significance"].sentence


def test_with_fewer_than_six_super_weights_all_networks_are_judged_and_it_is_said() -> None:
    rows: Rows = {}
    for seed in range(8):
        kind = "super_weight" if seed < 5 else "leader"
        network(rows, f"A2-{seed}", seed)
        network(rows, f"B2-{seed}", seed, over=8.0 + seed / 10, kind=kind, steps=400)
    section = answers(study(rows))["plan_budget"]
    assert section.networks == 8 and "about leaders too" in section.sentence
    both = {row["networks that count"]: row["networks"] for row in table(section, "plan_budget")}
    assert both == {"all": 8, "with a super weight": 5}
    assert [row["p"] is not None for row in table(section, "plan_budget")] == [True, False]


def test_a_weight_that_has_fallen_keeps_the_number_of_its_fall() -> None:
    rows: Rows = {}
    network(rows, "a", 1, falls=2)
    made = study(rows)
    assert plan.distance(made, "a", 1) == pytest.approx(math.log(4))
    assert plan.distance(made, "a", 2) == plan.distance(made, "a", 5) == pytest.approx(math.log(0.5))
    assert plan.distance(made, "a", 6) is None and plan.distance(made, "a", 0) is None


def test_runs_that_failed_leave_their_pairs_and_are_counted() -> None:
    rows = two_budgets(8)
    rows["runs"][1]["state"] = "failed"
    row = table(answers(study(rows))["plan_budget"], "plan_budget")[0]
    assert (row["networks"], row["left out"]) == (7, 1)


def ways(sw: float, seeds: int = 8, **changed: Any) -> Rows:
    """Tickets left alone, protected, and with super weights or controls pruned first, of one round 1 a seed."""
    rows: Rows = {}
    arms: dict[str, Any] = {"alone": {}, "sw": {"force_prune": "sw"}, "controls": {"force_prune": "controls"}}
    for seed in range(seeds):
        for name, own in (arms | {"protect": {"protect": "sw"}}).items():
            loss = 5.0 + (sw + seed / 100 if name == "sw" else 0.0)
            network(rows, f"{name}-{seed}", seed, loss=loss, network=f"round-1 of {seed}", **own | changed)
    return rows


def test_super_weights_pruned_first_against_controls_and_each_way_against_none() -> None:
    section = answers(study(ways(0.3)))["plan_pruned_first"]
    assert section.verdict == "yes: the loss is higher"
    rows = [row for row in table(section, "plan_pruned_first") if row["networks that count"] == "all"]
    assert [(row["first arm"], row["second arm"]) for row in rows] == [
        ("20 % × 5, force-prune sw", "20 % × 5, force-prune controls"),
        ("20 % × 5, force-prune controls", "20 % × 5"),
        ("20 % × 5, force-prune sw", "20 % × 5"),
        ("20 % × 5, protect sw", "20 % × 5"),
    ]
    assert {row["pairs share"] for row in rows} == {"round 1"}
    assert [row["p"] for row in rows[1:]] == [None] * 3, "one test a question"
    assert rows[3]["difference"] == 0 and rows[3]["95 % interval"] == "[0, 0]"


def test_a_question_whose_own_arms_were_not_run_is_not_asked() -> None:
    rows = ways(0.3)
    rows["runs"] = [row for row in rows["runs"] if not row["run"].startswith("controls")]
    found = answers(study(rows))
    assert found["plan_pruned_first"].verdict == plan.NOT_RUN and found["plan_pruned_first"].number == ""
    assert "plan_family" not in {one.name for section in found.values() for one in section.tables}


@pytest.mark.parametrize(
    ("name", "first", "second", "verdict"),
    [
        ("plan_xavier", {"init": "xavier"}, {}, "yes: nearer to pruning, within the margin"),
        ("plan_growing", {"schedule": "0.05,0.1,0.15,0.2", "prunes": 4}, {}, "yes: the loss is lower"),
        ("plan_layers", {"criterion": "layer-magnitude"}, {}, "yes: the loss is lower"),
        ("plan_cosine", {"lr_schedule": "cosine", "warmup": 10}, {}, "yes: the loss is lower"),
    ],
)
def test_the_other_questions_are_known_by_their_settings(
    name: str, first: dict[str, Any], second: dict[str, Any], verdict: str
) -> None:
    rows: Rows = {}
    for seed in range(8):
        network(rows, f"first-{seed}", seed, loss=4.5, over=4.0, eval_steps=7, **first)
        network(rows, f"second-{seed}", seed, loss=5.0, over=4.1, **second)
    found = answers(study(rows))
    assert [one for one in found if found[one].pictures] == [name], "no other question has these arms"
    assert found[name].verdict == verdict


def test_one_prune_of_the_initialisation_against_one_of_the_trained_network() -> None:
    """Its only row is that of mask 0, which has left 80 % already; its arm belongs to the set-up of the others."""
    rows: Rows = {}
    for seed in range(8):
        network(rows, f"I1-{seed}", seed, loss=5.3 + seed / 1000, prunes=1)
        rows["rounds"].pop()
        rows["rounds"][-1]["remaining_fraction"] = 0.8
        network(rows, f"B2-{seed}", seed)
    for told in rows["runs"]:
        at_start = {"prune_at_start": told["run"].startswith("I1")}
        told["settings"] = json.dumps(json.loads(told["settings"]) | at_start)
    made = study(rows)
    assert {arm.title for arm in made.arms} == {"20 % × 5", "20 % × 1, pruned at the start"}
    section = answers(made)["plan_at_start"]
    (row, _) = table(section, "plan_at_start")
    assert section.verdict == "yes: the loss is higher" and row["remaining, %"] == pytest.approx(80)
    assert row["difference"] == pytest.approx(0.2 + 0.0035), "B2 has 5.1 under its first mask"


def test_gains_of_zero_are_shown_beside_xavier_and_not_judged() -> None:
    rows: Rows = {}
    for seed in range(8):
        for init in ("gpt2", "xavier", "xavier-zero-gains"):
            network(rows, f"{init}-{seed}", seed, init=init)
    rows_of = table(answers(study(rows))["plan_xavier"], "plan_xavier")
    assert [(row["first arm"], row["p"] is not None) for row in rows_of] == [
        ("20 % × 5, xavier", False),
        ("20 % × 5, xavier", True),
        ("20 % × 5, xavier-zero-gains", False),
        ("20 % × 5, xavier-zero-gains", False),
    ]


def test_of_several_pairs_the_larger_rate_and_the_longest_against_the_shortest_count() -> None:
    rows: Rows = {}
    for seed in range(6):
        for steps in (100, 300, 1000):
            for rate in ("0.1", "0.2"):
                network(rows, f"{steps}-{rate}-{seed}", seed, steps=steps, prune_rate=rate)
        network(rows, f"x-{seed}", seed, steps=3000, init="xavier")
        network(rows, f"y-{seed}", seed, steps=1000, init="xavier")
    found = table(answers(study(rows))["plan_significance"], "plan_family")
    assert found[0]["first arm"] == "20 % × 5 (T 1000)"
    assert found[0]["second arm"] == "20 % × 5 (T 100)"
    assert [row["question"] for row in found] == ["budget", "steps", "xavier"]


def test_arms_that_differ_in_something_else_too_are_no_comparison() -> None:
    rows: Rows = {}
    for seed in range(8):
        network(rows, f"A-{seed}", seed)
        network(rows, f"B-{seed}", seed, steps=400, lr=1e-3)
    assert answers(study(rows)) == {}
