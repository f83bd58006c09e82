"""Super weights, and what is left of c_proj, on studies whose answers are known."""

from __future__ import annotations

from typing import Any

import pytest

from made_facts import OWN, Rows, kept, masks, run, study, table, weights
from swlottery.report.page import critical, matrices, plan


def test_a_super_weight_near_to_pruning_and_tickets_without_it() -> None:
    rows: Rows = {}
    for seed in (1, 2):
        for name, changed in (
            ("alone", {}),
            ("pruned", {"force_prune": "sw"}),
            ("controls", {"force_prune": "controls"}),
        ):
            run(rows, f"{name}{seed}", 1, rounds=1, start="pretrained", **{"seed": 0, "data_seed": seed} | changed)
            losses = {"alone": (4.0, 6.0), "pruned": (4.5, 8.0), "controls": (4.1, 6.1)}[name]
            masks(rows, f"{name}{seed}", 0.2, 1, *losses)
        for name in ("alone", "pruned"):
            weights(rows, f"{name}{seed}", 1, {"percentile_remaining": 60.0}, [], kind="super_weight")
        for round_, weight in ((1, OWN), (2, "(0, 9, 9)")):
            kind = "super_weight" if seed == 1 else "leader"
            one = {"run": f"pruned{seed}", "round": round_, "kind": kind, "weights": weight}
            rows.setdefault("found", []).append({**one, "kept": "", "moved": "", "lost": OWN})
    section = critical.answer(study(rows))
    assert section is not None
    assert section.verdict == "1 of 1 pruned below 67.23 % sparsity; not replaced by training"
    assert section.number == "the first at 60.00 % sparsity; +0.400 nat" and section.networks == 1
    assert {row["weight"] for row in table(section, "critical")} == {OWN}
    assert {row["weights in scope larger than it then"] for row in table(section, "critical")} == {400_000}
    assert "cost 2.00 nat, of which training recovers 75 %" in section.sentence
    assert "the final ticket is +0.400 nat" in section.sentence and "(2 runs)" in section.sentence
    assert "super weights in 1 of 2 final tickets without them, 1 of these new" in section.sentence
    assert "verdict" not in table(section, "found_last")[0], "nobody has asked the finder"
    assert [(row["run"], row["found"]) for row in table(section, "found_last")] == [
        ("pruned1", "(0, 9, 9)"),
        ("pruned2", "(0, 9, 9)"),
    ]
    assert {row["run"] for row in table(section, "without")} == {"pruned1", "pruned2"}
    (axes,) = section.pictures[1].figure.axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_marker() != "."] == pytest.approx([4.0, 4.5, 4.1])
    assert [row["gap to controls"] for row in table(section, "without")] == [pytest.approx(0.4)] * 4


def test_what_pruning_takes_is_read_from_the_plain_arms() -> None:
    """In the arm without controls the weight is pruned earlier; that says nothing of magnitude pruning alone."""
    rows: Rows = {}
    for name, at, way in (("plain", 90.0, "none"), ("forced", 20.0, "controls")):
        run(rows, name, 1, rounds=1, force_prune=way)
        masks(rows, name, 0.2, 1)
        weights(rows, name, 1, {"percentile_remaining": 99.5}, [], kind="super_weight")
        weights(rows, name, 2, {"percentile_remaining": 100 - (100 - at) / 0.8}, [], kind="super_weight")
    section = critical.answer(study(rows))
    assert section is not None and section.number == "the first at 90.00 % sparsity"
    assert section.sentence == (
        "Global magnitude pruning would take the first of them at 99.50 % sparsity in the networks of round 1; "
        "in those of all rounds at 90.00 % (plain)."
    )
    assert "1 from 90 to 90" in section.pictures[0].alternative, "the figure shows the plain arms"
    assert {row["arm"]: row["least over all rounds"] for row in table(section, "critical")} == {
        "20 % × 1": pytest.approx(90.0),
        "20 % × 1, force-prune controls": pytest.approx(20.0),
    }


def test_networks_without_a_super_weight_and_random_beginnings_say_nothing_of_its_loss() -> None:
    """A round that rewinds to random weights begins near chance, whatever is pruned."""
    rows: Rows = {}
    for network, kind in enumerate(("super_weight", "leader")):
        for way, loss in (("none", 4.0), ("sw", 4.1 + 0.3 * network), ("controls", 4.0)):
            name = f"{way}{network}"
            run(rows, name, network, rounds=1, force_prune=way)
            masks(rows, name, 0.2, 1, loss, start=9.0 + 0.001 * (way == "sw"))
            weights(rows, name, 1, {}, [], kind=kind)
    section = critical.answer(study(rows))
    assert section is not None and section.number.endswith("; +0.100 nat") and "(1 run)" in section.sentence
    assert "recovers" not in section.sentence
    assert {row["tracks"] for row in table(section, "without")} == {"super weight", "leader"}


def test_verdicts_on_the_final_tickets() -> None:
    rows: Rows = {}
    for network, verdict in enumerate(("critical", "", None)):
        run(rows, f"s{network}", network, rounds=1)
        masks(rows, f"s{network}", 0.2, 1)
        weights(rows, f"s{network}", 1, {}, [], kind="super_weight")
        one = {"run": f"s{network}", "round": 2, "kind": "super_weight", "weights": "(0, 9, 9)"}
        rows.setdefault("found", []).append({**one, "kept": "", "moved": "", "lost": OWN})
        if verdict is not None:
            record = {"run": f"s{network}", "of": "final", "weight": "(0, 9, 9)" if verdict else "", "verdict": verdict}
            number = 0.5 if verdict else None
            rows.setdefault("records", []).append({**record, "nll_difference": number, "low": number, "high": number})
    section = critical.answer(study(rows))
    assert section is not None and section.sentence.endswith(
        "; the finder's verdicts on 2 final tickets: critical in 1 and nothing found in 1."
    )
    assert [row["verdict"] for row in table(section, "found_last")] == ["critical", "nothing found", None]


