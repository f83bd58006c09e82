"""A lottery on a GPU that is none: all that the arms do to masks, and a run that goes on where it was stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_gpu import NAME
from lottery.runs import built, flags, only_run, table, traces
from swlottery.cli import main
from swlottery.lottery import branch
from swlottery.lottery import masks as masking
from swlottery.models import load as models
from swlottery.models.coordinates import Coordinate
from swlottery.runtime import files
from swlottery.watch.tracked import Tracked, subjects

TRACKED = [Tracked("super_weight", Coordinate(1, 5, 60)), Tracked("super_weight", Coordinate(0, 1, 0))]


def run_of(model: Path, text: Path, folder: Path, known: Any = (), parent: Path | None = None, **changes: Any) -> Any:
    """A short lottery from its start to its end."""
    run = built(model, text, folder, known, **{"steps": 3, "rounds": 1, "eval_steps": 2, **changes})
    run.run(subjects(known, run.settings), parent)
    assert run.training.device.type == NAME
    assert all(p.device.type == NAME for p in (*run.parameters.values(), *run.training.masks.values()))
    assert not masking.violations(run.training.masks, run.parameters)
    return run


def test_a_whole_run_by_the_command_is_that_of_the_cpu(tiny_gpt2, text, tmp_path, gpu, monkeypatch):
    """Train, watch, prune, discover, rewind, the log and the figures; but for rounding, as the CPU's kernels differ in
    the order of their sums."""
    changes = {"steps": 4, "device": "auto"}
    assert main(flags(tiny_gpt2, text, tmp_path / "gpu", **changes)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(models, "pick_device", lambda device: torch.device("cpu"))
        assert main(flags(tiny_gpt2, text, tmp_path / "cpu", **changes)) == 0
    mine, other = (traces(only_run(tmp_path / device)) for device in ("gpu", "cpu"))
    assert mine["metrics"][0]["device"] == f"{NAME}:0"
    assert [event["event"] for event in mine["metrics"]] == [event["event"] for event in other["metrics"]]
    for row, plain in zip(mine["rounds"], other["rounds"], strict=True):
        assert row["remaining"] == plain["remaining"]
        assert float(row["val_loss"]) == pytest.approx(float(plain["val_loss"]), rel=1e-5)
    rows = [[line.split(",") for line in one["watch"].decode().splitlines()] for one in (mine, other)]
    assert len(rows[0]) == len(rows[1]) > 100
    named = rows[0][0]
    main_ones = [[dict(zip(named, row, strict=True)) for row in each[1:] if row[2] == "leader"] for each in rows]
    for row, plain in zip(*main_ones, strict=True):
        for name in ("value", "percentile_matrix", "percentile_remaining", "gradient_percentile", "update_percentile"):
            assert float(row[name] or 0) == pytest.approx(float(plain[name] or 0), rel=1e-3, abs=1e-2), name


def test_a_run_stopped_in_mid_round_ends_with_the_bits_of_one_left_alone(tiny_gpt2, text, tmp_path, gpu, monkeypatch):
    """A resumed optimiser has its ``step`` where the fused kernel reads it."""
    settings = {"super_weights": "discover"}
    built(tiny_gpt2, text, tmp_path / "alone" / "run", **settings).run()
    for stop_at in ((1, 5), (2, 3)):  # checkpoints stand behind every second step
        run = built(tiny_gpt2, text, tmp_path / "stopped" / "run", **settings)
        monkeypatch.setattr(run.recorder, "stepped", raise_at(stop_at))
        with pytest.raises(KeyboardInterrupt):
            run.run()
        run.keeper.close()
    again = built(tiny_gpt2, text, tmp_path / "stopped" / "run", **settings)
    assert (again.position.round, again.position.step) == (2, 2)
    assert {tensor.device.type for tensor in again.training.moments().values()} == {NAME}
    again.run()
    assert traces(tmp_path / "stopped" / "run") == traces(tmp_path / "alone" / "run")


def raise_at(place: tuple[int, int]) -> Any:
    def stepped(round: int, step: int, steps: int) -> None:
        if (round, step) == place:
            raise KeyboardInterrupt

    return stepped


@pytest.mark.parametrize(
    "changes",
    [
        {"criterion": "layer-magnitude", "scope": "linear"},
        {"criterion": "random", "scope": "mlp"},
        {"scope": "all"},
        {"rewind": "lr"},
        {"rewind": "none", "lr_schedule": "cosine"},
        {"rewind_step": 2, "data_order": "fresh"},
        {"one_shot": True, "rounds": 3},
        {"dtype": "bfloat16", "clip": 0.1},
    ],
    ids=str,
)
def test_what_is_pruned_and_rewound(changes, tiny_gpt2, text, tmp_path, gpu):
    run = run_of(tiny_gpt2, text, tmp_path, TRACKED, **changes)
    rows = table(tmp_path, "rounds.csv")
    counts = [int(row["remaining"]) for row in rows]
    assert len(counts) == len(run.counts) and counts[0] - counts[-1] == sum(run.counts[:-1])
    assert masking.remaining(run.keeper.masks(len(run.counts) - 1)) == counts[-1]


@pytest.mark.parametrize("known", [TRACKED, []], ids=["a record", "discovered"])
@pytest.mark.parametrize("arm", [{"protect": "sw"}, {"force_prune": "sw"}, {"force_prune": "controls"}], ids=str)
def test_the_arms_of_the_super_weights(arm, known, tiny_gpt2, text, tmp_path, gpu):
    run = run_of(
        tiny_gpt2,
        text,
        tmp_path,
        known,
        super_weights="a record" if known else "discover",
        scope="mlp",
        prune_rate="0.5",
        steps=2,
        rounds=2,
        **arm,
    )
    own = [one.coordinate for one in run.recorder.tracked]
    masks = run.layout.matrices(run.training.masks)
    alive = [bool(masks[c.layer, c.expert][c.out, c.in_]) for c in own]
    if "protect" in arm:
        assert own and all(alive)
    elif arm["force_prune"] == "sw":
        assert own and not any(alive)
    else:
        first = masking.load(tmp_path / "masks" / f"round_{0 if known else 1}.safetensors")
        assert len(run.pruner.arms.forced or own) == len(own)
        assert not known or sum(int((~mask).sum()) for mask in first.values()) == len(own)
    before, after = (masking.load(tmp_path / "masks" / f"round_{n}.safetensors") for n in (0, 2))
    assert masking.remaining(before) - masking.remaining(after) == sum(run.counts[:-1])


def test_a_branch_from_round_1(tiny_gpt2, text, tmp_path, gpu):
    """It prunes as its parent does, without the first training; an arm of it as it is told."""
    run = run_of(tiny_gpt2, text, tmp_path / "parent", TRACKED, rewind_step=1)
    files.write_json(tmp_path / "parent" / "settings.json", dataclasses.asdict(run.settings))
    branch.check(tmp_path / "parent", run.settings)
    source = tmp_path / "parent" / "round_1"
    run_of(tiny_gpt2, text, tmp_path / "branch", TRACKED, source, rewind_step=1)
    masks = [masking.load(tmp_path / name / "masks" / "round_1.safetensors") for name in ("parent", "branch")]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    arm = run_of(
        tiny_gpt2, text, tmp_path / "arm", TRACKED, source, rewind_step=1, force_prune="sw", super_weights="a record"
    )
    kept = arm.layout.matrices(arm.training.masks)
    assert not any(kept[c.layer, c.expert][c.out, c.in_] for c in arm.pruner.arms.forced)


@pytest.mark.parametrize("init", ["xavier", "gpt2"])
def test_from_scratch_with_frozen_biases(init, tiny_gpt2, text, tmp_path, gpu, monkeypatch):
    monkeypatch.setitem(models.SHAPES, "gpt2-mini", {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64})
    run = run_of(
        "gpt2-mini",
        text,
        tmp_path,
        start="scratch",
        init=init,
        freeze_biases=True,
        tokenizer=str(tiny_gpt2),
        super_weights="discover",
    )
    biases = [p for name, p in run.parameters.items() if run.network.roles.role_of(name, p) == "bias"]
    assert biases and not any(bool(bias.any()) for bias in biases)


def test_a_mixture_of_experts(text, tmp_path, tiny_gpt2, gpu):
    """Its down-projections are one tensor of three dimensions a layer."""
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    folder = tmp_path / "mixtral"
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        num_experts_per_tok=2,
        max_position_embeddings=512,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(folder)
    run = run_of(folder, text, tmp_path / "run", super_weights="discover", protect="sw")
    assert run.recorder.tracked[0].coordinate.expert is not None
