"""The statistics of a study: against numbers worked out by hand, against enumeration, and against simulated chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swlottery.study.statistics import (
    Dispersion,
    against_rates,
    auc,
    deviation,
    dispersion,
    flip_test,
    holm,
    pairs_needed,
    power,
    proportion,
    rank_test,
    rates_power,
    regression,
    student,
    survival_curve,
    survival_test,
    typical_values,
)


def test_two_coordinates_by_hand() -> None:
    found = against_rates([True, True], [0.5, 0.2])
    assert (found.kept, found.number, found.expected) == (2, 2, 0.7)
    assert math.isclose(found.p, 2 * 0.5 * 0.2)
    assert against_rates([True, False], [0.5, 0.5]).p == 1.0
    assert against_rates([], []).p == 1.0
    with pytest.raises(ValueError, match="one rate between 0 and 1"):
        against_rates([True], [1.2])
    with pytest.raises(ValueError, match="one rate between 0 and 1"):
        against_rates([True], [0.2, 0.3])


def test_survival_among_controls_by_hand() -> None:
    """Two networks with two controls each, of which none was kept, but the tracked weight was: 1/3 · 1/3, two-sided."""
    found = survival_test([True, True], [0, 0], [2, 2])
    assert math.isclose(found.p, 2 / 9) and math.isclose(found.expected, 2 / 3)
    assert survival_test([True, True], [2, 2], [2, 2]).p == 1.0  # all were kept: nothing is learned


def test_one_stratum_is_fishers_exact_test() -> None:
    from scipy.stats import fisher_exact

    found = survival_test([False], [15], [19])
    one_sided = fisher_exact([[0, 1], [15, 4]], alternative="less").pvalue
    assert math.isclose(found.p, min(1.0, 2 * one_sided))


def by_enumeration(values: list[float], controls: list[list[float]]) -> float:
    """The p-value of `rank_test`: every way in which each network's tracked weight could be another of its weights."""

    def rank(value: float, others: list[float]) -> float:
        return sum((c < value) + (c == value) / 2 for c in others) / len(others)

    observed = sum(rank(v, c) for v, c in zip(values, controls, strict=True)) / len(values)
    everything = [[v, *c] for v, c in zip(values, controls, strict=True)]
    hits = total = 0
    for chosen in itertools.product(*(range(len(one)) for one in everything)):
        ranks = [rank(one[i], one[:i] + one[i + 1 :]) for i, one in zip(chosen, everything, strict=True)]
        hits += abs(sum(ranks) / len(ranks) - 0.5) >= abs(observed - 0.5) - 1e-9
        total += 1
    return hits / total


network = st.integers(0, 6).flatmap(
    lambda v: st.tuples(st.just(v), st.lists(st.integers(0, 6), min_size=4, max_size=4))
)


@settings(deadline=None, max_examples=60)
@given(st.lists(network, min_size=1, max_size=4))
def test_the_rank_test_is_the_enumeration(networks: list[tuple[int, list[int]]]) -> None:
    values, controls = [float(v) for v, _ in networks], [[float(c) for c in cs] for _, cs in networks]
    assert math.isclose(rank_test(values, controls).p, by_enumeration(values, controls), rel_tol=1e-9)


def test_ranks_are_those_among_the_controls() -> None:
    found = rank_test([3.0, 0.0, 2.0], [[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]])
    assert found.by_network == [1.0, 0.0, 0.5] and found.mean == 0.5 and found.p == 1.0
    with pytest.raises(ValueError, match="at least one control"):
        rank_test([1.0], [[]])
    with pytest.raises(ValueError, match="at least one control"):
        rank_test([], [])
    with pytest.raises(ValueError, match="missing"):
        rank_test([math.nan], [[1.0]])


def test_a_shift_is_found_again() -> None:
    rng = np.random.default_rng(0)
    controls = [rng.normal(size=19) for _ in range(10)]
    found = rank_test([float(np.median(c)) + 5.0 for c in controls], controls)
    assert abs(found.shift - 5.0) < 0.3 and found.interval[0] < 5 < found.interval[1] and found.p < 1e-6
    assert found.interval[0] > 3.5 and found.interval[1] < 6.5


