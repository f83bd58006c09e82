"""Was a weight kept more often, or is it larger, than chance has it? Exact tests; the unit is always the network.

There are two kinds of chance. A coordinate that was fixed before the training is kept with the rate of its matrix:
`against_rates`. A weight that was *found* in a trained network is large there by construction. So it is compared with
the controls of the same network; if it is nothing special, it is exchangeable with them: `rank_test`, `survival_test`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from swlottery.lottery.matching import COUNT

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
    """The mean over networks of the tracked weight's rank among its controls: 0 below all, ½ chance, 1 above all.

    by_network: the rank in each. p: two-sided. shift: how far the weight's value is above its controls' (the shift that
    makes it most like one of them). interval: all shifts that are not rejected at 5 %.
    """

    mean: float
    by_network: list[float]
    p: float
    shift: float
    interval: tuple[float, float]


def against_rates(kept: Sequence[bool], rates: Sequence[float]) -> Counted:
    """Coordinates fixed beforehand against the observed keep rate of each one's matrix (Poisson-binomial).

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


def rates_power(rates: Sequence[float], factor: float = 2.0) -> float:
    """The power of `against_rates` at 5 % where coordinates are kept ``factor`` times as often as a matrix."""
    from scipy.stats import poisson_binom

    chance = np.asarray(rates, dtype=float)
    claimed = [kept for kept in range(len(chance) + 1) if _counted(kept, chance).p <= 0.05]
    return float(poisson_binom(np.minimum(1.0, factor * chance)).pmf(claimed).sum()) if claimed else 0.0


def survival_test(tracked: Sequence[bool], kept: Sequence[int], controls: Sequence[int]) -> Counted:
    """One tracked weight a network against its controls: kept or not, stratified by network.

    Given how many of a network's n + 1 weights were kept, each is equally likely to be among them (Fisher's exact test,
    stratified): the sum over networks is Poisson-binomial.

    Args:
        tracked: of each network, whether the tracked weight was kept.
        kept, controls: of each network, how many of how many controls were kept.
    """
    rates = [(int(one) + k) / (n + 1) for one, k, n in zip(tracked, kept, controls, strict=True)]
    return _counted(int(np.count_nonzero(tracked)), np.asarray(rates))


def _counted(kept: int, rates: NDArray[np.float64]) -> Counted:
    from scipy.stats import poisson_binom

    if not len(rates):
        return Counted(0, 0, 0.0, 1.0)
    chance = poisson_binom(rates)
    p = min(1.0, 2 * min(float(chance.cdf(kept)), float(chance.sf(kept - 1))))
    return Counted(kept, len(rates), float(rates.sum()), p)


def rank_test(tracked: ArrayLike, controls: Sequence[ArrayLike]) -> Ranked:
    """H0: in each network the tracked weight is exchangeable with its controls.

    The statistic is the mean over networks of the weight's mid-rank; its distribution under H0 is that of a sum of
    independent draws from each network's own ranks, computed and not sampled. Networks may differ in their number of
    controls. The interval inverts the test: it holds the shifts that, taken off the weight, leave no rejection.

    Args:
        tracked: the value of the tracked weight of each network, such as log(|w|/threshold).
        controls: those of its controls, an array a network.

    Raises:
        ValueError: no network, a network without controls, a value that is NaN.
    """
    values = np.asarray(tracked, dtype=float)
    others = [np.asarray(one, dtype=float) for one in controls]
    if not len(values) or len(values) != len(others) or any(not len(one) for one in others):
        raise ValueError("every network needs one tracked weight and at least one control")
    if np.isnan(values).any() or any(np.isnan(one).any() for one in others):
        raise ValueError("a value is missing")
    ranks = _ranks(values, others)
    shift, interval = _shifts(values, others)
    return Ranked(float(np.mean(ranks)), ranks, _rank_p(values, others), shift, interval)


