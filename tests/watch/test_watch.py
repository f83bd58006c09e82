"""Every number of watch.csv, computed again from the weights, gradients and moments that a spy has seen."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import percentileofscore

from lottery.runs import built, events, table
from swlottery.data import batches
from swlottery.lottery import masks as masking
from swlottery.lottery import matching
from swlottery.lottery.arms import Arms
from swlottery.lottery.loop import Lottery
from swlottery.lottery.training import Training, loss_of
from swlottery.models.coordinates import Coordinate
from swlottery.runtime import files
from swlottery.watch.rows import box, percentiles
from swlottery.watch.tracked import Tracked

FOLLOWED = [Coordinate(0, 1, 0), Coordinate(1, 5, 60)]


class Spy:
    """The numbers behind a run's watch. By (round, steps done): all weights, and of the down-projections the gradients
    of the last step and the second moments."""

    def __init__(self, run, monkeypatch) -> None:
        self.run, self.weights, self.gradients, self.moments = run, {}, {}, {}
        self.weights[1, 0] = self._now()
        real_norm, real_step, real_next = torch.nn.utils.get_total_norm, Training.step, Lottery.next_round
        names = [name for name, p in run.parameters.items() if p.requires_grad]

        def norm(gradients):
            """Where clipping looks at them first."""
            self.latest = {n: g.detach().clone() for n, g in zip(names, gradients, strict=True) if n in run.downs}
            return real_norm(gradients)

        def step(training, number, round_, see=None):
            result = real_step(training, number, round_, see)
            at = (round_, number + 1)
            self.weights[at], self.gradients[at] = self._now(), self.latest
            state = {n: training.optimizer.state[p]["exp_avg_sq"] for n, p in run.downs.items()}
            self.moments[at] = {name: tensor.clone() for name, tensor in state.items()}
            return result

        def next_round(run, round_):
            real_next(run, round_)
            self.weights[round_, run.position.step] = self._now()

        monkeypatch.setattr(torch.nn.utils, "get_total_norm", norm)
        monkeypatch.setattr(Training, "step", step)
        monkeypatch.setattr(Lottery, "next_round", next_round)

    def _now(self) -> dict:
        return {name: p.detach().clone() for name, p in self.run.parameters.items()}

    @cache  # noqa: B019 (as long as its test)
    def masks(self, number: int) -> dict:
        return masking.load(self.run.keeper.folder / "masks" / f"round_{number}.safetensors")

    @cache  # noqa: B019
    def everything(self, at: tuple[int, int]) -> np.ndarray:
        """The sizes of all remaining weights, sorted."""
        return ordered(*(self.weights[at][name].abs()[mask] for name, mask in self.masks(at[0] - 1).items()))

    @cache  # noqa: B019
    def remaining(self, kind: str, at: tuple[int, int], name: str, last: int | None) -> np.ndarray:
        """What a percentile column ranks among: of one matrix what remains, sorted."""
        return ordered(self.column(kind, at, name, last)[self.masks(at[0] - 1)[name]])

    def column(self, kind: str, at: tuple[int, int], name: str, last: int | None) -> torch.Tensor:
        if kind == "update_percentile":
            return (self.weights[at][name] - self.weights[at[0], last][name]).abs()
        return (self.gradients if kind == "gradient_percentile" else self.moments)[at][name].abs()

    @cache  # noqa: B019
    def threshold(self, at: tuple[int, int], name: str) -> float | None:
        """The largest |w| that a prune now would take: floor(0.2 · remaining) of all, or of one tensor its share."""
        kind, everything = self.run.settings.criterion, self.everything(at)
        count = len(everything) * 2 // 10
        if kind == "random":
            return None
        if kind == "global-magnitude":
            return float(everything[count - 1])
        sizes = {n: int(mask.sum()) for n, mask in self.masks(at[0] - 1).items()}
        exact = {n: count * size / len(everything) for n, size in sizes.items()}
        parts = {n: math.floor(share) for n, share in exact.items()}
        by_remainder = sorted(exact, key=lambda n: parts[n] - exact[n])
        for n in by_remainder[: count - sum(parts.values())]:
            parts[n] += 1
        own = ordered(self.weights[at][name].abs()[self.masks(at[0] - 1)[name]])
        return float(own[parts[name] - 1])


def ordered(*tensors: torch.Tensor) -> np.ndarray:
    return np.sort(torch.cat([tensor.flatten() for tensor in tensors]).numpy())


def percentile(population: np.ndarray, value: float) -> float:
    """The mid-rank of a value in a sorted population, in percent."""
    value = np.float32(value)
    below, not_above = (np.searchsorted(population, value, side) for side in ("left", "right"))
    return float(50 * (below + not_above) / len(population))


@pytest.mark.parametrize(("criterion", "rewind_step"), [("global-magnitude", 1), ("layer-magnitude", 0), ("random", 0)])
def test_every_column_is_its_recomputation(criterion, rewind_step, tiny_gpt2, text, tmp_path, monkeypatch):
    run = built(
        tiny_gpt2,
        text,
        tmp_path,
        criterion=criterion,
        rewind_step=rewind_step,
        scope="linear",
        steps=5,
        eval_steps=2,
        follow=[f"{c.layer},{c.out},{c.in_}" for c in FOLLOWED],
        clip=0.05,
        known=[Tracked("foreign", c) for c in FOLLOWED],
    )
    spy = Spy(run, monkeypatch)
    run.run()
    names = [f"transformer.h.{layer}.mlp.c_proj.weight" for layer in range(2)]
    theta_0 = spy.weights[1, 0]
    thresholds = {int(row["round"]): float(row["threshold"] or 0) for row in table(run.keeper.folder, "rounds.csv")}
    rows = table(run.keeper.folder, "watch.csv")
    seen = defaultdict(int)
    for row in rows:
        round_, step = int(row["round"]), int(row["step"])
        at = (round_, step)
        first = 0 if round_ == 1 else rewind_step
        assert step in (first, 2, 4, 5), "at the start, at every evaluation, and at the end"
        seen[at] += 1
        layer, out, in_ = int(row["layer"]), int(row["out"]), int(row["in"])
        name = names[layer]
        value = float(spy.weights[at][name][in_, out])  # Conv1D stores [in, out]
        initial = float(theta_0[name][in_, out])
        assert float(row["value"]) == value and float(row["theta0"]) == initial
        assert float(row["displacement"]) == value - initial
        masks = spy.masks(round_ - 1)
        mask = masks[name]
        alive_before = bool(mask[in_, out])
        decided = spy.masks(round_)[name] if step == 5 and round_ < 3 else mask
        assert row["alive"] == str(int(decided[in_, out])), "from the new mask in the round that decided it"
        threshold = spy.threshold(at, name)
        if threshold is None:
            assert row["over_threshold"] == ""
        else:
            assert float(row["over_threshold"]) == pytest.approx(abs(value) / threshold, rel=1e-12)
            if criterion == "global-magnitude" and step == 5 and round_ < 3:
                assert float(row["over_threshold"]) == abs(value) / thresholds[round_], "of that round's prune"
        size = ordered(spy.weights[at][name].abs())
        assert float(row["percentile_matrix"]) == pytest.approx(percentile(size, abs(value)))
        last = max((s for s in (first, 2, 4) if s < step), default=None)  # the evaluation before
        columns = {"percentile_remaining": percentile(spy.everything(at), abs(value)) if alive_before else None}
        for kind in ("gradient_percentile", "moment_percentile", "update_percentile"):
            columns[kind] = None
            if last is not None and alive_before:
                own = float(spy.column(kind, at, name, last)[in_, out])
                columns[kind] = percentile(spy.remaining(kind, at, name, last), own)
                columns[kind.removesuffix("_percentile")] = own
            elif kind != "moment_percentile":
                columns[kind.removesuffix("_percentile")] = None
        columns.pop("moment", None)
        for column, expected in columns.items():
            if expected is None:
                assert row[column] == "", column
            else:
                assert float(row[column]) == pytest.approx(expected), (column, at)
    followed = 2 + 2 * 4 * 19
    assert seen == {
        **{(1, step): 2 for step in (0, 2, 4)},
        (1, 5): followed,
        **{(round_, step): followed for round_ in (2, 3) for step in (rewind_step, 2, 4, 5)},
    }, "controls are chosen after round 1, and reported from there"
    kinds = {(row["kind"], row["of"]) for row in rows}
    assert kinds == {("foreign", "")} | {(k, f"{c.layer}:{c.out}:{c.in_}") for k in matching.KINDS for c in FOLLOWED}
    dead = [row for row in rows if row["round"] == "3" and row["alive"] == "0"]
    assert dead and {row["value"] for row in dead} == {"0.0"}
    assert all(row["gradient_percentile"] == "" and row["percentile_matrix"] for row in dead)


def test_a_leader_has_its_place_at_step_0_from_theta_0(tiny_gpt2, text, tmp_path, monkeypatch):
    run = built(tiny_gpt2, text, tmp_path, steps=2, rounds=1, super_weights="discover")
    spy = Spy(run, monkeypatch)
    run.run()
    rows = [row for row in table(run.keeper.folder, "watch.csv") if row["kind"] == "leader"]
    assert [(row["round"], row["step"]) for row in rows] == [("1", "0"), ("1", "2"), ("2", "0"), ("2", "2")]
    (found,) = events(run.keeper.folder, "followed")[0]["weights"]
    place = (f"transformer.h.{found['layer']}.mlp.c_proj.weight", found["in"], found["out"])
    weights = spy.weights[1, 0][place[0]].abs()
    size = float(weights[place[1:]])
    assert abs(float(rows[0]["value"])) == size and float(rows[0]["displacement"]) == 0
    assert float(rows[0]["percentile_matrix"]) == pytest.approx(percentile(ordered(weights), size))
    assert float(rows[0]["percentile_remaining"]) == pytest.approx(percentile(spy.everything((1, 0)), size))
    assert {rows[0][column] for column in ("over_threshold", "gradient_percentile", "update_percentile")} == {""}
    trained = spy.weights[1, 2][place[0]].abs()
    assert found["value"] == float(spy.weights[1, 2][place[0]][place[1:]])
    assert found["rank"] == 1 + int((trained > trained[place[1:]]).sum()) and found["matrix_size"] == trained.numel()
    assert max(abs(c["gap"] or 0) for c in events(run.keeper.folder, "followed")[0]["controls"]) > 0


def test_the_gradient_is_complete_and_not_yet_clipped(tiny_gpt2, text, tmp_path):
    """What the watch keeps is the sum over the micro-batches, whatever clipping makes of it."""
    kept = []
    for clip in (1e-4, 0.0):
        run = built(tiny_gpt2, text, tmp_path / str(clip), clip=clip)
        run.training.step(0, 1, lambda run=run: run.interval.see_gradients(run.downs))
        kept.append(run.interval.gradients)
    for name, gradient in kept[0].items():
        assert torch.equal(gradient, kept[1][name]) and float(gradient.norm()) > 1e-2
    tokens = batches.batch(run.training.data, 32, 4, 0, 0)
    model = built(tiny_gpt2, text, tmp_path / "again").network.model  # as before the step
    whole = torch.autograd.grad(loss_of(model, tokens), [model.get_parameter(name) for name in run.downs])
    for name, gradient in zip(run.downs, whole, strict=True):
        torch.testing.assert_close(kept[1][name], gradient, rtol=1e-4, atol=1e-6)


# The parts


NUMBERS = st.floats(-4, 4, width=32) | st.sampled_from([0.0, 0.5, -0.5])


@settings(deadline=None, max_examples=60)
@given(
    populations=st.lists(arrays.arrays(np.float32, st.integers(0, 40), elements=NUMBERS), min_size=1, max_size=4),
    others=st.lists(NUMBERS, max_size=5),
)
def test_percentiles_are_scipys_mid_ranks(populations, others):
    everything = np.concatenate(populations)
    values = [float(np.float32(v)) for v in others] + everything[:3].tolist()
    got = percentiles(torch.tensor(values, dtype=torch.float32), [(torch.from_numpy(p), None) for p in populations])
    expected = [percentileofscore(everything, v, kind="mean") if len(everything) else 0.0 for v in values]
    assert got == pytest.approx(expected)


def test_a_force_pruned_weight_does_not_set_the_threshold(tiny_gpt2, text, tmp_path):
    """The largest of all goes because it is told to; the threshold is of those that go by their rank."""
    run = built(tiny_gpt2, text, tmp_path)
    c = FOLLOWED[1]
    with torch.no_grad():
        run.downs["transformer.h.1.mlp.c_proj.weight"][c.in_, c.out] = 7.0
    count = masking.total(run.training.masks) // 5
    sizes = torch.cat([p.detach().abs().flatten() for p in run.scope.values()]).sort().values
    run.pruner.arms = Arms(forced=[c])
    new = run.pruner.prune(run.training.masks, count)
    assert masking.remaining(run.training.masks) - masking.remaining(new) == count
    assert not new["transformer.h.1.mlp.c_proj.weight"][c.in_, c.out]
    threshold, each = run.pruner.thresholds(run.training.masks, new)
    assert threshold == float(sizes[count - 2]) and set(each.values()) == {threshold}


def test_percentiles_by_hand():
    population = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    values = torch.tensor([3.0, 0.0, 2.0, 3.0])
    assert percentiles(values, [(population, None), (torch.tensor([3.0]), None)]) == [80.0, 20.0, 60.0, 80.0]
    most = population > 0
    assert percentiles(values, [(population, most), (torch.tensor([3.0]), None)]) == [200 / 3, 0.0, 100 / 3, 200 / 3]


def test_a_box_by_hand():
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 100.0]])
    assert box(weights, None) == {
        "count": 6,
        "minimum": 1.0,
        "low": 1.0,
        "q1": 2.25,
        "median": 3.5,
        "q3": 4.75,
        "high": 5.0,
        "maximum": 100.0,
    }
    mask = torch.tensor([[True, False, True], [False, True, False]])
    assert box(weights, mask) == {
        "count": 3,
        "minimum": 1.0,
        "low": 1.0,
        "q1": 2.0,
        "median": 3.0,
        "q3": 4.0,
        "high": 5.0,
        "maximum": 5.0,
    }
    assert box(weights, torch.zeros(2, 3, dtype=torch.bool)) == {
        "count": 0,
        "minimum": None,
        "low": None,
        "q1": None,
        "median": None,
        "q3": None,
        "high": None,
        "maximum": None,
    }


@settings(deadline=None, max_examples=40)
@given(values=arrays.arrays(np.float32, st.integers(1, 50), elements=st.integers(-40, 40).map(lambda n: n / 8)))
def test_a_box_is_matplotlibs(values):
    from matplotlib.cbook import boxplot_stats

    (expected,) = boxplot_stats(values)
    got = box(torch.from_numpy(values).reshape(1, -1), None)
    assert got["count"] == len(values)
    assert (got["minimum"], got["maximum"]) == (values.min(), values.max())
    names = {"q1": "q1", "median": "med", "q3": "q3", "low": "whislo", "high": "whishi"}
    assert {mine: got[mine] for mine in names} == {mine: float(expected[other]) for mine, other in names.items()}


# Controls


UPWARD = torch.arange(24.0).view(4, 6) + 1
"""Rank r stands at position r."""


def chosen(kind, trained, initial=None, alive=None, taken=(), of=(2, 0), place=(0, None)) -> list[tuple[int, int]]:
    matrices = trained if isinstance(trained, dict) else {place: trained}
    initial = {place: matrices[place]} if initial is None else {place: initial}
    c = Coordinate(place[0], *of, place[1])
    living = {} if alive is None else {place: alive}
    found = matching.choose(c, kind, matrices, initial, living, {c, *taken})
    assert found.kind == kind and found.of == c
    assert {(one.layer, one.expert) for one in found.coordinates} <= set(matrices)
    return [(one.out, one.in_) for one in found.coordinates]


def positions(flat: list[int], columns: int = 6) -> list[tuple[int, int]]:
    return [(at // columns, at % columns) for at in flat]


def test_the_nineteen_nearest_in_rank_written_out():
    """Around position 12 by one, by two, … and of the two that are ten away the first by position."""
    near = [11, 13, 10, 14, 9, 15, 8, 16, 7, 17, 6, 18, 5, 19, 4, 20, 3, 21, 2]
    assert chosen("control_rank", UPWARD) == positions(near)
    # Upside down, the largest first: rank r stands at position 23 − r, and position 12 has rank 11.
    down = UPWARD.flip(0, 1)
    assert chosen("control_rank", down) == positions(near)
    # A weight of rank 1 has only smaller ones.
    assert chosen("control_rank", UPWARD, of=(3, 5)) == positions(list(range(22, 3, -1)))


def test_controls_are_alive_and_never_followed_themselves():
    alive = torch.ones(4, 6, dtype=torch.bool)
    alive.view(-1)[[11, 13, 5]] = False
    taken = [Coordinate(0, 1, 4), Coordinate(0, 2, 3)]  # positions 10 and 15
    expected = [14, 9, 8, 16, 7, 17, 6, 18, 19, 4, 20, 3, 21, 2, 22, 1, 23, 0]  # all that there are: 18
    assert chosen("control_rank", UPWARD, alive=alive, taken=taken) == positions(expected)


def test_equal_weights_stand_in_the_order_of_their_positions():
    """Of 36 equal weights that at position 10 has rank 10: by rank ties are no distance 0."""
    near = [9, 11, 8, 12, 7, 13, 6, 14, 5, 15, 4, 16, 3, 17, 2, 18, 1, 19, 0]
    assert chosen("control_rank", torch.ones(6, 6), of=(1, 4)) == positions(near)


def test_matched_in_the_initial_rank_and_in_both():
    other = UPWARD.view(-1)[torch.tensor([*range(12, 24), *range(12)])].view(4, 6)  # rank (position + 12) mod 24
    assert chosen("control_initial", torch.rand(4, 6), initial=other, of=(1, 0)) == positions(
        [5, 7, 4, 8, 3, 9, 2, 10, 1, 11, 0, 23, 22, 21, 20, 19, 18, 17, 16]
    )  # position 6 has rank 18: those of rank 17 and 19, …; above rank 23 there is none, and rank 11 is at 23
    both = chosen("control_both", UPWARD, initial=other, of=(1, 0))
    far = {at: max(abs(at - 6), abs((at + 12) % 24 - 18)) for at in range(24) if at != 6}
    assert both == positions(sorted(far, key=lambda at: (far[at], at))[:19])
    assert both[:10] == positions([5, 7, 4, 8, 3, 9, 2, 10, 1, 11]), "in both ranks one away, two away, …"


def test_the_same_size_in_sigmas_from_the_other_matrices_in_turn():
    """3σ of a matrix of σ = 1 is 6 where σ is 2, and 0.3 where it is 0.1."""
    torch.manual_seed(0)
    matrices = {(layer, None): torch.rand(5, 6) for layer in range(3)}
    matrices = {
        place: matrix / matrix.pow(2).mean().sqrt() * size
        for (place, matrix), size in zip(matrices.items(), (2.0, 1.0, 0.1), strict=True)
    }
    alive = {place: torch.ones(5, 6, dtype=torch.bool) for place in matrices}
    alive[2, None][0, 0] = False
    c = Coordinate(1, 2, 3)
    wanted = float(matrices[1, None][2, 3])
    found = matching.choose(c, "control_sigma", matrices, matrices, alive, {c, Coordinate(0, 4, 4)}).coordinates
    near = {}
    for layer, size in ((0, 2.0), (2, 0.1)):
        off = {
            (layer, o, i): abs(float(matrices[layer, None][o, i]) / size - wanted) for o in range(5) for i in range(6)
        }
        off.pop((0, 4, 4), None)
        off.pop((2, 0, 0), None)
        near[layer] = sorted(off, key=off.get)
    expected = [one for pair in zip(near[0], near[2], strict=False) for one in pair][:19]
    assert [tuple(one[:3]) for one in found] == expected
    assert matching.choose(Coordinate(0, 0, 0), "control_sigma", {(0, None): UPWARD}, {}, {}, set()).coordinates == []


def test_the_gap_is_over_the_largest_control():
    c = Coordinate(0, 3, 5)
    spiked = UPWARD.clone()
    spiked[3, 5] = 1000.0
    assert matching.choose(c, "control_rank", {(0, None): spiked}, {}, {}, {c}).gap == 1000 / 23
    inside = Coordinate(0, 2, 0)
    assert matching.choose(inside, "control_rank", {(0, None): UPWARD}, {}, {}, {inside}).gap == 13 / 22
    assert matching.choose(inside, "control_rank", {(0, None): torch.zeros(4, 6)}, {}, {}, {inside}).gap is None


@settings(deadline=None, max_examples=80)
@given(drawn=st.data())
def test_controls_are_those_of_a_full_sort(drawn):
    """With ties of every kind: by distance, then by position."""
    rows, columns = drawn.draw(st.integers(1, 9)), drawn.draw(st.integers(2, 13))
    size = rows * columns
    sizes = [
        np.array(
            drawn.draw(st.lists(st.integers(0, drawn.draw(st.sampled_from([2, 1000]))), min_size=size, max_size=size))
        )
        for _ in range(2)
    ]
    trained, initial = (torch.from_numpy(one).float().view(rows, columns) for one in sizes)
    alive = torch.tensor(drawn.draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(rows, columns)
    at = drawn.draw(st.integers(0, size - 1))
    taken = drawn.draw(st.sets(st.integers(0, size - 1), max_size=4)) | {at}
    ranks = [np.argsort(np.argsort(one, kind="stable")) for one in sizes]
    distance = {
        "control_rank": np.abs(ranks[0] - ranks[0][at]),
        "control_initial": np.abs(ranks[1] - ranks[1][at]),
    }
    distance["control_both"] = np.maximum(*distance.values())
    for kind, far in distance.items():
        free = [p for p in range(size) if bool(alive.view(-1)[p]) and p not in taken]
        expected = sorted(free, key=lambda p, far=far: (far[p], p))[:19]
        got = chosen(
            kind, trained, initial, alive, [Coordinate(0, *divmod(p, columns)) for p in taken], divmod(at, columns)
        )
        assert got == positions(expected, columns)


def test_ties_at_the_edge_of_a_large_matrix_go_by_position():
    for seed in range(5):
        order = torch.randperm(4000, generator=torch.Generator().manual_seed(seed))
        sizes = torch.empty(4000)
        sizes[order] = torch.arange(4000.0)
        at = int(order[2000])
        expected = [int(order[2000 + sign * k]) for k in range(1, 10) for sign in (-1, 1)]
        expected += [min(int(order[1990]), int(order[2010]))]
        got = chosen("control_rank", sizes.view(40, 100), of=divmod(at, 100))
        assert set(got) == set(positions(expected, 100))


# Masks on disk


@settings(deadline=None, max_examples=40)
@given(shapes=st.lists(arrays.array_shapes(max_dims=3, max_side=9), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_masks_come_back_from_disk(shapes, seed, tmp_path_factory):
    generator = torch.Generator().manual_seed(seed)
    masks = {f"part.{i}": torch.rand(shape, generator=generator) < 0.5 for i, shape in enumerate(shapes)}
    masks["across"] = masks["part.0"].mT if masks["part.0"].ndim > 1 else masks["part.0"]
    path: Path = tmp_path_factory.mktemp("masks") / "round_1.safetensors"
    tensors, metadata = masking.pack(masks)
    assert all(tensor.dtype == torch.uint8 for tensor in tensors.values())
    assert [len(tensors[name]) for name in masks] == [-(-mask.numel() // 8) for mask in masks.values()], "bits"
    files.write_tensors(path, tensors, metadata)
    back = masking.load(path)
    assert list(back) == list(masks)
    for name, mask in masks.items():
        assert back[name].dtype == torch.bool and torch.equal(back[name], mask)
