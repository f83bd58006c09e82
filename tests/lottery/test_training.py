"""Training under a mask and rewinding, against their definitions: bit for bit, or computed again by hand."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
import weakref
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from lottery.runs import built, complaint, events, flags, only_run, table, traces
from swlottery.cli import main
from swlottery.config import TrainSettings
from swlottery.data import batches
from swlottery.data.batches import Batches
from swlottery.errors import BadInput
from swlottery.lottery import branch, training
from swlottery.lottery import masks as masking
from swlottery.lottery.loop import Lottery
from swlottery.lottery.loss import _InParts, _parts, has_plain_head, loss_in_parts
from swlottery.lottery.training import NotFinite, Training, batch_number, learning_rate, loss_of
from swlottery.runtime import checkpoint, environment, files
from swlottery.runtime.deterministic import strict
from swlottery.runtime.ranks import Place, Ranks
from swlottery.runtime.stop import Stopped


def copy(tensors) -> dict:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# The rate of every step of a round


COSINE = [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]  # of 6 steps, 2 of warm-up: half a cosine from 1 to 0.1 over steps 2 … 5
SCHEDULES = {
    "cosine": ({"lr_schedule": "cosine", "warmup": 2}, COSINE),
    "cosine, no warm-up": ({"lr_schedule": "cosine"}, [0.1 + 0.45 * (1 + math.cos(math.pi * i / 5)) for i in range(6)]),
    "constant": ({"warmup": 4}, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
    "constant, no warm-up": ({}, [1.0] * 6),
    "warm-up longer than the round": ({"warmup": 8, "lr_schedule": "cosine"}, [(i + 1) / 8 for i in range(6)]),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_of_every_step(schedule):
    changes, expected = SCHEDULES[schedule]
    for rewind in ("weights", "lr", "none"):
        settings = TrainSettings(steps=6, lr=3.0, rewind=rewind, rewind_step=2, **changes)
        assert [learning_rate(settings, step, 1) / 3.0 for step in range(6)] == pytest.approx(expected)
        for round_ in (2, 3):
            got = [learning_rate(settings, step, round_) / 3.0 for step in range(2, 6)]
            assert got == pytest.approx([expected[-1]] * 4 if rewind == "none" else expected[2:])


def test_one_step_has_a_rate():
    assert learning_rate(TrainSettings(steps=1, lr=2.0, lr_schedule="cosine"), 0, 1) == 2.0


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("order", ["same", "fresh"])
@pytest.mark.parametrize("first", [0, 2])
def test_the_batches_of_a_round_are_the_ones_its_data_order_says(
    order, first, seed, tiny_gpt2, text, tmp_path, monkeypatch
):
    """Seen where they are drawn, and again where the loss reads them."""
    drawn, read, step = [], [], []
    real, real_step = batches.batch, Training.step

    def spied(tokens, context, size, seed, number, rows, prefix):
        drawn.append((step[0], number))
        assert (context, size, list(rows), prefix) == (32, 4, [0, 1, 2, 3], [])
        return real(tokens, context, size, seed, number, rows)

    def see(model, tokens):
        if torch.is_grad_enabled():
            read.append(tokens.clone())
        return loss_of(model, tokens)

    def at(self, number, round_, see=None):
        step[:] = [(round_, number)]
        return real_step(self, number, round_, see)

    monkeypatch.setattr(batches, "batch", spied)
    monkeypatch.setattr("swlottery.lottery.loss.has_plain_head", lambda model: False)
    monkeypatch.setattr(training, "loss_of", see)
    monkeypatch.setattr(Training, "step", at)
    run = built(tiny_gpt2, text, tmp_path, data_order=order, rewind_step=first, steps=4, data_seed=seed)
    run.run()
    by_round = {1: range(4), 2: range(first, 4), 3: range(first, 4)}
    steps = [(round_, number) for round_, numbers in by_round.items() for number in numbers]
    numbers = [number if order == "same" else 4 * (round_ - 1) + number for round_, number in steps]
    assert drawn == list(zip(steps, numbers, strict=True))
    assert [batch_number(run.settings, number, round_) for round_, number in steps] == numbers
    expected = torch.cat([real(run.training.data, 32, 4, seed, number) for number in numbers])
    assert torch.equal(torch.cat(read), expected)


# A whole lottery, seen at every step


@dataclass
class Seen:
    """What a spy saw of a lottery. By round: the weights at its start and its end, and what its first checkpoint held;
    by (round, steps done): the weights, and the rate that the optimiser used."""

    run: object
    start: dict = field(default_factory=dict)
    end: dict = field(default_factory=dict)
    saved: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    rates: dict = field(default_factory=dict)

    def mask(self, number: int) -> dict:
        """m_number, with ones for what is not in scope."""
        stored = masking.load(self.run.keeper.folder / "masks" / f"round_{number}.safetensors")
        return {name: stored.get(name, torch.ones_like(p, dtype=torch.bool)) for name, p in self.run.parameters.items()}


@pytest.fixture
def watched(tiny_gpt2, text, tmp_path, monkeypatch):
    def go(**changes) -> Seen:
        run = built(tiny_gpt2, text, tmp_path, **changes)
        seen = Seen(run)
        real_step, real_next = Training.step, Lottery.next_round

        def step(self, number, round_, see=None):
            result = real_step(self, number, round_, see)
            seen.after[round_, number + 1] = copy(run.parameters)
            (seen.rates[round_, number + 1],) = {group["lr"] for group in self.optimizer.param_groups}
            return result

        def next_round(run, round_):
            real_next(run, round_)
            run.keeper.settle()
            seen.start[round_] = copy(run.parameters)
            assert not run.training.moments(), "moments are fresh"
            _, seen.saved[round_] = checkpoint.read(checkpoint.newest(run.keeper.folder / "checkpoints", pytest.fail))

        monkeypatch.setattr(Training, "step", step)
        monkeypatch.setattr(Lottery, "next_round", next_round)
        seen.start[1] = copy(run.parameters)
        run.run()
        seen.end = {round_: seen.after[round_, run.settings.steps] for round_ in (1, 2, 3)}
        return seen

    return go


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("rewind", ["weights", "lr", "none"])
def test_each_kind_of_rewinding_does_what_its_definition_says(watched, rewind, first):
    seen = watched(rewind=rewind, rewind_step=first, lr_schedule="cosine", warmup=2)
    theta_k = seen.after[1, first] if first else seen.start[1]
    for round_ in (2, 3):
        base = theta_k if rewind == "weights" else seen.end[round_ - 1]
        mask = seen.mask(round_ - 1)
        expected = {name: torch.where(mask[name], tensor, 0.0) for name, tensor in base.items()}
        assert equal(seen.start[round_], expected), "θ_k·m, or the trained weights times m"
        assert all(bool((tensor == 0).sum() >= (~mask[name]).sum()) for name, tensor in seen.start[round_].items())
        assert sum(int((~m).sum()) for m in mask.values()) > 1000 * (round_ - 1), "there is something to see"
        saved = {name[2:]: tensor for name, tensor in seen.saved[round_].items() if name.startswith("w/")}
        assert equal(saved, expected)
        assert not [name for name in seen.saved[round_] if name[:2] in ("m/", "v/", "t/")]
    rates = {round_: [rate / 1e-2 for (r, _), rate in seen.rates.items() if r == round_] for round_ in (1, 2, 3)}
    assert rates[1] == pytest.approx(COSINE)
    for round_ in (2, 3):
        steps = [number for r, number in seen.rates if r == round_]
        assert steps == list(range(first + 1, 7)), "steps k … T−1"
        assert rates[round_] == pytest.approx([0.1] * (6 - first) if rewind == "none" else COSINE[first:])
    if rewind == "weights":
        assert not equal(seen.end[1], theta_k)


def test_at_a_rate_of_0_a_lottery_changes_nothing_but_masks(watched):
    seen = watched(lr=0.0)
    assert equal(seen.end[3], {n: torch.where(seen.mask(2)[n], t, 0.0) for n, t in seen.start[1].items()})


def test_masked_weights_have_no_moments_no_value_and_no_part_in_the_norm(tiny_gpt2, text, tmp_path, monkeypatch):
    real, checked, biggest = Training.step, [], []

    def step(self, number, round_, see=None):
        parameters = self.parameters
        tokens = batches.batch(self.data, 32, 4, 0, number)
        loss = sum(loss_of(self.network.model, part) for part in tokens.split(2)) / 2
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        whole = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients.values()))
        of_remaining = {n: g[self.masks[n]] if n in self.masks else g for n, g in gradients.items()}
        by_hand = math.sqrt(sum(float(g.double().pow(2).sum()) for g in of_remaining.values()))
        before = copy(parameters)
        mean, norm = real(self, number, round_, see)
        assert mean == pytest.approx(loss.item(), rel=1e-6)
        assert norm == pytest.approx(by_hand, rel=1e-5)
        biggest.append(whole / by_hand)
        moments = self.moments()
        gone = 0
        for name, mask in self.masks.items():
            gone += int((~mask).sum())
            for tensor in (parameters[name].detach(), before[name], moments[f"m/{name}"], moments[f"v/{name}"]):
                assert not tensor[~mask].count_nonzero(), (round_, number, name)
            assert moments[f"v/{name}"][mask].count_nonzero() > 0.9 * mask.sum(), "the others have"
        checked.append((round_, gone))
        return mean, norm

    monkeypatch.setattr(Training, "step", step)
    run = built(tiny_gpt2, text, tmp_path, rounds=2, prune_rate="0.6", steps=3)
    run.run()
    counts = run.counts[:2]
    assert checked == [(1, 0)] * 3 + [(2, counts[0])] * 3 + [(3, sum(counts))] * 3
    assert max(biggest[:3]) == pytest.approx(1) and min(biggest[3:]) > 1.001, "masked gradients would have been seen"


def test_a_parent_whose_first_training_was_masked_is_no_parent(tiny_gpt2, text, tmp_path):
    """--force-prune may differ in a branch only where it did not touch the first training."""
    run = built(tiny_gpt2, text, tmp_path, steps=1, rounds=1)
    run.run()
    files.write_json(tmp_path / "settings.json", dataclasses.asdict(run.settings))
    assert len(branch.check(tmp_path, run.settings)["weights_sha256"]) == 64
    shutil.rmtree(tmp_path / "checkpoints")  # they know the hash of the masks
    stored = masking.load(tmp_path / "masks" / "round_0.safetensors")
    next(iter(stored.values())).view(-1)[5] = False
    files.write_tensors(tmp_path / "masks" / "round_0.safetensors", *masking.pack(stored))
    with pytest.raises(BadInput, match="force-pruned from the start"):
        branch.check(tmp_path, run.settings)


# One step


@pytest.fixture
def made(tiny_gpt2, text, tmp_path):
    """Training of the tiny model, a third of each down-projection masked."""

    def make(**changes) -> Training:
        run = built(tiny_gpt2, text, tmp_path / str(len(list(tmp_path.iterdir()))), **changes)
        masks = dict(run.training.masks)
        for name, parameter in run.downs.items():
            masks[name] = (torch.arange(parameter.numel()) % 3 > 0).view(parameter.shape)
        masking.apply(masks, run.parameters)
        run.training.set_masks(masks)
        return run.training

    return make


def stepped(training: Training, number: int = 0) -> tuple[float, float, dict]:
    """One step: its loss, its norm, and the gradients before clipping."""
    gradients = {}
    loss, norm = training.step(
        number, 1, lambda: gradients.update({n: p.grad.clone() for n, p in training.parameters.items()})
    )
    return loss, norm, gradients


@pytest.mark.parametrize("clip", [0.0, 0.05, 1.0, 1e6])
def test_adamw_and_clipping_computed_by_hand(made, clip):
    """Loshchilov & Hutter (2019), in float64 from the gradients before clipping; matrices decay, the rest does not."""
    training = made(clip=clip, weight_decay=0.3, beta1=0.8, beta2=0.9, warmup=4, lr=0.02)
    weights = {name: p.detach().double() for name, p in training.parameters.items()}
    m, v = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    scales = []
    for step in range(4):
        _, norm, gradients = stepped(training, step)
        by_hand = math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients.values()))
        assert norm == pytest.approx(by_hand, rel=1e-6)
        scale = min(1.0, clip / (by_hand + 1e-6)) if clip else 1.0
        scales.append(scale)
        rate = 0.02 * (step + 1) / 4
        for name, w in weights.items():
            g = gradients[name].double() * scale
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g * g
            decay = 0.3 if w.ndim == 2 else 0.0
            w -= rate * decay * w
            w -= rate * (m[name] / (1 - 0.8 ** (step + 1))) / ((v[name] / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        state = training.moments()
        for name, w in weights.items():
            torch.testing.assert_close(state[f"m/{name}"].double(), m[name], rtol=1e-4, atol=1e-9)
            torch.testing.assert_close(state[f"v/{name}"].double(), v[name], rtol=1e-4, atol=1e-12)
            torch.testing.assert_close(training.parameters[name].double(), w, rtol=1e-4, atol=2e-6)
    assert max(scales) < 1 if clip in (0.05, 1.0) else min(scales) == 1
    assert {p.ndim for p in training.parameters.values()} == {1, 2}


def test_accumulated_gradients_are_those_of_the_whole_batch(made):
    loss, norm, gradients = stepped(made(micro_batch=2, grad_accum=2))
    whole_loss, whole_norm, whole = stepped(made(micro_batch=4, grad_accum=1))
    assert loss == pytest.approx(whole_loss, rel=1e-6) and norm == pytest.approx(whole_norm, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-7)
    half = stepped(made(micro_batch=2, grad_accum=1))[2]
    assert max(float((half[name] - gradient).abs().max()) for name, gradient in gradients.items()) > 1e-3


def test_bfloat16_is_for_matrix_products_and_weights_stay_float32(made):
    training = made(dtype="bfloat16")
    products = []
    module = training.network.model.transformer.h[1].mlp.c_fc
    module.register_forward_hook(lambda _, args, output: products.append(output.dtype))
    loss, _, gradients = stepped(training)
    windows = batches.validation_windows(training.data, 32, 4)
    held_out = training.evaluate(windows)
    assert products == [torch.bfloat16] * 4
    state = training.moments().values()
    for tensor in (*training.parameters.values(), *gradients.values(), *state):
        assert tensor.dtype == torch.float32
    plain = made()
    exact = stepped(plain)[0]
    assert loss != exact and loss == pytest.approx(exact, rel=5e-3)
    assert held_out == pytest.approx(plain.evaluate(windows), rel=2e-2)


def test_the_held_out_loss_is_a_mean_over_windows_whatever_the_batches(made):
    """Five windows in batches of two: the last batch must not count double."""
    training = made(micro_batch=2)
    windows = batches.validation_windows(training.data, 32, 5)
    with torch.no_grad():
        one_by_one = [float(loss_of(training.network.model, window[None])) for window in windows]
    assert training.evaluate(windows) == pytest.approx(math.fsum(one_by_one) / 5, rel=1e-6)
    assert max(one_by_one) - min(one_by_one) > 1e-3


def test_a_step_and_an_evaluation_are_strictly_deterministic_and_nothing_else_is(made):
    """What `environment.pin` has set comes back, also where a loss is not finite or an evaluation is left."""
    training, seen = made(), []

    def see(model, tokens):
        seen.append(
            (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
        )
        return loss_of(model, tokens)

    def outside():
        return torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()

    training.loss = training.plain_loss = see
    windows = batches.validation_windows(training.data, 32, 4)
    training.step(0, 1)
    assert outside()
    training.evaluate(windows)
    assert outside() and seen == [(True, False)] * 4
    training.loss = not_a_number
    with pytest.raises(NotFinite):
        training.step(1, 1)
    with pytest.raises(Stopped):
        training.evaluate(windows, lambda: True)
    assert outside()


def test_each_rank_draws_its_own_forward_passes_of_a_batch(made):
    """Two ranks of a batch of four passes: the first and third, the second and fourth."""
    whole = made(grad_accum=4)
    tokens = batches.batch(whole.data, 32, 8, 0, 5)
    assert torch.equal(torch.cat(whole.batches.passes(5)), tokens)
    for rank in (0, 1):
        own = Batches(whole.data, 32, whole.settings, Ranks(Place(rank, 2)), whole.device)
        expected = [tokens[2 * i : 2 * i + 2] for i in (rank, rank + 2)]
        assert all(torch.equal(a, b) for a, b in zip(own.passes(5), expected, strict=True))


def test_a_batch_drawn_beforehand_is_used_where_it_is_the_one_that_comes(made, monkeypatch):
    """As on a GPU."""
    batches, drawn, real = made().batches, [], Batches._drawn

    def spied(self, number):
        drawn.append(number)
        return real(self, number)

    monkeypatch.setattr(Batches, "_drawn", spied)
    batches.prepare(1)
    assert drawn == [], "a CPU has no time beside its steps"
    batches.device = SimpleNamespace(type="cuda")
    monkeypatch.setattr("swlottery.data.batches.sent", lambda tokens, device: tokens)
    expected = {number: torch.cat(batches.passes(number)) for number in (0, 1, 7)}
    drawn.clear()
    batches.prepare(1)
    assert torch.equal(torch.cat(batches.passes(1)), expected[1]) and drawn == [1]
    batches.prepare(2)
    assert torch.equal(torch.cat(batches.passes(7)), expected[7]) and drawn == [1, 2, 7], "a round begins anew"
    batches.passes(2)
    assert drawn == [1, 2, 7, 2], "nothing old is kept"


def test_moments_come_back_bit_for_bit(made):
    training = made()
    for step in range(3):
        stepped(training, step)
    before, weights = copy(training.moments()), copy(training.parameters)
    stepped(training, 3)
    after = copy(training.parameters)
    with torch.no_grad():
        for name, parameter in training.parameters.items():
            parameter.copy_(weights[name])
    training.set_moments(before)
    assert equal(training.moments(), before)
    stepped(training, 3)
    assert equal(copy(training.parameters), after)


# A loss that is not finite


def not_a_number(model, tokens):
    return loss_of(model, tokens) * math.nan


def no_gradient(model, tokens):
    """A finite loss whose gradient is 0 · ∞."""
    return loss_of(model, tokens) + (model.transformer.wpe.weight.sum() * 0).sqrt()


@pytest.mark.parametrize(("broken", "words"), [(not_a_number, "the loss"), (no_gradient, "the gradient")])
def test_a_step_that_is_not_finite_touches_nothing(made, broken, words):
    training = made()
    stepped(training)
    weights, moments = copy(training.parameters), copy(training.moments())
    training.loss = broken
    with pytest.raises(NotFinite, match=f"{words} is not finite at step 5 of round 3"):
        training.step(4, 3)
    assert equal(copy(training.parameters), weights) and equal(training.moments(), moments)


def test_a_nan_stops_the_run_and_the_last_good_checkpoint_stays(tiny_gpt2, text, tmp_path, monkeypatch, capsys):
    """The fourth step of round 2 fails, whose third is behind a checkpoint at step 2."""
    short = {"rounds": 1, "super_weights": "none"}
    assert main(flags(tiny_gpt2, text, tmp_path / "alone", **short)) == 0
    alone = traces(only_run(tmp_path / "alone"))
    real = Training.step

    def step(self, number, round_, see=None):
        if (round_, number) == (2, 3):
            self.loss = not_a_number
        return real(self, number, round_, see)

    capsys.readouterr()
    saving = checkpoint.save

    def slow(*arguments):
        time.sleep(0.1)
        saving(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "step", step)
        patched.setattr(checkpoint, "save", slow)  # it is on its way when the step fails
        assert main(flags(tiny_gpt2, text, tmp_path, **short)) == 2
    said = complaint(capsys.readouterr().err)
    assert "the loss is not finite at step 4 of round 2" in said and "--lr" in said
    run = only_run(tmp_path)
    state, tensors = checkpoint.read(checkpoint.newest(run / "checkpoints", pytest.fail))
    assert (state["round"], state["step"]) == (2, 2)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert "NaN" not in (run / "metrics.jsonl").read_text()
    assert '"failed"' in (run / "status.json").read_text()
    saved = {path: path.read_bytes() for path in sorted((run / "checkpoints").iterdir())}
    monkeypatch.setattr(Lottery, "run", lambda *_: None)  # only what stands before the first step
    assert main(flags(tiny_gpt2, text, tmp_path, **short, lr=1e-3)) == 0
    other = [path for path in (tmp_path / "runs").iterdir() if path != run]
    assert len(other) == 1, "a lower rate is another run"
    assert {path: path.read_bytes() for path in sorted((run / "checkpoints").iterdir())} == saved
    monkeypatch.undo()
    assert main(flags(tiny_gpt2, text, tmp_path, **short)) == 0
    assert traces(run) == alone, "what stood before the failure was sound"


@pytest.mark.parametrize("steps", [1, 4])
def test_a_rate_that_is_far_too_high_ends_in_one_line(steps, tiny_gpt2, text, tmp_path, capsys):
    """After its only step too, where no other step meets what it left."""
    assert main(flags(tiny_gpt2, text, tmp_path, lr=1e18, steps=steps)) == 2
    said = complaint(capsys.readouterr().err)
    assert "not finite" in said and "of round 1" in said
    run = only_run(tmp_path)
    assert "NaN" not in (run / "metrics.jsonl").read_text()
    assert not events(run, "prune") and not table(run, "rounds.csv")


# The loss in parts


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 300, 512])
def test_the_loss_in_parts_is_the_loss(made, rows, precision):
    """300 rows are a part of 256 and a rest, 512 two parts; a loss may be divided before its gradient is taken."""
    model = made().network.model
    tokens = torch.randint(0, model.config.vocab_size, (rows, 2), generator=torch.Generator().manual_seed(rows))

    def taken(loss, model):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            value = loss(model, tokens)
        (value / 3).backward()
        return float(value.detach()), copy({name: p.grad for name, p in model.named_parameters()})

    parts, gradients = taken(loss_in_parts, model)
    whole, theirs = taken(loss_of, model)
    assert parts == pytest.approx(whole, rel=1e-6 if precision == "float32" else 1e-3)
    for name, gradient in gradients.items():
        difference = float((gradient - theirs[name]).norm() / theirs[name].norm())
        assert difference < (1e-5 if precision == "float32" else 0.03), name


def by_scatter(h, weight, targets):
    """The loss and its gradients as they were written before: logits less a scattered one, part by part."""
    total, for_hidden, for_weight = torch.zeros(()), [], 0
    for part, target in zip(h.split(256), targets[:, None].split(256), strict=True):
        log_probabilities = torch.log_softmax(part @ weight.T, -1, dtype=torch.float32)
        total -= log_probabilities.gather(-1, target).sum()
        ones = torch.ones_like(target, dtype=torch.float32)
        for_logits = log_probabilities.exp().scatter_add(-1, target, -ones).to(h.dtype)
        for_hidden.append(for_logits @ weight)
        for_weight = (for_logits.T @ part).float() + for_weight
    share = torch.ones(()) / len(h)
    return total / len(h), torch.cat(for_hidden).float() * share, for_weight * share


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 300, 512])
def test_no_bit_of_the_loss_in_parts_has_changed(rows, dtype, monkeypatch):
    generator = torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(n, 16, generator=generator).requires_grad_() for n in (rows, 97))
    targets = torch.randint(0, 97, (rows,), generator=generator)
    expected = by_scatter(hidden.detach().to(dtype), weight.detach().to(dtype), targets)
    for compiled in (False, True):  # the two ways to subtract the one
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiled=compiled: compiled)
        loss = _InParts.apply(hidden, weight, targets, dtype)
        found = (loss.detach(), *torch.autograd.grad(loss, (hidden, weight)))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), compiled


@pytest.mark.parametrize(("element", "rows"), [(2, [12 * 1024]), (4, [6 * 1024] * 2)])
def test_parts_on_a_gpu_are_as_large_as_their_logits_may_be(element, rows):
    """12 × 1,024 tokens of GPT-2, from tensors without content."""
    dtype = {2: torch.bfloat16, 4: torch.float32}[element]
    h, w = (torch.empty(n, 768, dtype=dtype, device="meta") for n in (12 * 1024, 50304))
    found = list(_parts(h, w, torch.empty(len(h), dtype=torch.long, device="meta")))
    assert [len(part) for part, _ in found] == [len(target) for _, target in found] == rows
    assert max(rows) * len(w) * element <= 1.5 * 2**30


class Held(TorchDispatchMode):
    """How many bytes of new tensors were held at once at most. What only a graph of gradients holds is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.users: Counter = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **named or {})
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place, size = storage.data_ptr(), storage.nbytes()
                self.now += 0 if self.users[place] else size
                self.users[place] += 1
                weakref.finalize(tensor, self.drop, place, size)
        self.most = max(self.most, self.now)
        return result

    def drop(self, place: int, size: int) -> None:
        self.users[place] -= 1
        self.now -= 0 if self.users[place] else size


