"""Ablations against plain ones, and verdicts from rows whose numbers are chosen."""

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swlottery.config import KAPPA
from swlottery.find import ablation
from swlottery.find import verify as verifying
from swlottery.find.ablation import Evaluator
from swlottery.find.controls import controls, largest_others, random_set
from swlottery.find.effects import CRITICAL, INERT, Ablation, paired, part
from swlottery.find.looks import is_clear
from swlottery.find.verdicts import Verdict, critical_sets, verdicts
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
        block.attn.register_forward_hook(
            lambda module, args, out, nth=nth: ran.append((nth, args[0].shape[:2].numel()))
        )
    assert evaluator.forward_tokens == 30 * 16, "the intact pass"
    assert evaluator.looks == [8, 16, 30] and evaluator.share([Coordinate(2, 1, 1)]) == pytest.approx(1 / 3)
    evaluator.nll([Coordinate(2, 1, 1)], documents=8)
    assert ran == [(2, 8 * 16)]
    evaluator.nll([Coordinate(2, 1, 1)])
    assert ran == [(2, 8 * 16)] * 3 + [(2, 6 * 16)], "only the documents that are new"
    assert evaluator.forward_tokens == pytest.approx(30 * 16 * (1 + 1 / 3))
    evaluator.nll([Coordinate(2, 1, 1)], documents=16)
    assert len(ran) == 4, "nothing is evaluated twice"


def test_the_first_documents_are_a_seeded_sample_and_their_losses_those_of_the_whole_text():
    model = tiny_model("gpt2")
    roles, windows = Roles(model), documents(33)
    evaluator = Evaluator(model, roles, windows, layers=[1], seed=3)
    where = [Coordinate(1, 1, 1)]
    first = evaluator.nll(where, documents=evaluator.looks[0])
    assert evaluator.looks == [9, 18, 33]
    chosen = evaluator.chosen(9)
    assert list(chosen) == sorted(set(chosen)) != list(range(9)), "in the text's order, but not its beginning"
    assert (first == evaluator.nll(where)[chosen]).all() and len(evaluator.nll(where)) == 33
    assert set(chosen) < set(evaluator.chosen(18)), "a look goes on from the one before"
    again = Evaluator(model, roles, windows, layers=[1], seed=3)
    assert (again.chosen(9) == chosen).all() and (again.baseline == evaluator.baseline).all()


def test_what_does_not_fit_runs_from_an_earlier_block_and_the_share_says_so(monkeypatch):
    model = tiny_model("gpt2")
    roles, windows = Roles(model), documents()
    size = windows.numel() * roles.hidden * 4
    monkeypatch.setattr(ablation, "CACHE_BYTES", size)
    evaluator = Evaluator(model, roles, windows, layers=[1, 2])
    assert evaluator.layers == [1], "the first that is named is the most important"
    assert [evaluator.share([Coordinate(layer, 1, 1)]) for layer in range(3)] == pytest.approx([1, 2 / 3, 2 / 3])
    before = evaluator.forward_tokens
    evaluator.nll([Coordinate(2, 1, 1)])
    assert evaluator.forward_tokens - before == pytest.approx(windows.numel() * 2 / 3)


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
    told = []

    def observe(row):
        assert weights_sha256(model) == before
        told.append(row)
        if len(told) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verifying.verify(evaluator, found, 4, observe=observe)
    assert len(told) == 4 and weights_sha256(model) == before


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
    verdict = verdicts(rows, window=100)[A]
    assert verdict.word == word
    assert (verdict.tokens is not None) == (word == "undetermined")


def test_a_weight_whose_loss_helps_is_undetermined_and_no_text_would_decide():
    rows = [row_of("alone", [A], -0.02, 0.005)]
    assert verdicts(rows, window=100) == {A: Verdict("undetermined", None)}


def test_a_spread_of_rounding_still_has_an_interval():
    values = np.full(32, 0.5)
    values[3] = np.nextafter(0.5, 1)
    row = paired("", [], values, np.zeros(32))
    assert np.isfinite([row.low, row.high]).all()


