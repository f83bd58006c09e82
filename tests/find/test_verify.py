"""Ablations against plain ones, and verdicts from rows whose numbers are chosen."""

import numpy as np
import pytest
import torch

from swlottery.config import KAPPA
from swlottery.find import verify as verifying
from swlottery.find.ablation import Evaluator
from swlottery.find.controls import controls, largest_others, random_set
from swlottery.find.verdicts import Verdict, critical_sets, verdicts
from swlottery.find.verify import Ablation, paired
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate, scaled
from swlottery.models.lineage import weights_sha256
from tiny import CONFIGS, VOCABULARY, tiny_model


def documents(count=30, length=16, seed=0):
    return torch.randint(1, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))


def plain_nll(model, windows):
    """Each document alone, through the whole model, with transformers' own loss."""
    return np.array([float(model(input_ids=row[None], labels=row[None], use_cache=False).loss) for row in windows])


@pytest.mark.parametrize("name", CONFIGS)
def test_an_ablation_equals_a_plain_one_from_the_first_block(name):
    model = tiny_model(name)
    roles = Roles(model)
    windows = documents(30)
    evaluator = Evaluator(model, roles, windows, layers=[0, 1, 2])
    np.testing.assert_allclose(evaluator.baseline, plain_nll(model, windows), rtol=1e-5)
    for layer in (0, 2):
        down = roles.downs[layer]
        where = Coordinate(layer, 3, 5, None if down.experts is None else 1)
        down.matrix(where.expert)[3, 5] = 40.0
        evaluator = Evaluator(model, roles, windows, layers=[2])
        got = evaluator.nll([where])
        with scaled(roles.downs, [where]):
            np.testing.assert_allclose(got, plain_nll(model, windows), rtol=1e-5)
        assert down.matrix(where.expert)[3, 5] == 40.0
    assert not any("forward" in block.__dict__ for block in roles.blocks)


def test_only_the_blocks_from_the_change_on_are_run():
    model = tiny_model("gpt2")
    roles = Roles(model)
    evaluator = Evaluator(model, roles, documents(), layers=[2])
    ran = []
    for nth, block in enumerate(roles.blocks):
        block.attn.register_forward_hook(lambda *_, nth=nth: ran.append(nth))
    evaluator.nll([Coordinate(2, 1, 1)])
    assert set(ran) == {2}
    ran.clear()
    evaluator.nll([Coordinate(2, 1, 1)])
    assert ran == [], "nothing is evaluated twice"


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "opt"])
def test_a_restored_spike_gives_back_exactly_the_spike_tokens(name):
    """κ so low that every token is a spike: the weight itself is back. So high that none is: nothing is."""
    model = tiny_model(name)
    roles = Roles(model)
    where = Coordinate(1, 3, 5, 1 if roles.downs[1].experts else None)
    roles.downs[1].matrix(where.expert)[3, 5] = 40.0
    evaluator = Evaluator(model, roles, documents(), layers=[1])
    gone = evaluator.nll([where])
    assert np.abs(gone - evaluator.baseline).max() > 1e-3
    np.testing.assert_allclose(evaluator.nll([where], (where, 0.0)), evaluator.baseline, rtol=1e-5)
    np.testing.assert_allclose(evaluator.nll([where], (where, 1e9)), gone, rtol=1e-5)
    some = evaluator.nll([where], (where, 3.0))
    assert (np.abs(some - gone) > 1e-6).any() and (np.abs(some - evaluator.baseline) > 1e-6).any()


def test_an_exception_in_evaluation_leaves_the_model_as_it_was():
    model = tiny_model("gpt2")
    roles = Roles(model)
    evaluator = Evaluator(model, roles, documents(), layers=[1])
    before = weights_sha256(model)
    handle = roles.blocks[2].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluator.nll([Coordinate(1, 1, 1)])
    handle.remove()
    assert weights_sha256(model) == before
    assert not any("forward" in block.__dict__ or block._forward_hooks for block in roles.blocks)


def test_the_weights_are_intact_whenever_a_row_is_handed_over():
    """Also when whoever reads the rows stops in the middle."""
    model = tiny_model("gpt2")
    roles = Roles(model)
    before = weights_sha256(model)
    found = [Coordinate(1, 3, 5), Coordinate(1, 3, 6), Coordinate(2, 8, 9)]
    evaluator = Evaluator(model, roles, documents(), layers=[1, 2])
    for nth, _row in enumerate(verifying.verify(evaluator, found, [], 4, KAPPA, 0)):
        assert weights_sha256(model) == before
        if nth == 12:
            break
    assert weights_sha256(model) == before


def test_paired_differences_by_hand():
    row = paired("alone", [Coordinate(0, 0, 0)], np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5]))
    assert (row.difference, row.low, row.high) == (0.5, 0.5, 0.5)
    assert row.perplexity_ratio == pytest.approx(np.exp(0.5))


def test_the_interval_covers():
    """Of 200 intervals for means of 32 normal numbers about 95 % hold the true mean."""
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        row = paired("", [], draw.normal(0.3, 1.0, 32), np.zeros(32))
        held += row.low <= 0.3 <= row.high
    assert 180 <= held <= 199


def row_of(kind, coordinates, mean, half=0.001, count=32):
    spread = np.linspace(-1, 1, count)
    values = mean + half * spread / spread.std() * np.sqrt(count) / 2
    return Ablation(kind, tuple(coordinates), mean, mean - half, mean + half, tuple(values))


A, B, C = Coordinate(0, 1, 1), Coordinate(0, 1, 2), Coordinate(1, 2, 3)


