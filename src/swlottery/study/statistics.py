"""Was a weight kept more often, or larger, than chance has it? The tests of a study, from numbers to numbers.

Two questions, with two kinds of chance. A coordinate that was fixed before the training is kept with the rate of its matrix:
`against_rates`. A weight that was *found* in a trained network is large there by construction, and is compared with the
controls of the same network, among which it is exchangeable if it is nothing special: `rank_test`, `survival_test`. All
of these are exact; the unit is the network, never the weight or the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Counted:
    """How many were kept, how many chance would have kept, and the two-sided p-value of the difference."""

    kept: int
    number: int
    expected: float
    p: float


@dataclass(frozen=True)
class Ranked:
    """The mean over networks of the followed weight's rank among its controls: 0 below all, ½ chance, 1 above all.

    by_network: each one's. p: two-sided. shift: by how much the weight's value stands above its controls' (the shift that
    makes it most like one of them), with the interval of all shifts that are not rejected at ``level``.
    """

    mean: float
    by_network: list[float]
    p: float
    shift: float
    interval: tuple[float, float]
    level: float


def against_rates(kept: Sequence[bool], rates: Sequence[float]) -> Counted:
    """Coordinates fixed beforehand against the keep rate of each one's matrix, as it came about (Poisson-binomial).

    Args:
        kept: of each coordinate, whether it was kept.
        rates: of each coordinate, the fraction of its matrix that was kept.

    Raises:
        ValueError: not as many rates as coordinates, or one that is no probability.
    """
    probabilities = np.asarray(rates, dtype=float)
    if len(kept) != len(probabilities) or not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("every coordinate needs one rate between 0 and 1")
    return _counted(int(np.count_nonzero(kept)), probabilities)


def rates_power(rates: Sequence[float], factor: float = 2.0, level: float = 0.05) -> float:
    """How often `against_rates` claims a difference at ``level``, where each coordinate is really kept ``factor`` times as often
    as its matrix is (at most always)."""
    from scipy.stats import poisson_binom

    chance = np.asarray(rates, dtype=float)
    claimed = [kept for kept in range(len(chance) + 1) if _counted(kept, chance).p <= level]
    return float(poisson_binom(np.minimum(1.0, factor * chance)).pmf(claimed).sum()) if claimed else 0.0


def survival_test(followed: Sequence[bool], kept: Sequence[int], controls: Sequence[int]) -> Counted:
    """One followed weight a network against its controls: kept or not, stratified by network, exact.

    Given how many of a network's n + 1 weights were kept, each is equally likely to be among them (Fisher's exact test,
    stratified): the sum over networks is Poisson-binomial.

    Args:
        followed: of each network, whether the followed weight was kept.
        kept, controls: of each network, how many of how many controls were kept.
    """
    rates = [(int(one) + k) / (n + 1) for one, k, n in zip(followed, kept, controls, strict=True)]
    return _counted(int(np.count_nonzero(followed)), np.asarray(rates))


def _counted(kept: int, rates: NDArray[np.float64]) -> Counted:
    from scipy.stats import poisson_binom

    if not len(rates):
        return Counted(0, 0, 0.0, 1.0)
    chance = poisson_binom(rates)
    p = min(1.0, 2 * min(float(chance.cdf(kept)), float(chance.sf(kept - 1))))
    return Counted(kept, len(rates), float(rates.sum()), p)


def rank_test(followed: ArrayLike, controls: Sequence[ArrayLike], level: float = 0.95) -> Ranked:
    """H0: in each network the followed weight is exchangeable with its controls.

    The statistic is the mean over networks of the weight's mid-rank; its distribution under H0 is that of a sum of
    independent draws from each network's own ranks, and is worked out, not sampled. Networks may differ in their number of
    controls. The interval inverts the test: those shifts for which the weight, moved back by it, would not be told from them.

    Args:
        followed: the value of the followed weight of each network, such as log(|w|/threshold).
        controls: those of its controls, an array a network.

    Raises:
        ValueError: no network, a network without controls, a value that is NaN.
    """
    values = np.asarray(followed, dtype=float)
    others = [np.asarray(one, dtype=float) for one in controls]
    if not len(values) or len(values) != len(others) or any(not len(one) for one in others):
        raise ValueError("every network needs one followed weight and at least one control")
    if np.isnan(values).any() or any(np.isnan(one).any() for one in others):
        raise ValueError("a value is missing")
    ranks = _ranks(values, others)
    shift, interval = _shifts(values, others, 1 - level)
    return Ranked(float(np.mean(ranks)), ranks, _rank_p(values, others), shift, interval, level)


def _ranks(values: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> list[float]:
    """(number of controls below + half of those equal) / number of controls."""
    return [
        float((np.count_nonzero(c < v) + np.count_nonzero(c == v) / 2) / len(c))
        for v, c in zip(values, others, strict=True)
    ]


@cache
def power(
    networks: int, shift: float, controls: int = 19, level: float = 0.05, common: float = 0.4, studies: int = 10_000, seed: int = 0
) -> float:  # fmt: skip
    """How often `rank_test` claims a difference at ``level``, over simulated studies in which the values are normal and the
    followed weight stands ``shift`` standard deviations of its network's controls above them; 0: the level it really has.

    common: the standard deviation of what all weights of a network share, in theirs; log(|w|/threshold) of the networks of
    docs/results.md has about that. It moves no rank.
    """
    rng = np.random.default_rng([seed, networks, controls])
    claimed = 0
    for _ in range(studies // 1000):
        values = rng.normal(size=(1000, networks, controls + 1)) + rng.normal(scale=common, size=(1000, networks, 1))
        below = (values[:, :, 1:] < values[:, :, :1] + shift).sum(axis=(1, 2))
        claimed += int((_sum_p(networks, controls)[below] <= level).sum())
    return claimed / (studies // 1000 * 1000)


@cache
def _sum_p(networks: int, controls: int) -> NDArray[np.float64]:
    """The p-value of each sum over networks of the number of controls below the followed weight, without ties."""
    chance = np.ones(1)
    for _ in range(networks):
        chance = np.convolve(chance, np.full(controls + 1, 1 / (controls + 1)))
    distance = np.abs(np.arange(len(chance)) - networks * controls / 2)
    return np.array([min(1.0, float(chance[distance >= one - 0.25].sum())) for one in distance])


FINEST = 1 << 12
"""Most steps of the grid, between 0 and 1, on which the ranks of networks are added up."""


def _rank_p(values: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> float:
    """Two-sided: the probability of a sum of ranks that is as far from its middle, or further.

    Ranks among n controls are multiples of 1/2n, so that one grid holds those of all networks exactly; where their numbers
    of controls have too little in common for it, ranks are rounded to the finest, and what rounding could reach counts.
    """
    from scipy.stats import rankdata

    exact = 2 * math.lcm(*(len(control) for control in others))
    grid, slack = (exact, 0.25) if exact <= FINEST else (FINEST, len(others) / 2)
    chance, observed = np.ones(1), 0
    for value, control in zip(values, others, strict=True):
        ranks = (rankdata(np.append(control, value)) - 1) / len(control)
        places = np.round(ranks * grid).astype(int)
        chance = np.convolve(chance, np.bincount(places, minlength=grid + 1) / len(ranks))
        observed += int(places[-1])
    middle = len(others) * grid / 2
    distance = np.abs(np.arange(len(chance)) - middle)
    return float(min(1.0, chance[distance >= abs(observed - middle) - slack].sum()))


def _shifts(
    values: NDArray[np.float64], others: Sequence[NDArray[np.float64]], alpha: float
) -> tuple[float, tuple[float, float]]:
    """The shift at which the mean rank is ½, and the smallest and largest that are not rejected.

    The mean rank falls as the weights are moved down, and changes only where one meets a control: so only these differences
    are tried, what lies between two of them, and what lies beyond them all.
    """
    differences = np.unique(np.concatenate([v - c for v, c in zip(values, others, strict=True)]))
    tried = np.empty(2 * len(differences) + 1)
    tried[1::2] = differences
    tried[2:-1:2] = (differences[1:] + differences[:-1]) / 2
    tried[0], tried[-1] = differences[0] - 1, differences[-1] + 1

    def falls_to_half(index: int) -> bool:
        return float(np.mean(_ranks(values - tried[index], others))) <= 0.5

    def accepted(index: int) -> bool:
        return _rank_p(values - tried[index], others) > alpha

    middle = _first(len(tried), falls_to_half)
    low = _first(middle, accepted)
    last = middle + _first(len(tried) - middle, lambda index: not accepted(middle + index)) - 1
    lower = -np.inf if low == 0 else float(differences[(low - 1) // 2])
    upper = np.inf if last == len(tried) - 1 else float(differences[last // 2])
    return float(differences[min(max(middle - 1, 0) // 2, len(differences) - 1)]), (lower, upper)


def _first(number: int, holds: Any) -> int:
    """The first index from which on something holds (it does not before); ``number`` where it never does."""
    low, high = 0, number
    while low < high:
        at = (low + high) // 2
        low, high = (low, at) if holds(at) else (at + 1, high)
    return low


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm (1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, least = [0.0] * len(p_values), 0.0
    for position, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - position) * p_values[i]))
        corrected[i] = least
    return corrected


def proportion(kept: int, number: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a proportion: Clopper & Pearson (1934)."""
    from scipy.stats import binomtest

    found = binomtest(kept, number).proportion_ci(level)
    return float(found.low), float(found.high)