def simulated(rng: np.random.Generator, seeds: int, shift: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """A study in which the tracked weight is exchangeable but for a shift; a network shares a large part."""
    values, controls = [], []
    for _ in range(seeds):
        drawn = rng.normal(scale=3) + rng.normal(size=20)
        values.append(drawn[0] + shift)
        controls.append(drawn[1:])
    return np.array(values), controls


def test_under_the_null_a_difference_is_claimed_in_five_of_a_hundred() -> None:
    rng = np.random.default_rng(1)
    claimed = sum(rank_test(*simulated(rng, 10, 0.0)).p <= 0.05 for _ in range(300))
    low, high = proportion(claimed, 300, 0.999)
    assert low <= 0.05 <= high


def test_a_shift_of_one_and_a_half_is_seen() -> None:
    rng = np.random.default_rng(2)
    assert sum(rank_test(*simulated(rng, 10, 1.5)).p <= 0.05 for _ in range(50)) >= 40


def test_a_thousand_studies_are_calibrated_and_see_a_shift() -> None:
    """Ten networks: without a shift 5 % are within the interval of the rate of claims; at 1.5 it is four of five."""
    low, high = proportion(round(1000 * power(10, 0.0, studies=1000)), 1000)
    assert low <= 0.05 <= high
    assert power(10, 1.5) >= 0.8
    assert power(10, 0.5) < power(20, 0.5) < power(20, 1.0), "more networks and larger shifts are seen more often"
    assert power(10, 1.0, level=0.01) < power(10, 1.0), "a stricter level sees less"
    assert power(10, 1.0, common=9.0) == pytest.approx(power(10, 1.0), abs=0.03), (
        "what all have in common moves no rank"
    )


def test_power_is_that_of_the_test_itself() -> None:
    """Drawn and tested here, study by study."""
    rng = np.random.default_rng(7)
    claimed = sum(rank_test(*simulated(rng, 6, 1.0)).p <= 0.05 for _ in range(300))
    low, high = proportion(claimed, 300, 0.999)
    assert low <= power(6, 1.0) <= high


def test_power_against_rates_by_hand() -> None:
    """Ten coordinates with a rate of 0.4: a difference is claimed at 0 and from 8 kept on; at 0.8, that is likely."""
    from scipy.stats import binom

    claimed = [k for k in range(11) if against_rates([True] * k + [False] * (10 - k), [0.4] * 10).p <= 0.05]
    assert claimed == [0, 8, 9, 10]
    assert rates_power([0.4] * 10) == pytest.approx(binom(10, 0.8).pmf(claimed).sum())
    assert rates_power([0.4] * 10, factor=1.0) <= 0.05 and rates_power([0.9], factor=2.0) == 0.0


def test_the_interval_holds_the_shift() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(60):
        low, high = rank_test(*simulated(rng, 10, 0.7)).interval
        held += low <= 0.7 <= high
    assert held >= 52


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_proportions() -> None:
    assert proportion(0, 10) == pytest.approx((0.0, 0.3084971))  # Clopper & Pearson's table


def test_auc_by_hand() -> None:
    assert auc([1, 2, 3, 4], [False, True, False, True]) == 0.75
    assert auc([1, 1], [True, False]) == 0.5 and math.isnan(auc([1, 2], [True, True]))
    many = np.arange(10_001, dtype=np.float32)
    assert auc(many, many % 2 == 0) == 0.5, "ranks are added up in double precision"


def test_regression_by_hand() -> None:
    coefficients, r2 = regression([1.0, 3.0, 5.0, 7.0], [0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 0.0])
    assert coefficients == pytest.approx([1.0, 2.0, 0.0], abs=1e-12) and r2 == pytest.approx(1.0)


def test_survival_with_a_weight_that_was_not_seen_to_its_end() -> None:
    """Three weights: one pruned at 1, one whose run has come to 1 only, one pruned at 2."""
    assert survival_curve([1, 1, 2], [True, False, True]) == ([1.0, 2.0], pytest.approx([2 / 3, 0.0]))
    assert survival_curve([5, 5], [False, False]) == ([], [])


def test_typical_values_by_hand() -> None:
    """Three differences have seven subset means; each of the eight gaps between them is as likely."""
    low, high = typical_values([0.0, 3.0, 6.0], level=0.75)
    assert (low, high) == (0.0, 6.0)
    low, high = typical_values([0.0, 3.0, 6.0], level=0.5)
    assert (low, high) == (1.5, 4.5)
    assert typical_values([1.0, 2.0]) == (-math.inf, math.inf)


def test_typical_values_hold_the_centre_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    held = sum(low <= 1 <= high for low, high in (typical_values(1 + random.laplace(size=10)) for _ in range(400)))
    low, high = proportion(held, 400, level=0.999)
    assert low <= 0.95 <= high
    many = typical_values(1 + random.laplace(size=200))
    assert many[0] < 1 < many[1] and many[1] - many[0] < 1


@given(st.lists(st.integers(-10, 10), min_size=1, max_size=7))
def test_changes_of_sign_are_counted_as_by_hand(differences: list[int]) -> None:
    sums = [int(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    above, below = sum(one >= sums[0] for one in sums), sum(one <= sums[0] for one in sums)
    assert flip_test(differences) == min(1.0, 2 * min(above, below) / len(sums))


def test_the_test_and_its_interval_agree_and_six_pairs_are_the_fewest() -> None:
    random = np.random.default_rng(0)
    for n in (6, 8, 10):
        for _ in range(50):
            values = (0.7 + random.normal(size=n)).tolist()
            low, high = typical_values(values)
            assert (flip_test(values) <= 0.05) == (low > 0 or high < 0)
    assert flip_test([1.0] * 6) == 2 / 64 and flip_test([-1.0] * 5) == 2 / 32 and flip_test([0.0] * 8) == 1.0
    assert flip_test([1.0] * 20) < 0.001


def test_few_values_have_the_intervals_of_a_normal_law() -> None:
    from scipy.stats import ttest_1samp

    values = [0.1, 0.4, 0.2]
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    assert student(values) == pytest.approx((found.low, found.high))
    random = np.random.default_rng(0)
    intervals = (deviation(random.normal(size=4).tolist()) for _ in range(400))
    low, high = proportion(sum(low <= 1 <= high for _, low, high in intervals), 400, level=0.999)
    assert low <= 0.95 <= high
    assert pairs_needed(1.0, 1.0) == 8 and pairs_needed(2.0, 1.0) == 32 and pairs_needed(0.0, 1.0) == 6


def test_dispersion_by_hand_and_under_the_null() -> None:
    same = np.tile([True, False] * 50, (10, 1))
    found = dispersion(same, np.zeros(100))
    assert found.value > 8 > found.high > 1 > found.low and found.p == pytest.approx(0.002)
    assert dispersion(same, np.arange(100) % 2) == Dispersion(1.0, 1.0, 1.0, 1.0), (
        "by matrix all is said: one is kept whole, the other not at all"
    )
    random = np.random.default_rng(3)
    values = [dispersion(random.random((8, 60)) < 0.4, np.zeros(60), draws=99) for _ in range(100)]
    assert sum(one.p <= 0.1 for one in values) < 22
    assert 85 <= sum(one.low <= one.value <= one.high for one in values) < 100, "the band of 95 %"
