"""``--trace log``: round 1 is looked at after 1, 2, 4, … steps and at its end; nothing else of the run changes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import odd
from growing import STRENGTHS, grown
from lottery import test_resume
from lottery.runs import events, flags, forked, only_run, traces
from lottery.test_ranks import run as run_ranks
from swlottery.find import trace as tracing
from swlottery.lottery import trace
from swlottery.models.coordinates import Coordinate

STEPS = [1, 2, 4, 6]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny_gpt2, text) -> Path:
    """A traced run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("traced")
    assert forked(flags(tiny_gpt2, text, folder, trace="log"), folder / "log") == 0, (folder / "log").read_text()
    return only_run(folder)


def of_trace(run: Path) -> tuple[bytes, list]:
    return (run / "round_1" / "trace.csv").read_bytes(), events(run, "trace")


def test_the_steps():
    assert trace.steps(6) == STEPS
    assert trace.steps(1) == [1] and trace.steps(8) == [1, 2, 4, 8] and trace.steps(9) == [1, 2, 4, 8, 9]
    assert trace.steps(3000) == [*(2**n for n in range(12)), 3000]


def test_a_trace_costs_little_of_gpt2s_round():
    """GPT-2 124M, 3,000 steps of 245,760 tokens: under 2 % of its forward tokens, and about two gigabytes on disk."""
    cost = trace.cost(3000, 250, 12 * 32, 32 * 128, [(768 * 3072, 768 + 3072)] * 12)
    assert cost["steps"] == trace.steps(3000)
    assert cost["forward_tokens"] == 13 * ((4 + 12 + 32) * 384 + 33 * 4096) == 1_996_800
    assert cost["forward_tokens"] / (3000 * 245_760) < 0.003
    assert cost["bytes"] == 13 * 4 * 12 * (768 * 3072 + 250 * (768 + 3072))


def test_it_changes_nothing_of_the_training(alone, tiny_gpt2, text, tmp_path):
    assert forked(flags(tiny_gpt2, text, tmp_path), tmp_path / "log") == 0
    plain, traced = traces(only_run(tmp_path)), traces(alone)
    (start,) = (event for event in traced["metrics"] if event["event"] == "start")
    cost = start.pop("trace")
    traced["metrics"] = [event for event in traced["metrics"] if event["event"] != "trace"]
    del plain["card"], traced["card"]  # they name the settings
    test_resume.assert_same(traced, plain)
    assert cost["steps"] == STEPS and only_run(tmp_path).name != alone.name
    (event,) = events(alone, "trace")
    assert 0 < event["forward_tokens"] <= cost["forward_tokens"] and event["missing"] == []
    assert 0.95 * event["bytes"] < cost["bytes"] < 1.05 * event["bytes"]
    rows = tracing.read(alone / "round_1" / "trace.csv")
    assert rows == event["rows"] and [row["step"] for row in rows] == STEPS
    assert [row["tokens"] for row in rows] == [128 * step for step in STEPS]
    assert not (alone / "trace").exists()
    assert "round_1/trace.csv" in (alone / "SHA256SUMS").read_text()
    said = (alone.parents[1] / "log").read_text()
    assert "at most" in said and "MB on disk until round 1 ends" in said and "When did they form?" in said
    assert "trace" not in (only_run(tmp_path) / "metrics.jsonl").read_text().splitlines()[0].partition('"followed"')[2]


@pytest.mark.parametrize(
    "kills",
    [
        [test_resume.kill_in("step", 2, 0), test_resume.kill_in("step", 3, 0)],
        [test_resume.kill_in("writing", 6, 0), test_resume.kill_in("writing", 9, 0.002)],
        [test_resume.kill_in("pruning", 3, 0.01)],
        [test_resume.kill_in("finder", 1, 0)],
    ],
    ids=["at steps", "while it is written", "in the prune", "at the end of round 1"],
)
def test_a_killed_run_has_the_same_trace(kills, alone, tiny_gpt2, text, tmp_path, monkeypatch):
    ends, _ = test_resume.interrupted(tiny_gpt2, text, tmp_path, kills, monkeypatch, trace="log")
    test_resume.assert_same(ends, traces(alone))
    assert of_trace(only_run(tmp_path)) == of_trace(alone) and not (only_run(tmp_path) / "trace").exists()


def test_a_run_of_one_training_that_is_killed_at_its_end(tiny_gpt2, text, tmp_path, monkeypatch):
    """No checkpoint lies behind its only training: what was traced is needed until the run is finished."""
    more, whole = ["--prune-at-start"], tmp_path / "whole"
    arguments = flags(tiny_gpt2, text, whole, *more, trace="log", rounds=1)
    assert forked(arguments, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    kills, folder = [test_resume.kill_in("hashes", 1, 0)], tmp_path / "killed"
    folder.mkdir()
    ends, _ = test_resume.interrupted(tiny_gpt2, text, folder, kills, monkeypatch, more=more, trace="log", rounds=1)
    test_resume.assert_same(ends, traces(only_run(whole)))
    assert of_trace(only_run(folder)) == of_trace(only_run(whole)) and not (only_run(folder) / "trace").exists()


def test_a_signal_at_each_traced_step(alone, tiny_gpt2, text, tmp_path, monkeypatch):
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))

    def at(step: int):
        def patch() -> None:
            from swlottery.lottery.training import Training

            real = Training.step

            def signalled(self, number, round_, see=None):
                if (round_, number) == (1, step):
                    os.kill(os.getpid(), signal.SIGTERM)
                return real(self, number, round_, see)

            Training.step = signalled

        return patch

    arguments = flags(tiny_gpt2, text, tmp_path, trace="log", checkpoint_steps=1000)
    for step in (0, 1, 3, 5):
        assert forked(arguments, tmp_path / "log", at(step)) == 75, (tmp_path / "log").read_text()
        kept = {path.stem for path in (only_run(tmp_path) / "trace").glob("*.json")}
        assert kept == {f"step_{one}" for one in STEPS if one <= step + 1}
    assert forked(arguments, tmp_path / "log") == 0
    assert of_trace(only_run(tmp_path)) == of_trace(alone)