def test_an_evaluation_holds_no_more_than_a_training_step():
    """Vocabulary of 128,000: the logits of a batch are 307 MB, those of a part 131 MB, and their softmax as much."""
    config = GPT2Config(
        vocab_size=128_000, n_embd=8, n_layer=1, n_head=1, n_positions=300, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    network = SimpleNamespace(
        model=model, parameters=dict(model.named_parameters()), context=300, name="tiny", prefix=[]
    )
    tokens = np.random.default_rng(0).integers(0, 128_000, 2000).astype(np.uint32)
    training = Training(network, {}, TrainSettings(micro_batch=2, grad_accum=1, dtype="float32"), tokens)
    windows = batches.validation_windows(tokens, 300, 2)
    held = {}
    for name, go in {"a step": lambda: training.step(0, 1), "held out": lambda: training.evaluate(windows)}.items():
        with Held() as mode:
            go()
        held[name] = mode.most
    assert 2 * 131e6 < held["held out"] < 270e6 and held["held out"] <= held["a step"]


def test_only_a_plain_head_is_split(made):
    """A cap on the logits (Gemma 2) or a bias (GPT-J, Phi) is what `loss_in_parts` would get wrong."""
    from tiny import CONFIGS, tiny_model

    assert made().loss is loss_in_parts
    for name in CONFIGS:
        model = tiny_model(name).eval()
        assert has_plain_head(model) == (name not in ("gemma2", "gptj", "phi")), name
        if has_plain_head(model):
            tokens = torch.arange(18).reshape(2, 9)
            assert loss_in_parts(model, tokens).item() == pytest.approx(loss_of(model, tokens).item(), rel=1e-6), name


def test_every_architecture_is_strictly_deterministic_on_a_cpu():
    from tiny import CONFIGS, tiny_model

    environment.pin(1)
    for name in CONFIGS:
        model = tiny_model(name).requires_grad_()
        loss = loss_in_parts if has_plain_head(model) else loss_of
        with strict():
            loss(model, torch.arange(18).reshape(2, 9)).backward()  # an operation without such a form would raise


def test_gelu_is_one_kernel_and_the_same_function(made):
    from transformers.activations import NewGELUActivation

    fused = made().network.model
    assert fused.config.activation_function == "gelu_pytorch_tanh"
    assert not any(isinstance(module, NewGELUActivation) for module in fused.modules())
    config = type(fused.config).from_dict(fused.config.to_dict() | {"activation_function": "gelu_new"})
    plain = GPT2LMHeadModel(config).eval()
    plain.load_state_dict(fused.state_dict())
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        torch.testing.assert_close(fused(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)
