"""Which networks have a super weight, where pruning would take it, and the anchors: on studies with known answers."""

from __future__ import annotations

import pytest

from made_facts import OWN, Rows, kept, masks, run, study, table, weights
from swlottery.report.page import networks, public_logs, survival
from swlottery.report.page.answer import Answer


def made(kinds: str, percentile: float = 99.0, falls: int = 0, **changed: object) -> Rows:
    """One run a letter, s: of a network with a super weight, l: with a leader. It falls at a prune of some of them."""
    rows: Rows = {}
    for n, letter in enumerate(kinds):
        kind = "super_weight" if letter == "s" else "leader"
        run(rows, f"r{n}", n, rounds=2, **changed)
        masks(rows, f"r{n}", 0.2, 2)
        for round_ in (1, 2, 3):
            weights(rows, f"r{n}", round_, {"percentile_remaining": percentile}, [], kind=kind)
        for prune in (1, 2):
            kept(rows, f"r{n}", prune, 0.8**prune, n >= falls or prune < 2, kind=kind, matrix=0.6)
    return rows


def record(rows: Rows, name: str, verdict: str, weight: str = OWN, of: str = "round_1") -> None:
    one = {"run": name, "of": of, "weight": weight, "verdict": verdict, "nll_difference": 0.5, "low": 0.4, "high": 0.6}
    rows.setdefault("records", []).append(
        one if verdict else {**one, **dict.fromkeys(("nll_difference", "low", "high"))}
    )


def found(rows: Rows) -> Answer:
    section = networks.answer(study(rows))
    assert section is not None
    return section


def test_the_first_line_says_that_there_is_no_super_weight() -> None:
    section = found(made("lll"))
    assert section.verdict == "0 of 3"
    assert section.sentence == "No network here has a super weight: what is tracked is the leader of each."


def test_super_weights_that_nobody_has_verified() -> None:
    assert (
        found(made("ssl")).sentence
        == "2 of 3 trained networks have a super weight; whether they matter, these runs do not say."
    )


def test_the_gravest_verdict_of_each_network_counts_once() -> None:
    rows = made("sssl")
    record(rows, "r0", "inert", "(0, 1, 1)")
    record(rows, "r0", "critical")
    record(rows, "r1", "jointly critical", "(0, 7, 7)")
    record(rows, "r3", "", "")
    record(rows, "r2", "critical", of="final")  # of the last network, not of the first
    run(rows, "branch", 0, rounds=2, prune_rate="0.1")  # of the same round 1 as r0
    weights(rows, "branch", 1, {}, [], kind="super_weight")
    section = found(rows)
    assert section.sentence == (
        "3 of 4 trained networks have a super weight; the finder's verdicts on 3 of them: "
        "critical in 1, jointly critical in 1 and nothing found in 1."
    )
    (row,) = table(section, "super_weights")
    assert (row["networks"], row["with a super weight"], row["looked at by the finder"]) == (4, 3, 3)
    each = {row["run"]: row for row in table(section, "networks")}
    assert each["r0"]["verdict"] == "critical" and each["r0"]["95 % interval"] == "[0.4, 0.6]"
    assert (each["r1"]["weight"], each["r1"]["verdict on"]) == (OWN, "(0, 7, 7)"), "ΔNLL is that weight's"
    assert each["r3"]["verdict on"] is None
    assert each["r2"]["verdict"] is None and each["r3"]["ΔNLL"] is None


def test_networks_of_another_training_or_initialisation_are_counted_apart() -> None:
    rows = made("ss")
    for n in (2, 3):
        run(rows, f"x{n}", n, rounds=2, init="xavier")
        weights(rows, f"x{n}", 1, {}, [])
    section = found(rows)
    assert section.networks == 2, "both set-ups have two initialisations"
    assert section.verdict.startswith("2 of 2 at ") and "0 of 2 at " in section.verdict
    assert (
        section.sentence.startswith("2 of 4 trained networks have a super weight (") and ": 0 of 2)" in section.sentence
    )
    assert [(row["init"], row["with a super weight"]) for row in table(section, "super_weights")] == [
        ("gpt2", 2),
        ("xavier", 0),
    ]
    pretrained = made("sss", start="pretrained", super_weights="record.json")
    for row in pretrained["runs"]:
        row["lineage"] = "the published one"
    assert found(pretrained).verdict == "1 of 1", "a weight known beforehand is of the network before any training"


