"""Tokens become batches, a pure function of seed and step, and windows of validation: `swlottery.data.batches`."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swlottery.data.batches import batch, validation_windows


@given(
    total=st.integers(2, 3000),
    context=st.integers(1, 50),
    size=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**40),
)
@settings(deadline=None)  # a busy machine may be slow
def test_a_batch_is_a_pure_function_of_seed_and_step(total: int, context: int, size: int, seed: int, step: int) -> None:
    context = min(context, total - 1)
    tokens = np.arange(total, dtype=np.uint16)  # each token is its own position
    rows = batch(tokens, context, size, seed, step)
    assert rows.shape == (size, context + 1) and rows.dtype == torch.long
    assert torch.equal(rows, rows[:, :1] + torch.arange(context + 1))  # unbroken stretches
    np.random.seed(step % 2**32)  # the generators of others change nothing, and are not changed
    torch.manual_seed(step)
    state = np.random.get_state()[1].tolist()
    assert torch.equal(batch(tokens, context, size, seed, step), rows)
    assert np.random.get_state()[1].tolist() == state and torch.initial_seed() == step
    # A rank that takes its rows, and a run with a larger batch, see the same ones.
    assert torch.equal(batch(tokens, context, size + 3, seed, step)[:size], rows)
    some = [row for row in range(size) if row % 3]
    assert torch.equal(batch(tokens, context, size, seed, step, some), rows[some])
    assert torch.equal(batch(tokens, context, size, seed, step, range(1, size, 2)), rows[1::2])


@given(count=st.integers(1, 12), context=st.integers(2, 30), length=st.integers(0, 3), step=st.integers(0, 9))
@settings(deadline=None)
def test_every_sequence_begins_with_the_prefix(count: int, context: int, length: int, step: int) -> None:
    prefix, body = [9_999, 9_998, 9_997][: min(length, context - 1)], context + 1 - min(length, context - 1)
    tokens = np.arange(count * body + 5, dtype=np.uint16)
    for rows in (
        batch(tokens, context, count, 3, step, prefix=prefix),
        validation_windows(tokens, context, count, prefix),
    ):
        assert rows.shape == (count, context + 1)
        assert rows[:, : len(prefix)].tolist() == [prefix] * count
        text = rows[:, len(prefix) :]
        assert torch.equal(text, text[:, :1] + torch.arange(body))
        assert int(text.max()) < len(tokens)
    # The last tokens can be drawn too, and no more are needed than a sequence has.
    assert batch(tokens[:body], context, 1, 3, step, prefix=prefix)[0, len(prefix) :].tolist() == list(range(body))


def test_batches_of_other_steps_and_seeds_are_others() -> None:
    tokens = np.arange(60_000, dtype=np.uint16)
    drawn = [batch(tokens, 4, 8, seed, step)[:, 0].tolist() for seed in range(20) for step in range(100)]
    starts = [start for row in drawn for start in row]
    assert len({tuple(row) for row in drawn}) == len(drawn)
    assert len(set(starts)) > 0.85 * len(starts)  # 16,000 draws of 60,000 repeat as chance has it: 0.877
    # Uniform, and the first start of one step says nothing about the next's.
    counts = np.bincount(np.array(starts) * 10 // 60_000, minlength=10)
    assert abs(counts - 1600).max() < 5 * 40
    first = np.array([row[0] for row in drawn], dtype=float)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1


def test_the_batches_are_these() -> None:
    """Runs go on with the batches they began with, whatever version of numpy is installed meanwhile."""
    tokens = np.arange(50_000, dtype=np.uint16)
    assert batch(tokens, 3, 4, seed=0, step=0)[:, 0].tolist() == [35462, 16481, 41005, 41856]
    assert batch(tokens, 3, 4, seed=7, step=12345)[:, 0].tolist() == [40486, 38773, 24852, 13229]


def test_every_stretch_can_be_drawn() -> None:
    tokens = np.arange(7, dtype=np.uint16)
    starts = {start for step in range(50) for start in batch(tokens, 3, 4, 0, step)[:, 0].tolist()}
    assert starts == {0, 1, 2, 3}
    assert batch(tokens, 6, 5, 0, 0).tolist() == [list(range(7))] * 5


@given(count=st.integers(1, 30), context=st.integers(1, 20), spare=st.integers(0, 500))
@settings(deadline=None)
def test_validation_windows_are_spread_and_apart(count: int, context: int, spare: int) -> None:
    length = context + 1
    tokens = np.arange(count * length + spare, dtype=np.uint16)
    rows = validation_windows(tokens, context, count)
    assert rows.shape == (count, length) and rows.dtype == torch.long
    assert torch.equal(rows, rows[:, :1] + torch.arange(length))
    starts = rows[:, 0].tolist()
    steps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert starts[0] == 0 and all(step >= length for step in steps)
    if count > 1:
        assert starts[-1] + length == len(tokens) and max(steps) - min(steps) <= 1
