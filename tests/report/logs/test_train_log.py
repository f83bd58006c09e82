"""The log of a training: `swlottery.report.logs`: `train`, `tables`, `survival`; and `report.words`."""

from __future__ import annotations

import functools
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tqdm

from made_run import Event, events, settings
from swlottery.models.coordinates import Coordinate
from swlottery.report import words
from swlottery.report.logs.tables import outcome, plan, settings_lines
from swlottery.report.logs.train import TrainLog

START: Event = {
    "event": "start",
    "model": "tiny",
    "note": "",
    "lineage": "ab" * 32,
    "parameters": 2000,
    "scope": "mlp",
    "total": 1000,
    "matrices": 1,
    "context": 4,
    "device": "cpu",
    "threads": 1,
    "versions": {"torch": "2.13.0"},
    "prunes": 2,
    "steps": 10,
    "tokens_per_step": 32,
    "rates": ["0.2", "0.2"],
    "counts": [1000, 800, 640],
    "from_round_1": None,
    "followed": [],
    "downs": ["h.0.w", "h.1.w", "h.2.w"],
    "data": {"name": "builtin", "train_tokens": 640, "validation_tokens": 64, "sha256": "cd" * 32},
}
SUPER: Event = {"kind": "super_weight", "layer": 2, "expert": None, "out": 447, "in": 666}
LEADER: Event = {"kind": "leader", "layer": 0, "expert": 3, "out": 1, "in": 2}
FOREIGN: Event = {"kind": "foreign", "layer": 1, "expert": None, "out": 5, "in": 6}


def evaluation(round: int, step: int, loss: float | None, val: float = 3.5) -> Event:
    return {
        "event": "evaluation",
        "round": round,
        "step": step,
        "steps": 10,
        "train_loss": loss,
        "val_loss": val,
        "val_perplexity": 33.1155,
        "gradient_norm": None,
        "threshold": 0.004,
        "tokens_per_second": None if loss is None else 1234.5,
        "seconds_left": None if loss is None else 125.4,
    }


def trained(mask: int, remaining: int, pruned: int | None = None, threshold: float | None = None) -> Event:
    return {
        "event": "round",
        "round": mask,
        "total": 1000,
        "remaining": remaining,
        "remaining_fraction": remaining / 1000,
        "sparsity": 1 - remaining / 1000,
        "pruned": pruned,
        "threshold": threshold,
        "train_loss": 3.25,
        "val_loss": 3.5,
        "val_perplexity": 33.1155,
        "seconds": 61.0,
    }


def prune(round: int, before: int, remaining: int, weights: list[Event], kept: dict[str, tuple[int, int]]) -> Event:
    return {
        "event": "prune",
        "round": round,
        "total": 1000,
        "remaining": remaining,
        "remaining_fraction": remaining / 1000,
        "sparsity": 1 - remaining / 1000,
        "pruned": before - remaining,
        "threshold": 4.80796e-3,
        "seconds": 61.0,
        "matrices": {"h.2.w": {"before": 400, "kept": 300}, "h.1.w": {"before": 100, "kept": 25}},
        "weights": weights,
        "controls": [
            {"of": [2, 447, 666], "kind": kind, "count": 19, "before": was, "kept": now}
            for kind, (was, now) in kept.items()
        ],
    }


def alive(weight: Event, value: float, before: bool, after: bool) -> Event:
    return weight | {"value": value, "over_threshold": abs(value) / 4.80796e-3, "alive_before": before, "alive": after}


def opened() -> tuple[TrainLog, list[str]]:
    """A log whose header has been printed, and the lines that come from now on."""
    lines: list[str] = []
    log = TrainLog(False, lambda text: lines.extend(text.split("\n")))
    log.header({"protect": "none"}, START)
    lines.clear()
    return log, lines


def replay(log: TrainLog, history: list[Event]) -> None:
    """What an earlier start has printed."""
    log.quiet = True
    for event in history:
        log.event(event)
    log.quiet = False


def follow(log: TrainLog, *weights: Event, kinds: tuple[str, ...] = ("control_rank",)) -> None:
    log.event(
        {
            "event": "followed",
            "round": 1,
            "weights": [weight | {"value": 1.5, "rank": 7, "matrix_size": 600} for weight in weights],
            "controls": [{"of": [2, 447, 666], "kind": kind, "count": 19, "gap": 1.0837} for kind in kinds],
        }
    )