def auc(scores: ArrayLike, kept: ArrayLike) -> float:
    """How well scores tell the kept from the pruned: the probability that a kept one has the higher score (½: not at all).

    NaN where all were kept, or none.
    """
    from scipy.stats import rankdata

    alive = np.asarray(kept, dtype=bool)
    positives, negatives = int(alive.sum()), int((~alive).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(np.asarray(scores))
    return float((ranks[alive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def regression(target: ArrayLike, *predictors: ArrayLike) -> tuple[list[float], float]:
    """Least squares: (intercept and slopes, R²)."""
    y = np.asarray(target, dtype=float)
    columns = np.column_stack([np.ones_like(y), *(np.asarray(x, dtype=float) for x in predictors)])
    coefficients, *_ = np.linalg.lstsq(columns, y, rcond=None)
    residual = y - columns @ coefficients
    spread = float(((y - y.mean()) ** 2).sum())
    return [float(c) for c in coefficients], 1 - float((residual**2).sum()) / spread if spread else float("nan")


def survival_curve(last: ArrayLike, pruned: ArrayLike) -> tuple[list[float], list[float]]:
    """Kaplan & Meier (1958): (places, fraction that survives beyond each).

    Args:
        last: how far each weight was seen: where it was pruned, or where its run ends (so far).
        pruned: whether it was pruned there; else it is censored: nothing is known of what comes later.
    """
    from scipy.stats import CensoredData, ecdf

    at, gone = np.asarray(last, dtype=float), np.asarray(pruned, dtype=bool)
    if not gone.any():
        return [], []
    curve = ecdf(CensoredData.right_censored(at, ~gone)).sf
    return [float(q) for q in curve.quantiles], [float(p) for p in curve.probabilities]


def typical_values(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of the centre of symmetric differences, one a network: exact, without a normal law (Hartigan 1969).

    The centre falls with equal probability between any two neighbours of the 2ⁿ − 1 sorted means of all subsets; as many of these
    gaps are cut off at either end as the level allows. Of more than 16 differences, means of 2¹⁶ random subsets.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) <= 16:
        chosen = (np.arange(1, 1 << len(values))[:, None] >> np.arange(len(values))) & 1
    else:
        chosen = np.random.default_rng(0).integers(0, 2, size=(1 << 16, len(values)))
        chosen = chosen[chosen.any(axis=1)]
    means = np.sort((chosen @ values) / chosen.sum(axis=1))
    out = math.floor((len(means) + 1) * (1 - level) / 2)  # gaps at either end
    return (-math.inf, math.inf) if out == 0 else (float(means[out - 1]), float(means[-out]))


@dataclass(frozen=True)
class Dispersion:
    """value: the variance over coordinates of how often each was kept, over its mean under the null. p: two-sided. low, high: between
    them lie 95 % of what the null gives."""

    value: float
    p: float
    low: float
    high: float


def dispersion(kept: ArrayLike, groups: ArrayLike, draws: int = 999, seed: int = 0) -> Dispersion:
    """Are the same coordinates kept in one network after the other?

    H0: in each network, those of a matrix that were kept are any of those looked at. So they are permuted within each matrix.

    Args:
        kept: ``[networks, coordinates]``. groups: ``[coordinates]``, the matrix of each.
    """
    alive, matrix = np.asarray(kept, dtype=bool), np.asarray(groups)
    random = np.random.default_rng(seed)
    inside = [np.flatnonzero(matrix == one) for one in np.unique(matrix)]

    def spread(table: NDArray[np.bool_]) -> float:
        """Within matrices, whose keep rates differ."""
        counts = table.sum(axis=0)
        return float(sum(((counts[one] - counts[one].mean()) ** 2).sum() for one in inside))

    observed, null = spread(alive), np.empty(draws)
    for draw in range(draws):
        shuffled = alive.copy()
        for one in inside:
            shuffled[:, one] = random.permuted(alive[:, one], axis=1)
        null[draw] = spread(shuffled)
    above, below = np.count_nonzero(null >= observed), np.count_nonzero(null <= observed)
    p = min(1.0, 2 * (min(above, below) + 1) / (draws + 1))
    if not null.mean():
        return Dispersion(1.0, p, 1.0, 1.0)
    value, low, high = np.array([observed, *np.quantile(null, (0.025, 0.975))]) / null.mean()
    return Dispersion(float(value), p, float(low), float(high))