def _ranks(values: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> list[float]:
    """(number of controls below + half of those equal) / number of controls."""
    return [float(((c < v).sum() + (c == v).sum() / 2) / len(c)) for v, c in zip(values, others, strict=True)]


@cache
def power(networks: int, shift: float, level: float = 0.05, common: float = 0.4, studies: int = 10_000) -> float:
    """The power of `rank_test` at ``level``, over simulated studies with normal values.

    Args:
        shift: how far the tracked weight is above its controls, in their standard deviations; 0: the real level.
        common: the standard deviation of what all weights of a network share, in the same unit. It moves no rank; its
            default is about that of log(|w|/threshold) in the networks of docs/results-kept.md.
    """
    rng = np.random.default_rng([0, networks, COUNT])
    claimed = 0
    for _ in range(studies // 1000):
        values = rng.normal(size=(1000, networks, COUNT + 1)) + rng.normal(scale=common, size=(1000, networks, 1))
        below = (values[:, :, 1:] < values[:, :, :1] + shift).sum(axis=(1, 2))
        claimed += int((_sum_p(networks)[below] <= level).sum())
    return claimed / (studies // 1000 * 1000)


@cache
def _sum_p(networks: int) -> NDArray[np.float64]:
    """The p-value of each sum over networks of the number of controls below the tracked weight, without ties."""
    chance = np.ones(1)
    for _ in range(networks):
        chance = np.convolve(chance, np.full(COUNT + 1, 1 / (COUNT + 1)))
    return np.array([_two_sided(chance, below, 0.25) for below in range(len(chance))])


def _two_sided(chance: NDArray[np.float64], observed: int, slack: float) -> float:
    """The probability of being as far from the middle of ``chance``, which is symmetric, as ``observed`` or further."""
    distance = np.abs(np.arange(len(chance)) - (len(chance) - 1) / 2)
    return min(1.0, float(chance[distance >= distance[observed] - slack].sum()))


ALPHA = 1 - 0.95
"""The level of intervals: by rounding a little above 0.05, so that a p of 5 % rejects, also one that is rounded up."""
FINEST = 1 << 12
"""The most steps between 0 and 1 of the grid on which ranks are added up."""


def _rank_p(values: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> float:
    """Two-sided: the probability of a sum of ranks that is as far from its middle, or further.

    Ranks among n controls are multiples of 1/2n, so one grid holds those of all networks exactly. Where that grid would
    be too fine, ranks are rounded to `FINEST`, and every sum that rounding could have moved counts as extreme.
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
    return _two_sided(chance, observed, slack)


def _shifts(values: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> tuple[float, tuple[float, float]]:
    """The shift at which the mean rank is ½, and the smallest and largest that are not rejected.

    The mean rank decreases as the weights are moved down, and changes only where one meets a control. So only these
    differences are tried, a value between each two of them, and one beyond them all.
    """
    differences = np.unique(np.concatenate([v - c for v, c in zip(values, others, strict=True)]))
    tried = np.empty(2 * len(differences) + 1)
    tried[1::2] = differences
    tried[2:-1:2] = (differences[1:] + differences[:-1]) / 2
    tried[0], tried[-1] = differences[0] - 1, differences[-1] + 1

    def at_most_half(index: int) -> bool:
        return float(np.mean(_ranks(values - tried[index], others))) <= 0.5

    def accepted(index: int) -> bool:
        return _rank_p(values - tried[index], others) > ALPHA

    middle = bisect_left(range(len(tried)), True, key=at_most_half)
    low = bisect_left(range(middle), True, key=accepted)
    last = bisect_left(range(len(tried)), True, lo=middle, key=lambda index: not accepted(index)) - 1
    lower = -np.inf if low == 0 else float(differences[(low - 1) // 2])
    upper = np.inf if last == len(tried) - 1 else float(differences[last // 2])
    return float(differences[min(max(middle - 1, 0) // 2, len(differences) - 1)]), (lower, upper)