def full_log(**shape: Any) -> list[str]:
    """All lines of the log of a made-up run."""
    lines: list[str] = []
    log = TrainLog(False, lambda text: lines.extend(text.split("\n")))
    for event, _ in events(**shape):
        if event["event"] == "start":
            known = {name: shape[name] for name in ("weights", "rounds", "rate", "steps") if name in shape}
            log.header(settings(**known), event, settings())
        else:
            log.event(event)
    log.footer(Path("runs/r"), [Path("plots/r/magnitude.png")], 3725)
    return lines


def test_a_training_from_scratch_says_whether_its_tokens_are_known_to_be_enough() -> None:
    """GPT-2 124M of configs/gpt2-scratch.yaml has too few in a round; with three times the steps it has not."""
    for start, steps, words_ in (
        ("pretrained", 3000, None),
        ("scratch", 3000, "737,280,000 tokens in all; so few are not known to be enough for a super weight to form"),
        ("scratch", 9000, "2,211,840,000 tokens in all"),
    ):
        lines: list[str] = []
        TrainLog(False, lines.append).header(
            {"start": start}, START | {"steps": steps, "tokens_per_step": 245_760}, {"start": "pretrained"}
        )
        said = [line.strip() for line in lines if "tokens in all" in line]
        assert [line.startswith(words_ or "") for line in said] == [True] * (start == "scratch")
        assert all(("so few" in line) == (steps == 3000) for line in said)


def test_the_trace_of_round_1() -> None:
    """Its cost beforehand, the first steps of each weight, and that a branch's parent may have none."""
    lines: list[str] = []
    log, cost = TrainLog(False, lines.append), {"steps": [1, 2, 4, 8, 10], "forward_tokens": 16, "bytes": 2_000_000}
    log.header({}, START | {"trace": cost})
    said = " ".join(" ".join(lines).split())
    assert "at most 16 forward tokens, 5.00 % of those of the round" in said and "and 2 MB on disk" in said
    log, lines = opened()
    place = {"layer": 2, "expert": None, "out": 447, "in": 666, "value": 1.5, "rank": 3, "share": 0.9}
    effects = {"nll_difference": 0.3, "low": 0.2, "high": 0.4}
    nothing = dict.fromkeys(effects)
    rows = [
        {"checkpoint": "step1", "step": 1, "tokens": 32, "ratio": 3.0, "found": False, **place, **nothing},
        {"checkpoint": "step2", "step": 2, "tokens": 64, "ratio": 50.0, "found": True, **place, **effects},
        {"checkpoint": "step4", "step": 4, "tokens": 128, "ratio": 9.0, "found": False, **place, **nothing},
    ]
    log.event({"event": "trace", "rows": rows, "forward_tokens": 12, "bytes": 1_000_000, "missing": [8]})
    said = "\n".join(lines)
    (summary,) = (line for line in lines if line.startswith("(2, 447, 666)") and "step" in line)
    assert summary.split()[3:9] == ["step2", "(64)", "step2", "(64)", "step2", "(64)"]
    assert "left out: what was kept after steps 8" in said and "took 12 forward tokens" in said
    log, lines = opened()
    log.event({"event": "trace", "rows": None})
    assert "was trained without --trace log" in " ".join(lines)


def test_the_header_says_what_is_trained_and_what_each_prune_will_leave() -> None:
    lines: list[str] = []
    TrainLog(False, lines.append).header({"lr": 6e-4, "rounds": 2}, START, {"lr": 6e-4, "rounds": 5})
    assert lines[:9] == [
        f"swlottery {__import__('swlottery').__version__} train: 2 rounds of train, prune, rewind\n",
        "model        tiny",
        f"θ_0          sha256 {'ab' * 32}",
        "in scope     1,000 of 2,000 parameters (50.00 %), in 1 tensor: mlp",
        "text         builtin: 640 training, 64 validation tokens",
        f"             sha256 {'cd' * 32}",
        "a round      10 steps of 32 tokens = 0.5 times the text",
        "device       cpu, 1 CPU thread",
        "versions     torch 2.13.0",
    ]
    assert "training   lr 0.0006 ·" in lines and "pruning    rounds 2" in lines
    assert lines[-4:] == [
        "prune  removed  of what remains  remaining  remaining %  sparsity",
        "0            0           0.00 %      1,000     100.00 %    0.00 %",
        "1          200          20.00 %        800      80.00 %   20.00 %",
        "2          160          20.00 %        640      64.00 %   36.00 %",
    ]