def test_the_text_that_would_decide():
    """0.02 around 0.005 must shrink to 0.005 to lie off 0 or inside 0.01: sixteen times the 3,200 tokens."""
    rows = [row_of("alone", [A], 0.005, 0.02)]
    assert verdicts(rows, window=100)[A].tokens == pytest.approx(16 * 3200, rel=0.01)


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
    assert [verdict.word for verdict in verdicts(rows, 100).values()] == [
        "jointly critical",
        "jointly critical",
        "inert",
    ]
    assert [joint.coordinates for joint in critical_sets(rows)] == [(A, B)]


class Arithmetic:
    """An evaluator whose losses are a rule: what is lost is a function of the set of zeroed weights.

    ``loss`` gives a number, or one for each of 32 documents. asked: how many documents were run of each set.
    """

    looks = (8, 16, 32)

    def __init__(self, loss):
        self.roles, self.loss, self.baseline, self.asked = Roles(tiny_model("gpt2")), loss, np.zeros(32), {}
        self.order = np.random.default_rng(0).permutation(32)

    def nll(self, coordinates, restored=None, factor=0.0, documents=32):
        key = frozenset(coordinates)
        self.asked[key] = max(documents, self.asked.get(key, 0))
        return (self.loss(key) + np.linspace(-1e-5, 1e-5, 32) * (1 + len(key)))[self.chosen(documents)]

    def chosen(self, documents):
        return np.sort(self.order[:documents])

    def share(self, coordinates):
        return 1.0

    def words(self, found, count=6):
        """The verdicts on ``found``; the cost that is said beforehand is never exceeded."""
        self.rows = verifying.verify(self, found, count)
        most, _ = verifying.cost(self, found, [], count)
        assert sum(self.asked.values()) <= 32 * most
        return [verdict.word for verdict in verdicts(self.rows, 100).values()]

    def kinds(self):
        """How many rows there are of each kind and number of documents."""
        return Counter((row.kind, len(row.documents)) for row in self.rows)


def test_idle_members_are_dropped_and_the_cost_bound_holds():
    """A and B make one spike together; C does nothing."""
    evaluator = Arithmetic(lambda zero: 5.0 if {A, B} <= zero else 0.05 * len(zero & {A, B}))
    assert evaluator.words([A, B, C]) == ["jointly critical", "jointly critical", "inert"]
    sets = [joint.coordinates for joint in critical_sets(evaluator.rows)]
    assert (A, B) in sets and not any(C in members for members in sets)


def test_two_members_that_stand_in_for_each_other_are_not_both_dropped():
    """Either of A and B is enough for the loss, so each is idle while the other is at zero."""
    assert Arithmetic(lambda zero: 2.0 if zero & {A, B} else 0.0).words([A, B]) == ["critical", "critical"]


def test_two_of_three_that_any_two_can_do_without():
    """The loss needs two of the three at zero: each is idle in all three, so one is dropped, and two are needed."""
    e = Coordinate(2, 5, 5)
    evaluator = Arithmetic(lambda zero: 2.0 if len(zero & {A, C, e}) > 1 else 0.0)
    assert sorted(evaluator.words([A, C, e])) == ["inert", "jointly critical", "jointly critical"]


def test_an_idle_weight_of_a_shared_spike_is_not_called_jointly_critical():
    """A, B and D share a channel, but D does nothing; E is elsewhere."""
    d, e = Coordinate(0, 1, 9), Coordinate(2, 5, 5)
    evaluator = Arithmetic(lambda zero: 5.0 if {A, B} <= zero else 0.0)
    assert evaluator.words([A, B, d, e]) == ["jointly critical", "jointly critical", "inert", "inert"]


def test_a_pair_that_is_left_after_many_drops_is_still_compared_and_the_cost_bound_holds():
    """Each group of idle members is idle only when those before it are dropped; the last two make the loss."""
    found = [Coordinate(nth % 3, nth, nth) for nth in range(11)]
    groups = [set(found[:5]), set(found[5:7]), set(found[7:9]), set(found[9:])]

    def loss(zero):
        chained = sum(0.2 * len(now & zero) * bool(before & zero) for before, now in pairwise(groups[:3]))
        return chained + 1.0 * (groups[3] <= zero)

    for looks in ((8, 16, 32), (32,)):
        evaluator = Arithmetic(loss)
        evaluator.looks = looks
        assert evaluator.words(found, 11) == ["inert"] * 9 + ["jointly critical"] * 2
        assert evaluator.kinds()["random set", looks[0]] == 3