@pytest.mark.parametrize(
    ("mean", "half", "control", "word"),
    [
        (0.5, 0.1, 0.001, "critical"),
        (0.5, 0.45, 0.001, "weak"),
        (0.5, 0.1, 0.6, "weak"),
        (0.02, 0.01, 0.001, "weak"),
        (0.0, 0.005, 0.001, "inert"),
        (0.009, 0.002, 0.001, "weak"),
        (0.005, 0.02, 0.001, "undetermined"),
    ],
)
def test_verdicts_on_one_weight(mean, half, control, word):
    rows = [row_of("alone", [A], mean, half), row_of("control", [C], control)]
    verdict = verdicts([A], rows, window=100)[0]
    assert verdict.word == word
    assert (verdict.tokens is not None) == (word == "undetermined")


def test_a_weight_whose_loss_helps_is_undetermined_and_no_text_would_decide():
    rows = [row_of("alone", [A], -0.02, 0.005)]
    assert verdicts([A], rows, window=100) == [Verdict("undetermined", None)]


def test_a_spread_of_rounding_still_has_an_interval():
    values = np.full(32, 0.5)
    values[3] = np.nextafter(0.5, 1)
    row = paired("", [], values, np.zeros(32))
    assert np.isfinite([row.low, row.high]).all()


def test_the_text_that_would_decide():
    """0.02 around 0.005 must shrink to 0.005 to lie off 0 or inside 0.01: sixteen times the 3,200 tokens."""
    rows = [row_of("alone", [A], 0.005, 0.02)]
    assert verdicts([A], rows, window=100)[0].tokens == pytest.approx(16 * 3200, rel=0.01)


def test_members_of_a_critical_set_that_are_not_idle():
    rows = [
        row_of("alone", [A], 0.001, 0.0005),
        row_of("alone", [B], 0.002, 0.0005),
        row_of("alone", [C], 0.0, 0.005),
        row_of("joint", [A, B, C], 3.0),
        row_of("left in", [B, C], 0.002, 0.0005),
        row_of("left in", [A, C], 0.001, 0.0005),
        row_of("left in", [A, B], 3.0),
        row_of("joint", [A, B], 3.0),
    ]
    assert [verdict.word for verdict in verdicts([A, B, C], rows, 100)] == [
        "jointly critical",
        "jointly critical",
        "inert",
    ]
    assert [joint.coordinates for joint in critical_sets(rows)] == [(A, B)]


class Arithmetic:
    """An evaluator whose losses are a rule: what is lost is a function of the set of zeroed weights."""

    def __init__(self, roles, loss):
        self.roles, self.loss, self.baseline, self.asked = roles, loss, np.zeros(32), []

    def nll(self, coordinates, restored=None):
        self.asked.append(frozenset(coordinates))
        return self.loss(frozenset(coordinates)) + np.linspace(-1e-4, 1e-4, 32)


def test_idle_members_are_dropped_and_the_cost_bound_holds():
    """A and B make one spike together; C does nothing."""
    roles = Roles(tiny_model("gpt2"))
    evaluator = Arithmetic(roles, lambda zero: 5.0 if {A, B} <= zero else 0.05 * len(zero & {A, B}))
    rows = list(verifying.verify(evaluator, [A, B, C], [], 6, 0.0, 0))
    sets = [joint.coordinates for joint in critical_sets(rows)]
    assert (A, B) in sets and not any(C in members for members in sets)
    words = [verdict.word for verdict in verdicts([A, B, C], rows, 100)]
    assert words == ["jointly critical", "jointly critical", "inert"]
    assert len(rows) + 1 <= verifying.cost([A, B, C], 0, 6)


def test_two_members_that_stand_in_for_each_other_are_not_both_dropped():
    """Either of A and B is enough for the loss, so each is idle while the other is at zero."""
    roles = Roles(tiny_model("gpt2"))
    evaluator = Arithmetic(roles, lambda zero: 2.0 if zero & {A, B} else 0.0)
    rows = list(verifying.verify(evaluator, [A, B], [], 2, 0.0, 0))
    assert [verdict.word for verdict in verdicts([A, B], rows, 100)] == ["critical", "critical"]


def test_controls_are_nearest_in_magnitude_and_never_found():
    model = tiny_model("gpt2")
    downs = Roles(model).downs
    found = [Coordinate(0, 3, 5), Coordinate(0, 3, 6), Coordinate(2, 1, 1)]
    chosen = controls(downs, found, 20)
    assert len(chosen) == len(set(chosen)) == 20 and not set(chosen) & set(found)
    for f, mine in zip(found, (chosen[:7], chosen[7:14], chosen[14:]), strict=True):
        size = downs[f.layer].matrix().abs()
        worst = max(abs(float(size[c.out, c.in_] - size[f.out, f.in_])) for c in mine)
        others = (size - size[f.out, f.in_]).abs() < worst
        assert int(others.sum()) <= len(mine) + len(found) + 7
        assert all(control.layer == f.layer for control in mine)


def test_controls_of_a_tiny_matrix_run_out_gracefully():
    model = tiny_model("gpt2")
    down = Roles(model).downs[0]
    assert len(controls([down], [Coordinate(0, 0, 0)], 10**6)) == down.matrix().numel() - 1


def test_the_largest_others_and_random_sets():
    model = tiny_model("gpt2")
    downs = Roles(model).downs
    downs[0].matrix()[3, 5], downs[0].matrix()[4, 4] = 9.0, -8.0
    found = [Coordinate(0, 3, 5)]
    assert largest_others(downs, found) == [Coordinate(0, 4, 4)]
    drawn = random_set(downs, [*found, Coordinate(2, 0, 0)], seed=3)
    assert [c.layer for c in drawn] == [0, 2] and not set(drawn) & set(found)
    assert drawn == random_set(downs, [*found, Coordinate(2, 0, 0)], seed=3)