def test_no_network_has_been_looked_at() -> None:
    rows: Rows = {}
    run(rows, "a", 1, "running")
    assert networks.answer(study(rows)) is None and survival.falls(study(rows)) is None


def test_where_each_weight_falls_or_would_fall() -> None:
    section = survival.falls(study(made("ssssssll", falls=1)))
    assert section is not None and section.verdict == "too few networks to tell" and section.networks == 6
    one, both = table(section, "plan_survival")[1], table(section, "plan_survival")[0]
    assert (one["networks that count"], one["kept"], both["kept"], both["networks"]) == ("with a super weight", 5, 7, 8)
    assert one["first falls at remaining, %"] == pytest.approx(1.0), "(1 − 0.99) of all, in round 1"
    assert one["first falls at sparsity, %"] == pytest.approx(99.0) and one["matrix kept, %"] == pytest.approx(60.0)
    points = table(section, "plan_survival_points")
    assert [row["pruned by prune"] for row in points] == [2, *[None] * 7]
    everywhere = survival.falls(study(made("ssssss")))
    assert everywhere is not None and everywhere.verdict == "yes"
    assert (
        everywhere.number
        == "6 of 6 super weights kept with 64 % remaining (in some round, one prune to 1 % would take the first)"
    )


def test_anchors_beside_chance_and_this_study() -> None:
    rows = made("ssssss", falls=2)
    for n in range(6):
        for prune, left in ((1, 80), (2, 60)):
            drawn = {"run": f"r{n}", "round": prune, "matrix": "m", "drawn": 100, "kept": left, "bits": ""}
            rows.setdefault("fixed", []).append({**drawn, "size": 1000, "matrix_kept": 10 * left})
    section = public_logs.anchors(study(rows))
    facts = {row["run"]: row for row in table(section, "anchors")}
    assert facts["A2"]["chance of that, %"] == pytest.approx(40.96) and facts["A2, again"]["chance of that, %"] == 20
    assert facts["A1"]["chance of that, %"] == pytest.approx(9) and facts["B1"]["chance of that, %"] == pytest.approx(
        72.9
    )
    changes = [row["last − first"] for row in table(section, "anchors")]
    assert section.number == f"last − first training: −{-min(changes):.4f} to {max(changes):+.4f} nat"
    assert {row["loss at step 0"] for row in facts.values()} == {10.9324, 10.9557}
    assert [one.name for one in section.tables] == ["anchors"], "no arm here has as many trainings"


def test_what_met_the_fate_of_an_anchor_here() -> None:
    rows: Rows = {}
    for n in range(6):
        run(rows, f"r{n}", n)
        masks(rows, f"r{n}", 0.2, 5)
        weights(rows, f"r{n}", 1, {}, [])
        for prune in range(1, 6):
            kept(rows, f"r{n}", prune, 0.8**prune, n >= 2 or prune < 1)
            drawn = {"run": f"r{n}", "round": prune, "matrix": "m", "drawn": 100, "kept": 90 - 10 * prune, "bits": ""}
            rows.setdefault("fixed", []).append({**drawn, "size": 1000, "matrix_kept": 1})
    here = {row["run"]: row for row in table(public_logs.anchors(study(rows)), "anchors_here")}
    assert list(here) == ["A2", "A2, again"], "no arm here prunes 10 %"
    assert here["A2"]["drawn, of these, %"] == pytest.approx(50) and here["A2"]["own, of these"] == 4
    assert here["A2, again"]["drawn, of these, %"] == pytest.approx(20) and here["A2, again"]["own, of these"] == 2
    assert here["A2"]["last − first"] == pytest.approx(0.4) and here["A2"]["own weights"] == 6