def test_weights_that_are_masked_from_the_start_are_in_the_plan() -> None:
    assert plan(START | {"counts": [990, 792]})[1:] == [
        "0           10           1.00 %        990      99.00 %    1.00 %",
        "1          198          20.00 %        792      79.20 %   20.80 %",
    ]


def test_every_setting_is_in_the_header_once_by_group_and_in_columns() -> None:
    given = settings() | {"unheard_of": [1, 2], "data": "x" * 90, "compile": True}
    lines = settings_lines(given, settings())
    text = f" {' '.join(lines)} "
    for name in given:
        assert text.count(f" {name.replace('_', '-')} ") == (2 if name in ("model", "data") else 1), name
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "model",
        "data",
        "training",
        "pruning",
        "tracking",
        "running",
    ]
    assert "unheard-of 1,2" in lines[-1] and "compile yes" in text and "compile yes ·" not in text
    assert "start scratch ·" in text and "follow none ·" in text and "lr 0.0006 ·" in text
    assert {line[10:11] for line in lines} == {" "} and max(map(len, lines)) <= 120
    starts = {line.index(name) for line in lines for name in ("one-shot", "rewind weights", "revision") if name in line}
    assert starts <= {11, 47, 83}


def test_a_round_has_a_title_a_table_and_its_losses() -> None:
    log, lines = opened()
    for event in (evaluation(1, 0, None), evaluation(1, 10, 3.25), trained(0, 1000)):
        log.event(event)
    assert lines == [
        "",
        "Round 1 of 2: training under 100.00 % remaining",
        "-----------------------------------------------",
        "    step   train loss     val loss    perplexity     tokens/s       time left",
        "       0            —       3.5000         33.12            —               —",
        "      10       3.2500       3.5000         33.12        1,234      2 min 05 s",
        "trained: train loss 3.2500, validation loss 3.5000, perplexity 33.12, at 100.00 % remaining, in 1 min 01 s",
    ]


def test_later_rounds_are_titled_by_what_the_prune_before_left() -> None:
    log, lines = opened()
    for round, before, left in ((1, 1000, 800), (2, 800, 640)):
        log.event(evaluation(round, 10, 3.0))
        log.event(prune(round, before, left, [], {}))
    log.event(evaluation(3, 0, None))
    titles = [line for line in lines if "training under" in line]
    assert titles == [
        "Round 1 of 2: training under 100.00 % remaining",
        "Round 2 of 2: training under 80.00 % remaining",
        "Final ticket: training under 64.00 % remaining",
    ]


def test_the_prune_names_sparsity_and_remaining_and_every_tracked_weight() -> None:
    log, lines = opened()
    follow(log, SUPER, FOREIGN, LEADER, kinds=("control_rank", "control_both"))
    lines.clear()
    first = [alive(SUPER, -0.5, True, True), alive(FOREIGN, 0.004, True, False), alive(LEADER, 0.01, True, True)]
    log.event(prune(1, 1000, 800, first, {"control_rank": (19, 19), "control_both": (19, 19)}))
    assert lines[3:] == [
        "",
        "Prune 1: removed 200 of 1,000 weights, threshold 4.807960e-03",
        "         sparsity 20.00 %, remaining 80.00 % (800 of 1,000)",
        "",
        "tracked                     value  |w|/thr.  outcome  its matrix   in all",
        "super weight (2, 447, 666)   -0.5   103.994     kept     75.00 %  50.00 %",
        "foreign weight (1, 5, 6)    0.004     0.832   PRUNED     25.00 %   4.17 %",
        "leader (0, 1, 2, expert 3)   0.01     2.080     kept           —        —",
        "  its matrix: kept of what remained before this prune; in all: of the full matrix",
    ]
    lines.clear()
    second = [alive(SUPER, 0.001, True, False), alive(FOREIGN, 0.0, False, False), alive(LEADER, 0.01, True, True)]
    log.event(prune(2, 800, 640, second, {"control_rank": (19, 7), "control_both": (12, 0)}))
    assert "super weight (2, 447, 666)  0.001     0.208       PRUNED     75.00 %  50.00 %  7/19  0/12" in lines
    assert "Prune 2: removed 160 of 800 weights, threshold 4.807960e-03" in lines
    assert "foreign weight (1, 5, 6)        —         —  pruned in 1     25.00 %   4.17 %     —     —" in lines
    assert lines[-1].startswith("  its matrix: ") and lines[-1].endswith("; controls: kept/remaining before")


def test_a_weight_that_was_masked_before_the_first_step_is_not_said_to_be_pruned() -> None:
    log, lines = opened()
    follow(log, SUPER)
    log.event(prune(1, 1000, 800, [alive(SUPER, 0.0, False, False)], {}))
    assert any("masked at start" in line for line in lines) and not any("PRUNED" in line for line in lines)


