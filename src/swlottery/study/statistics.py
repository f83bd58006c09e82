"""The statistics of a study, from numbers to numbers: corrections, intervals, curves; exact tests: `study.exact`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from swlottery.study.exact import Counted as Counted
from swlottery.study.exact import Ranked as Ranked
from swlottery.study.exact import against_rates as against_rates
from swlottery.study.exact import power as power
from swlottery.study.exact import rank_test as rank_test
from swlottery.study.exact import rates_power as rates_power
from swlottery.study.exact import survival_test as survival_test

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm (1979), in the given order."""
    order = np.argsort(p_values, stable=True)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    return [float(p) for p in np.minimum(corrected, 1.0)]


def proportion(kept: int, number: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a proportion: Clopper & Pearson (1934)."""
    from scipy.stats import binomtest

    found = binomtest(kept, number).proportion_ci(level)
    return float(found.low), float(found.high)


def auc(scores: ArrayLike, kept: ArrayLike) -> float:
    """The area under the ROC curve: the probability that a kept weight has a higher score than a pruned one.

    ½ is chance. NaN where all were kept, or none.
    """
    from scipy.stats import rankdata  # mannwhitneyu takes three times as long, and adds up in float32

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
    residual, spread = y - columns @ coefficients, float(((y - y.mean()) ** 2).sum())
    return coefficients.tolist(), 1 - float((residual**2).sum()) / spread if spread else float("nan")


def survival_curve(last: ArrayLike, pruned: ArrayLike) -> tuple[list[float], list[float]]:
    """Kaplan & Meier (1958): (rounds, fraction that survives beyond each).

    Args:
        last: the last round known of each weight: where it was pruned, or where its run ends (so far).
        pruned: whether it was pruned there; else it is censored.
    """
    from scipy.stats import CensoredData, ecdf

    at, gone = np.asarray(last, dtype=float), np.asarray(pruned, dtype=bool)
    if not gone.any():
        return [], []
    curve = ecdf(CensoredData.right_censored(at, ~gone)).sf
    return curve.quantiles.tolist(), curve.probabilities.tolist()


FEWEST = 6
"""Differences from which on `flip_test` can give a p-value below 0.05: the least of n is 2/2ⁿ."""


def typical_values(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of the centre of symmetric differences, one a network: exact, without a normal law (Hartigan 1969).

    The centre is with equal probability between any two neighbours of the 2ⁿ − 1 sorted means of all subsets. As
    many of these gaps are cut off at either end as the level allows. Of more than 16 differences: 2¹⁶ random subsets.
    """
    means = np.sort(_subset_means(differences))
    out = math.floor((len(means) + 1) * (1 - level) / 2)  # gaps at either end
    return (-math.inf, math.inf) if out == 0 else (float(means[out - 1]), float(means[-out]))


def flip_test(differences: Sequence[float]) -> float:
    """Two-sided p-value of a centre of zero, which `typical_values` inverts.

    A sum whose terms change sign in a subset is as large as the observed one where that subset's mean is not positive.
    """
    means = _subset_means(differences)
    less = 1 + min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))  # 1: no sign changes
    return min(1.0, 2 * float(less) / (len(means) + 1))


def _subset_means(differences: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(differences, dtype=float)
    if len(values) <= 16:
        chosen = (np.arange(1, 1 << len(values))[:, None] >> np.arange(len(values))) & 1
    else:
        chosen = np.random.default_rng(0).integers(0, 2, size=(1 << 16, len(values)))
        chosen = chosen[chosen.any(axis=1)]
    means: NDArray[np.float64] = (chosen @ values) / chosen.sum(axis=1)
    return means


def student(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of two values or more: of so few that `typical_values` has none."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def deviation(values: Sequence[float]) -> tuple[float, float, float]:
    """The standard deviation of two values or more, and its 95 % interval under a normal law (χ²)."""
    from scipy.stats import chi2

    sd, free = float(np.std(values, ddof=1)), len(values) - 1
    low, high = (sd * math.sqrt(free / chi2.ppf(part, free)) for part in (0.975, 0.025))
    return sd, float(low), float(high)


def pairs_needed(sd: float, difference: float) -> int:
    """How many pairs show ``difference`` at 5 % with a power of 80 %, where their differences have this standard
    deviation (normal law)."""
    from scipy.stats import norm

    quantiles = float(norm.ppf(0.975) + norm.ppf(0.8))
    return max(FEWEST, math.ceil((quantiles * sd / difference) ** 2))


@dataclass(frozen=True)
class Dispersion:
    """value: the variance over coordinates of how often each was kept, relative to its mean under the null.

    p: two-sided. low, high: the middle 95 % of the null.
    """

    value: float
    p: float
    low: float
    high: float


def dispersion(kept: ArrayLike, groups: ArrayLike, draws: int = 999) -> Dispersion:
    """Are the same coordinates kept in network after network?

    H0: in each network, every set of as many coordinates of a matrix is equally likely to be the kept one. So the null
    permutes them within each matrix.

    Args:
        kept: ``[networks, coordinates]``. groups: ``[coordinates]``, the matrix of each.
    """
    alive, matrix = np.asarray(kept, dtype=bool), np.asarray(groups)
    random = np.random.default_rng(0)
    inside = [np.flatnonzero(matrix == one) for one in np.unique(matrix)]

    def spread(table: NDArray[np.bool_]) -> float:
        # Within matrices: their keep rates differ.
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
