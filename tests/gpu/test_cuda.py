"""What only a GPU can show. Everything here is skipped where torch sees none (tests/conftest.py)."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lottery.runs import built, flags, only_run, table, traces
from swlottery.cli import main
from swlottery.lottery.select import select
from swlottery.lottery.training import Training

pytestmark = pytest.mark.gpu


def on_gpu(model: Path, text: Path, folder: Path, **changes: object) -> list[str]:
    return flags(model, text, folder, **{"device": "cuda", "dtype": "bfloat16", **changes})


@pytest.fixture(scope="module")
def alone(tiny_gpt2: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole lottery that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWLOTTERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main(on_gpu(tiny_gpt2, text, folder)) == 0
    return only_run(folder)


def test_a_whole_lottery(alone):
    rows = table(alone, "rounds.csv")
    counts = [int(row["remaining"]) for row in rows]
    assert len(rows) == 3
    assert all(after == before - before // 5 for before, after in pairwise(counts))
    assert all(np.isfinite(float(row["val_loss"])) for row in rows)


def test_two_runs_have_the_same_bits(alone, tiny_gpt2, text, tmp_path):
    assert main(on_gpu(tiny_gpt2, text, tmp_path)) == 0
    assert traces(only_run(tmp_path)) == traces(alone)


@pytest.mark.parametrize(("round_", "step"), [(1, 2), (2, 3)])
def test_a_run_stopped_in_mid_round_goes_on_with_the_same_bits(
    round_, step, alone, tiny_gpt2, text, tmp_path, monkeypatch
):
    real = Training.step

    def signalled(self, number, of_round, *rest, **named):
        if (of_round, number) == (round_, step):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, number, of_round, *rest, **named)

    monkeypatch.setattr(Training, "step", signalled)
    assert main(on_gpu(tiny_gpt2, text, tmp_path)) == 75
    monkeypatch.setattr(Training, "step", real)
    assert main(on_gpu(tiny_gpt2, text, tmp_path)) == 0
    assert traces(only_run(tmp_path)) == traces(alone)


def test_the_optimizer_taken_up_from_a_file_steps_on(tiny_gpt2, text, tmp_path):
    """AdamW's fused kernel reads its count of steps on the device; a checkpoint is read into the CPU's memory."""
    run = built(tiny_gpt2, text, tmp_path, device="cuda")
    run.training.step(0, 1)
    weights = {name: p.detach().clone() for name, p in run.parameters.items()}
    stored = {name: tensor.detach().cpu().clone() for name, tensor in run.training.moments().items()}
    run.training.step(1, 1)
    expected = {name: p.detach().clone() for name, p in run.parameters.items()}
    with torch.no_grad():
        for name, parameter in run.parameters.items():
            parameter.copy_(weights[name])
    run.training.set_moments(stored)
    run.training.step(1, 1)
    for name, parameter in run.parameters.items():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_the_loss_is_the_same(tiny_gpt2, text, tmp_path, dtype):
    """And with it the attention that compiled runs use. No rounding of bfloat16 reaches a hundredth here."""
    losses = []
    for compiled in (False, True):
        run = built(tiny_gpt2, text, tmp_path / str(compiled), device="cuda", dtype=dtype, compile=compiled)
        losses.append([run.training.step(step, 1)[0] for step in range(3)])
    np.testing.assert_allclose(*losses, rtol=1e-4 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("criterion", ["global-magnitude", "layer-magnitude", "random"])
def test_a_prune_takes_the_same_weights_as_on_a_cpu(tiny_gpt2, text, tmp_path, criterion):
    masks = []
    for device in ("cpu", "cuda"):
        run = built(tiny_gpt2, text, tmp_path / device, device=device, criterion=criterion)
        for _ in range(2):
            run.training.set_masks(run.pruner.prune(run.training.masks, 5000))
        masks.append({name: mask.cpu() for name, mask in run.training.masks.items()})
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name]), name


@pytest.mark.parametrize("ties", [False, True])
def test_a_selection_of_millions_is_that_of_a_cpu(ties):
    generator = torch.Generator().manual_seed(0)
    weights = {
        str(i): torch.randn(shape, generator=generator) for i, shape in enumerate([(1500, 2000), (7,), (999, 333)])
    }
    weights = {name: (w * 8).round() / 8 if ties else w for name, w in weights.items()}
    masks = {name: torch.rand(w.shape, generator=generator) > 0.2 for name, w in weights.items()}
    count = sum(int(mask.sum()) for mask in masks.values()) // 5
    expected = select(weights, masks, count, 0)
    got = select(*({name: t.cuda() for name, t in tensors.items()} for tensors in (weights, masks)), count, 0)
    for name, mask in expected.items():
        assert torch.equal(got[name].cpu(), mask), name


def found_on(device: str, folder: Path) -> dict[str, Any]:
    from swlottery.config import FindSettings
    from swlottery.data.evaluation import Documents, Text
    from swlottery.find import probe
    from swlottery.find.events import Prepared
    from swlottery.find.run import find
    from swlottery.models import load as model

    loaded = model.load(str(folder), device=device)
    prompts = probe.build(loaded.tokenizer, probe.DEFAULT_PROMPTS, loaded.context, "both", loaded.device)
    windows = torch.randint(200, (30, 64), generator=torch.Generator().manual_seed(0))
    settings = FindSettings(null_draws=19, controls=4, device=device)
    prepared = Prepared(prompts, Text("random", "random", "0" * 64), Documents(windows, 1, 1))
    return find(loaded, prepared, settings, lambda event: None)


def test_the_finder_finds_what_it_finds_on_a_cpu(planted_gpt2):
    folder, coordinate = planted_gpt2
    here, there = (found_on(device, folder)["super_weights"] for device in ("cpu", "cuda"))
    for found in (here, there):
        assert [(one["layer"], one["out"], one["in"]) for one in found] == [coordinate[:3]]
    for name in ("verdict", "rank", "removal", "token"):
        assert here[0][name] == there[0][name]
    for name in ("spike", "share", "ratio", "nll_difference"):
        assert there[0][name] == pytest.approx(here[0][name], rel=1e-2, abs=1e-3)