def test_a_damaged_step_is_left_out_and_named(tiny_gpt2, text, tmp_path):
    def damage() -> None:
        from swlottery.commands.traces import TraceKeeper

        real = TraceKeeper.traces

        def traces(self, steps):
            for step in (2, 4):
                path = self._trace(step)
                path.write_bytes(path.read_bytes()[:-1] + b"?") if step == 2 else path.unlink()
            return real(self, steps)

        TraceKeeper.traces = traces

    arguments = flags(tiny_gpt2, text, tmp_path, trace="log")
    assert forked(arguments, tmp_path / "log", damage) == 0, (tmp_path / "log").read_text()
    rows, ((event),) = tracing.read(only_run(tmp_path) / "round_1" / "trace.csv"), events(only_run(tmp_path), "trace")
    assert [row["step"] for row in rows] == [1, 6] and event["missing"] == [2, 4]
    assert "damaged, and left out: what was kept after steps 2, 4" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("asked", ["log", "none"])
def test_a_branch_takes_its_parents(asked, alone, tiny_gpt2, text, tmp_path):
    arguments = flags(tiny_gpt2, text, tmp_path, trace=asked, from_round_1=alone, prune_rate=0.5)
    assert forked(arguments, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    run = only_run(tmp_path)
    assert (run / "round_1" / "trace.csv").read_bytes() == (alone / "round_1" / "trace.csv").read_bytes()
    told = [event["rows"] for event in events(run, "trace")]
    assert told == ([events(alone, "trace")[0]["rows"]] if asked == "log" else [])
    assert "trace" not in events(run, "start")[0]


def test_a_branch_whose_parent_has_none(tiny_gpt2, text, tmp_path):
    assert forked(flags(tiny_gpt2, text, tmp_path), tmp_path / "log") == 0
    arguments = flags(tiny_gpt2, text, tmp_path / "b", trace="log", from_round_1=only_run(tmp_path))
    (tmp_path / "b").mkdir()
    assert forked(arguments, tmp_path / "log") == 0
    assert "was trained without --trace log" in " ".join((tmp_path / "log").read_text().split())
    assert not (only_run(tmp_path / "b") / "round_1" / "trace.csv").exists()


def test_two_ranks_trace_as_one(alone, tiny_gpt2, text, tmp_path):
    arguments = flags(tiny_gpt2, text, tmp_path, trace="log")
    assert run_ranks(2, arguments, tmp_path / "log") == [0, 0], (tmp_path / "log0").read_text()
    ours, theirs = (tracing.read(run / "round_1" / "trace.csv") for run in (only_run(tmp_path), alone))
    assert len(ours) == len(theirs) and [row["step"] for row in ours] == [row["step"] for row in theirs]


def test_the_first_step_above_the_bar(text, tmp_path):
    """The network stays, but for a planted weight that has another size after each traced step. Its context is full."""
    loaded, place, values = grown(tmp_path / "model", n_positions=64)
    loaded.model.save_pretrained(tmp_path / "model")
    at = dict(zip([1, 2, 4, 8, 16, 32, 64, 80], values, strict=True))

    def grow() -> None:
        from swlottery.lottery.loop import Lottery

        real = Lottery.take_step

        def step(self, number, round, see):
            real(self, number, round, see)
            if round == 1 and number + 1 in at:
                with torch.no_grad():
                    self.network.roles.downs[place.layer].matrix()[place.out, place.in_] = at[number + 1]

        Lottery.take_step = step

    still = {"lr": 0.0, "weight_decay": 0.0, "steps": 80, "rounds": 1, "eval_steps": 80, "checkpoint_steps": 80}
    arguments = flags(tmp_path / "model", text, tmp_path, trace="log", grad_accum=1, context=64, **still)
    assert forked(arguments, tmp_path / "log", grow) == 0, (tmp_path / "log").read_text()
    own = [row for row in tracing.read(only_run(tmp_path) / "round_1" / "trace.csv") if Coordinate.of(row) == place]
    assert [row["step"] for row in own] == list(at)
    assert [row["found"] for row in own] == [strength > 1 for strength in STRENGTHS]
    assert [row["low"] is not None for row in own] == [row["found"] for row in own]
    summary = next(line for line in (tmp_path / "log").read_text().splitlines() if line.startswith(str(place)))
    assert "step32" in summary
    shutil.rmtree(tmp_path / "model")


def test_a_mixture_is_traced_expert_by_expert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = odd.train(odd.model(tmp_path / "m", "mixtral"), "--trace", "log", "--super-weights", "none")
    assert said.code == 0, said
    (row, *_), (run,) = tracing.read(next(tmp_path.glob("runs/*/round_1/trace.csv"))), tmp_path.glob("runs/*")
    assert row["expert"] in range(4) and (row["step"], row["ratio"] > 0) == (1, True)
    (event,) = events(run, "trace")
    assert len(event["rows"]) == 3 and event["missing"] == []
    (said,) = events(run, "start")
    assert 0.98 < event["bytes"] / said["trace"]["bytes"] < 1.02, "two of four experts work on a token"