def test_a_random_prune_has_no_threshold() -> None:
    log, lines = opened()
    log.settings = {"criterion": "random"}
    log.event(prune(1, 1000, 800, [], {}))
    assert "Prune 1: removed 200 of 1,000 weights, at random" in lines
    assert not any("threshold" in line or "followed" in line for line in lines)


def test_the_finder_says_what_was_found_kept_moved_and_lost() -> None:
    log, lines = opened()
    spot = SUPER | {"value": 1.0, "ratio": 88.12, "share": 0.72, "lacks": []}
    moved = [{"from": [1, 2, 3], "to": [1, 2, 9]}]
    log.event(
        {
            "event": "found",
            "round": 2,
            "kind": "super_weight",
            "weights": [spot],
            "kept": [[2, 447, 666]],
            "moved": moved,
            "lost": [[0, 0, 1], [3, 3, 3]],
        }
    )
    log.event(
        {
            "event": "found",
            "round": 2,
            "kind": "leader",
            "kept": [],
            "moved": [],
            "lost": [],
            "weights": [LEADER | {"value": 1.0, "ratio": 8.2, "share": 0.4, "lacks": ["ratio 8.2 < κ = 40"]}],
        }
    )
    assert lines[3:] == [
        "finder: super weight (2, 447, 666) (ratio 88.1, 72 % of its spike)",
        "finder, of the tracked weights: kept (2, 447, 666); moved (1, 2, 3) to (1, 2, 9); lost (0, 0, 1), (3, 3, 3)",
        "finder: no super weight; leader (0, 1, 2, expert 3) (ratio 8.2, 40 % of its channel's output): "
        "ratio 8.2 < κ = 40",
    ]


def test_the_tracked_weights_are_introduced_with_rank_and_controls() -> None:
    log, lines = opened()
    follow(log, SUPER, LEADER)
    assert lines == [
        "",
        "tracked                     value  rank of |w| in its matrix       rank",
        "super weight (2, 447, 666)    1.5                   7 of 600  19 × 1.08",
        "leader (0, 1, 2, expert 3)    1.5                   7 of 600          —",
        "  controls (rank: nearest in rank):",
        "  their number × |w| over that of the largest (above 1: none is as large); all among what prune 1 keeps",
    ]
    lines.clear()
    log.event({"event": "followed", "round": 1, "weights": [], "controls": []})
    assert lines == ["no weight is tracked"]


def became(weight: Event, pruned_in: int | None, controls: bool = True) -> Event:
    rates = [{"kind": "control_rank", "kept": 7, "count": 19}, {"kind": "control_sigma", "kept": 3, "count": 18}]
    return weight | {
        "pruned_in": pruned_in,
        "sparsity": 0.488,
        "remaining_fraction": 0.512,
        "matrix_keep_rate": 0.332,
        "control_keep_rates": rates if controls else [],
    }


def test_controls_that_prune_1_chose_are_not_held_against_a_weight_that_it_took() -> None:
    assert outcome(became(SUPER, 1), 5, {}).endswith("Kept there: 33.20 % of its matrix (the chance level).")


def test_sentences_say_round_sparsity_and_chance_level() -> None:
    assert outcome(became(SUPER, 3), 5, {}) == (
        "Super weight (2, 447, 666) was pruned in round 3, at 48.80 % sparsity (51.20 % remaining). "
        "Kept there: 33.20 % of its matrix (the chance level); controls: rank 7/19, sigma 3/18."
    )
    assert outcome(became(FOREIGN, None, controls=False), 5, {"protect": "none"}) == (
        "Foreign weight (1, 5, 6) was kept through round 5, at 48.80 % sparsity (51.20 % remaining). "
        "Kept there: 33.20 % of its matrix (the chance level)."
    )
    assert outcome(became(LEADER, None, controls=False), 5, {"protect": "sw"}).startswith(
        "Leader (0, 1, 2, expert 3) was kept through round 5, protected (--protect sw), at 48.80 % sparsity"
    )
    assert outcome(became(SUPER, 0, controls=False), 5, {"force_prune": "sw"}).startswith(
        "Super weight (2, 447, 666) was taken out before round 1 (--force-prune sw), at 48.80 %"
    )