@pytest.mark.parametrize(
    ("loss", "found", "words", "kinds"),
    [
        pytest.param(
            lambda zero: 1.0 * (A in zero), [A], ["critical"], {"alone": 1, "control": 6}, id="one that matters"
        ),
        pytest.param(lambda zero: 0.0, [A], ["inert"], {"alone": 1}, id="no control for one that cannot be critical"),
        pytest.param(
            lambda zero: 1.0 * len(zero & {A, B}), [A, B], ["critical"] * 2, {"alone": 2, "control": 6}, id="no sets"
        ),
        pytest.param(
            lambda zero: 0.02 * len(zero & {A, B}), [A, B], ["weak"] * 2, {"alone": 2, "joint": 1}, id="a small set"
        ),
        pytest.param(
            lambda zero: 0.06 * len(zero & {A, B}),
            [A, B],
            ["jointly critical"] * 2,
            {"alone": 2, "joint": 1, "left in": 2, "control": 6, "random set": 3, "largest others": 1},
            id="a set that matters",
        ),
    ],
)
def test_a_row_that_can_change_no_verdict_is_not_run(loss, found, words, kinds):
    evaluator = Arithmetic(loss)
    assert evaluator.words(found) == words
    last = 32 if words == ["inert"] else 8  # what is never seen to do anything is looked at to the end
    assert evaluator.kinds() == {(kind, last): count for kind, count in kinds.items()}
    assert set(evaluator.asked.values()) == {last}


def test_what_describes_is_run_afterwards_on_the_first_look():
    evaluator = Arithmetic(lambda zero: 1.0 * len(zero & {A, B, C}))
    evaluator.words([A, B, C])
    before = dict(evaluator.asked)
    described = verifying.describe(evaluator, [A, B, C], evaluator.rows, [Coordinate(2, 7, 7)], KAPPA)
    kinds = Counter(row.kind for row in described)
    assert kinds == {"restored": 3, "dose": 12, "row": 3, "joint": 2, "canceller": 1}
    assert {len(row.documents) for row in described} == {8}
    assert [row.factor for row in described if row.kind == "dose"] == [0.75, 0.5, 0.25, 0.0] * 3
    assert all(evaluator.asked[key] == count for key, count in before.items())
    assert len(evaluator.asked) == len(before) + 2 + 2 + 1, "two channels, two sets, a canceller: the rest is a factor"
    assert {row.level for row in described if row.kind == "joint"} == {0.998}, "they may be called critical"
    joints = [row.coordinates for row in critical_sets([*evaluator.rows, *described])]
    assert joints == [(A, B)], "of all three together it is not known who is idle"