def test_super_weights_that_no_arm_prunes_first() -> None:
    rows: Rows = {}
    run(rows, "a", 1, rounds=1)
    masks(rows, "a", 0.2, 1)
    weights(rows, "a", 1, {"percentile_remaining": 99.0}, [], kind="super_weight")
    section = critical.answer(study(rows))
    assert section is not None and section.verdict == "0 of 1 pruned below 67.23 % sparsity"
    assert section.number == "the first at 99.00 % sparsity" and [one.name for one in section.tables] == ["critical"]


def test_of_several_networks_the_plans_question_says_whether_they_are_replaced() -> None:
    """One gap of many above the margin is no answer: docs/study.md gives each question one test."""
    rows: Rows = {}
    for network in range(8):
        for way, loss in (("none", 4.0), ("sw", 4.02 + 0.05 * (network == 0)), ("controls", 4.0)):
            name = f"{way}{network}"
            run(rows, name, network, rounds=1, force_prune=way)
            masks(rows, name, 0.2, 1, loss)
            weights(rows, name, 1, {"percentile_remaining": 99.0}, [], kind="super_weight")
    made = study(rows)
    section = critical.answer(made)
    assert section is not None and section.verdict == "0 of 8 pruned below 67.23 % sparsity"
    assert "+0.020 to +0.070 nat above" in section.sentence and "plan" in section.method
    (asked,) = (one for one in plan.answers(plan.compared(made)) if one.name == "plan_pruned_first")
    assert asked.verdict.startswith("yes: the loss is higher")


def what_is_left(**shares: dict[str, Any]) -> Rows:
    """Three networks an arm, of which each prune leaves a share of c_proj; the tracked weight is kept."""
    rows: Rows = {}
    for network in range(3):
        for name, arm in shares.items():
            label, share = f"{name}{network}", arm["share"]
            run(rows, label, network, **{key: value for key, value in arm.items() if key != "share"})
            masks(rows, label, 0.2, 3)
            weights(rows, label, 1, {}, [])
            for prune in (1, 2, 3):
                kept(rows, label, prune, 0.8**prune, True)
                left = round(100_000 * share**prune)
                drawn = {"drawn": 0, "kept": 0, "bits": ""}
                one = {"run": label, "round": prune, "matrix": "m", "size": 100_000, "matrix_kept": left}
                rows.setdefault("fixed", []).append(one | drawn)
    return rows


def test_random_pruning_and_the_matrices() -> None:
    section = matrices.answer(study(what_is_left(r={"share": 0.8, "criterion": "random"}, g={"share": 0.6})))
    assert section is not None and section.number == "51.2 % [51.2, 51.2]" and section.networks == 3
    assert section.verdict == "20 % × 5, random keeps most, in every network"
    assert section.sentence.startswith(
        "With 51.2 % of all weights remaining, c_proj keeps 51.2 % [51.2, 51.2] under 20 %"
    )
    assert "and 21.6 % [21.6, 21.6] under 20 % × 5 (tracked weight kept in 3 of 3)." in section.sentence
    assert section.sentence.endswith("to 0.00 points, as it must.")


def test_random_pruning_that_spares_a_matrix_is_a_defect() -> None:
    """It is the one arm of which the answer is known beforehand."""
    section = matrices.answer(study(what_is_left(r={"share": 0.95, "criterion": "random"}, g={"share": 0.6})))
    assert section is not None and section.sentence.endswith(
        "to 34.54 points, too far off: something is wrong in the pruning."
    )


@pytest.mark.parametrize(
    ("xavier", "layer", "order", "verdict"),
    [
        (0.9, 0.8, [", xavier", ", layer-magnitude", ""], "only Xavier, in every network"),
        (0.7, 0.8, [", layer-magnitude", ", xavier", ""], "not only Xavier: 20 % × 5, layer-magnitude keeps"),
        (0.5, 0.8, [", layer-magnitude", "", ", xavier"], "not only Xavier: 20 % × 5, layer-magnitude keeps"),
    ],
)
def test_whether_only_xavier_keeps_c_proj(xavier: float, layer: float, order: list[str], verdict: str) -> None:
    made = what_is_left(
        x={"share": xavier, "init": "xavier"},
        plain={"share": 0.6},
        layer={"share": layer, "criterion": "layer-magnitude"},
        rewound={"share": 0.99, "rewind": "none"},
    )
    section = matrices.answer(study(made))
    assert section is not None and section.verdict.startswith(verdict)
    places = [section.sentence.index(f"under 20 % × 5{arm} (tracked weight kept in 3 of 3)") for arm in order]
    assert places == sorted(places) and "rewind" not in section.sentence, "one arm of each initialisation and criterion"


def test_one_initialisation_and_criterion_are_not_compared() -> None:
    section = matrices.answer(study(what_is_left(plain={"share": 0.6}, rewound={"share": 0.99, "rewind": "none"})))
    assert section is not None and section.verdict.startswith("nothing to compare") and section.sentence == ""
    assert len(table(section, "matrices")) == 6