@pytest.mark.parametrize(
    ("weights", "super_weights", "said"),
    [
        ([SUPER], "record.json", ["A super weight was", "All controls"]),
        ([LEADER], "discover", ["A leader was", "It was found in the network of round 1", "All controls"]),
        ([SUPER, LEADER], "record.json", ["A super weight or a leader was", "All controls"]),
        ([FOREIGN], "discover", ["A foreign weight is a coordinate of another network", "All controls"]),
        ([], "none", ["No weight was tracked."]),
    ],
)
def test_the_end_says_what_the_chance_level_means(weights: list[Event], super_weights: str, said: list[str]) -> None:
    log, lines = opened()
    log.settings = {"super_weights": super_weights}
    log.event({"event": "finished", "weights": [became(weight, 2) for weight in weights], "seconds": 1.0})
    text = " ".join(line.strip() for line in lines)
    everything = {
        "A super weight was",
        "A leader was",
        "A super weight or a leader was",
        "It was found in the network of round 1",
        "A foreign weight is a coordinate of another network",
        "All controls",
        "No weight was tracked.",
    }
    assert {part for part in everything if part in text} == set(said)


def test_all_rounds_stand_in_one_table_at_the_end() -> None:
    log, lines = opened()
    follow(log, SUPER)
    log.event(trained(0, 1000))
    log.event(prune(1, 1000, 800, [alive(SUPER, 1.0, True, True)], {}))
    log.event(trained(1, 800, 200, 4.80796e-3))
    log.event(prune(2, 800, 640, [alive(SUPER, 0.001, True, False)], {}))
    log.event(trained(2, 640, 160, 5e-3))
    lines.clear()
    log.event({"event": "finished", "weights": [], "seconds": 1.0})
    assert lines[3:8] == [
        "mask  remaining    rem. %  sparsity  pruned     threshold   train     val  perplex.  alive        time",
        "0         1,000  100.00 %    0.00 %       —             —  3.2500  3.5000     33.12      —  1 min 01 s",
        "1           800   80.00 %   20.00 %     200  4.807960e-03  3.2500  3.5000     33.12    1/1  1 min 01 s",
        "2           640   64.00 %   36.00 %     160  5.000000e-03  3.2500  3.5000     33.12    0/1  1 min 01 s",
        "  alive: how many of the tracked weights the mask keeps",
    ]


def test_a_resumed_log_goes_on_where_the_other_ended() -> None:
    log, lines = opened()
    history = [START, evaluation(1, 0, None), trained(0, 1000), prune(1, 1000, 800, [], {}), evaluation(2, 0, None)]
    replay(log, history)
    assert not lines
    log.resumed(2, 4, "The newest checkpoint is damaged.")
    assert lines[:4] == ["", "Resumed", "-------", "The newest checkpoint is damaged."]
    assert lines[4] == (
        "Round 2 of 2: training under 80.00 % remaining: going on from step 4; what came before is in an earlier log"
    )
    assert any(line.startswith("0         1,000  100.00 %    0.00 %") for line in lines)
    lines.clear()
    log.event(evaluation(2, 10, 3.0))
    assert lines[1] == "Round 2 of 2: training under 80.00 % remaining" and lines[3].split()[0] == "step"
    assert lines[4].split()[:2] == ["10", "3.0000"]


@pytest.mark.parametrize("weights", [0, 1, 6])
def test_a_log_is_complete_and_at_most_120_columns_wide(weights: int) -> None:
    lines = full_log(weights=weights, steps=30)
    assert max(map(len, lines)) <= 120
    titles = [line for line, under in pairwise(lines) if under and set(under) == {"-"}]
    assert titles == [
        "Settings (· at its default)",
        "What each prune will leave",
        *(
            f"Round {r} of 5: training under {left} % remaining"
            for r, left in enumerate(("100.00", "80.00", "64.00", "51.20", "40.96"), 1)
        ),
        "Final ticket: training under 32.77 % remaining",
        "All rounds: each mask, and the network trained under it (mask 0: before the first prune)",
        "What became of the tracked weights",
        "Where everything is",
    ]
    assert lines[-6:] == [
        "run      runs/r",
        "table    runs/r/rounds.csv",
        "table    runs/r/watch.csv",
        "table    runs/r/metrics.jsonl",
        "figure   plots/r/magnitude.png",
        "done after 1 h 02 min",
    ]
    text = "\n".join(lines)
    assert text.count("was kept through round 5") + text.count("was pruned in round") == weights
    assert ("super weight (2, 46, 138)" in text) is False
    if weights == 6:
        assert re.search(r"Foreign weight \(3, 47, 204\) was pruned in round [23], at ", text)
        assert (
            "Leader (2, 46, 138) was kept through round 5, at 67.23 % sparsity (32.77 % remaining). Kept there:" in text
        )