@given(
    st.lists(st.sampled_from([0.0, 0.03, 0.5]), min_size=4, max_size=4),
    st.lists(st.sampled_from([0.0, 0.0, 1.0]), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_the_verdicts_are_those_of_one_look_at_the_whole_text(alone, pairs):
    """Whatever the weights do alone and in pairs; A and B share a spike."""
    found = [A, B, C, Coordinate(2, 5, 5)]

    def loss(zero):
        inside = [one in zero for one in found]
        both = zip(pairs, combinations(inside, 2), strict=True)
        return sum(effect * gone for effect, gone in zip(alone, inside, strict=True)) + sum(
            effect * all(gone) for effect, gone in both
        )

    looks, whole = Arithmetic(loss), Arithmetic(loss)
    whole.looks = (32,)
    assert looks.words(found) == whole.words(found)
    assert {count for zero, count in looks.asked.items() if len(zero) > 1 or not zero <= set(found)} <= {8}
    assert sum(looks.asked.values()) <= sum(whole.asked.values())


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_the_verdicts_on_planted_weights_are_those_of_one_look_at_the_whole_text(name):
    model = tiny_model(name)
    roles = Roles(model)
    found = [Coordinate(1, 3, 5), Coordinate(1, 3, 6), Coordinate(2, 8, 9)]
    found = [one._replace(expert=1) for one in found] if roles.downs[1].experts else found
    for one, value in zip(found, (40.0, -30.0, 5.0), strict=True):
        roles.downs[one.layer].matrix(one.expert)[one.out, one.in_] = value
    words = []
    for looks in (None, [32]):
        evaluator = Evaluator(model, roles, documents(32, 24), layers=[1, 2])
        evaluator.looks = looks or evaluator.looks
        rows = verifying.verify(evaluator, found, 4)
        words.append([verdict.word for verdict in verdicts(rows, 24).values()])
    assert words[0] == words[1]
    assert name != "llama" or set(words[0]) != {"inert"}, "there they matter"


def test_a_control_that_costs_as_much_is_looked_at_further():
    """Half of the documents lose nothing without A, the others much; one control costs as much."""
    uneven = np.where(np.arange(32) % 2, 1.0, 0.3)
    downs = Roles(tiny_model("gpt2")).downs
    rival = controls(downs, [A], 6)[2]
    evaluator = Arithmetic(lambda zero: uneven * bool(zero & {A, rival}))
    assert evaluator.words([A]) == ["weak"]
    assert evaluator.asked[frozenset([A])] == evaluator.asked[frozenset([rival])] == 32
    assert sum(evaluator.asked.values()) == 2 * 32 + 5 * 8


def test_documents_that_are_all_alike_settle_nothing_early():
    """The expert of a mixture may get no token of the first documents."""
    rare = np.zeros(32)
    evaluator = Arithmetic(lambda zero: rare * bool(zero & {A}))
    rare[evaluator.order[16:]] = 1.0
    evaluator.nll = lambda coordinates, restored=None, factor=0.0, documents=32: (
        rare[evaluator.chosen(documents)] * (A in coordinates)
    )
    rows = verifying.verify(evaluator, [A], 2)
    assert len(rows[0].documents) == 32 and rows[0].difference == 0.5


REGIONS = [(CRITICAL, 9.0), (0.0, CRITICAL), (0.0, INERT), (-INERT, 0.0), (-9.0, -INERT)]


@given(st.sampled_from(REGIONS), st.data())
@settings(max_examples=120, deadline=None)
def test_where_every_document_agrees_the_early_verdict_is_that_of_the_whole_text(region, data):
    """A small effect above 0 is weak, as all documents show, and not inert; inert is said by the last look only."""
    low, high = region
    inside = st.floats(low, high, exclude_min=True, exclude_max=True, allow_subnormal=False)
    losses = np.array(data.draw(st.lists(inside, min_size=32, max_size=32)))
    evaluator = Arithmetic(lambda zero: losses * (A in zero))
    evaluator.nll = lambda coordinates, restored=None, factor=0.0, documents=32: (
        losses[evaluator.chosen(documents)] * (A in coordinates)
    )
    whole = paired("alone", [A], losses, np.zeros(32))
    word = verdicts([whole], 100)[A].word
    assert evaluator.words([A], 0) == [word]
    assert word not in ("inert", "undetermined") or len(evaluator.rows[0].documents) == 32


@given(st.lists(st.floats(-0.2, 0.6), min_size=32, max_size=32), st.floats(-0.1, 0.3))
@settings(max_examples=80, deadline=None)
def test_a_row_that_reaches_the_end_is_that_of_the_whole_text_and_an_early_one_is_clear(spread, mean):
    losses = np.array(spread) + mean
    evaluator = Arithmetic(lambda zero: losses * (A in zero))
    evaluator.words([A], 2)
    (row,) = (row for row in evaluator.rows if row.kind == "alone")
    if len(row.documents) == 32:
        assert row == paired("alone", [A], evaluator.nll([A]), np.zeros(32))
    else:
        assert row.level == 0.998 and is_clear(row)
        assert row.documents == tuple(evaluator.nll([A])[list(row.chosen)])


def test_the_interval_of_a_part_by_hand():
    """Four differences 0, 1, 2, 3: mean 1.5, standard error 0.6455, t(3) at 97.5 % 3.1824."""
    row = part("alone", [A], np.arange(4.0), [1, 4, 5, 9], 0.95)
    assert (row.difference, row.low, row.high) == pytest.approx((1.5, 1.5 - 2.0543, 1.5 + 2.0543), abs=1e-3)
    assert row.chosen == (1, 4, 5, 9)


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