def test_no_coordinate_is_broken_over_two_lines() -> None:
    lines = full_log(weights=6, steps=30)
    assert not [line for line in lines if re.search(r"\(\d[\d, ]*$", line)]
    assert any("    (2, 46, 138)" in line for line in lines)


@pytest.mark.parametrize(("state", "title"), [("stopped", "Stopped early"), ("failed", "Failed")])
def test_a_run_that_does_not_end_says_why_and_what_it_has(state: str, title: str) -> None:
    log, lines = opened()
    log.event(trained(0, 1000))
    lines.clear()
    log.footer(Path("runs/r"), [], 59.6, state, "the loss is not finite at step 7")
    assert title in lines and "the loss is not finite at step 7" in lines and lines[-1] == f"{state} after 1 min 00 s"
    assert any(line.startswith("0         1,000  100.00 %") for line in lines) == (state == "failed")
    assert ("asked to stop: the same command goes on from there" in lines) == (state == "stopped")


def test_a_job_that_is_started_again_goes_on_in_its_log_and_repeats_nothing() -> None:
    log, lines = opened()
    history = [START, evaluation(1, 0, None), trained(0, 1000), prune(1, 1000, 800, [], {}), evaluation(2, 0, None)]
    replay(log, history)
    log.again(2, 4)
    assert lines == [
        "",
        "started again. Round 2 of 2: training under 80.00 % remaining: going on from step 4; "
        "nothing above is repeated",
    ]
    lines.clear()
    log.quiet = True  # replayed
    log.event(evaluation(2, 10, 3.0))
    assert not lines
    log.quiet = False
    log.event(evaluation(2, 20, 2.0))
    assert [line.split()[0] for line in lines] == ["step", "20"], (
        "a table that goes on behind a gap has its heading again"
    )


def test_a_bar_moves_within_a_round_and_only_where_it_is_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.tqdm", functools.partial(tqdm.tqdm, disable=False))  # TQDM_DISABLE is read at its import
    lines: list[str] = []
    log = TrainLog(True, lines.append)
    log.start = START
    log.step(1, 3, 10)
    assert (log.bar.n, log.bar.total, log.bar.desc) == (3, 10, "round 1")
    log.step(1, 4, 10)
    assert log.bar.n == 4
    log.step(1, 10, 10)
    assert log.bar is None
    log.step(3, 1, 10)
    assert log.bar.desc == "final ticket"
    log.footer(Path("r"), [], 1)
    assert log.bar is None
    assert "round 1" in capsys.readouterr().err and not any("round 1" in line for line in lines)
    log.bars = False
    log.step(1, 3, 10)
    assert log.bar is None


def test_unknown_events_pass_in_silence() -> None:
    log, lines = opened()
    log.event({"event": "weather", "round": 7})
    assert lines == []


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "—"),
        (float("inf"), "—"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 01 h"),
        (-3, "0.0 s"),
    ],
)
def test_durations(seconds: float | None, written: str) -> None:
    assert words.duration(seconds) == written


def test_numbers_are_written_as_the_first_logs_wrote_them() -> None:
    assert words.threshold(4.80796e-3) == "4.807960e-03" and words.threshold(None) == "—"
    assert words.perplexity(12130.009) == "12,130.01" and words.perplexity(3e9) == "3.00e+09"
    assert words.perplexity(float("nan")) == "nan" and words.perplexity(float("inf")) == "inf"
    assert words.percent(0.32768) == "32.77 %" and words.share(1, 0) == "—"


@pytest.mark.parametrize("expert", [None, 3])
def test_coordinates_are_written_as_everywhere(expert: int | None) -> None:
    weight = {"layer": 2, "out": 447, "in": 666, "expert": expert}
    assert words.place(words.key(weight)) == str(Coordinate(2, 447, 666, expert))
    row = {"layer": "2", "out": "447", "in": "666", "expert": "" if expert is None else "3"}
    assert words.key(row) == words.key(weight)


def test_a_table_that_is_too_wide_goes_on_below_beside_its_first_column() -> None:
    rows = [["a", "1" * 8, "2" * 8, "3"], ["bb", "4", "5", "6"]]
    assert words.table(["x", "one", "two", "three"], rows, width=24) == [
        "x        one       two",
        "a   11111111  22222222",
        "bb         4         5",
        "x   three",
        "a       3",
        "bb      6",
    ]
