"""The effect of an ablation: paired differences over documents, and their interval."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    import numpy as np

CRITICAL = 0.1
"""An effect of so many nats a token, a perplexity ratio of 1.105, is large."""

INERT = 0.01
"""A smaller effect, in nats a token, is none."""

EARLY = 0.998
"""The level of the intervals of early looks."""

RESAMPLES = 9999


@dataclass(frozen=True)
class Ablation:
    """One row: the effect of multiplying ``coordinates`` by ``factor``, and its interval over documents.

    kind: intact, alone, restored, joint, left in, control, random set, largest others, canceller; dose, a weight that
        is made smaller; row, all weights of its output channel (``coordinates`` is the one that names it).
    documents: the difference of each document that was looked at. chosen: which of the text's documents those are, in
        the text's order; empty where all were looked at. level: of the interval.
    """

    kind: str
    coordinates: tuple[Coordinate, ...]
    difference: float
    low: float
    high: float
    documents: tuple[float, ...]
    factor: float = 0.0
    level: float = 0.95
    chosen: tuple[int, ...] = ()

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity with the change over perplexity without."""
        return math.exp(min(self.difference, 700.0))


def paired(
    kind: str, coordinates: Sequence[Coordinate], nll: np.ndarray, baseline: np.ndarray, seed: int = 0
) -> Ablation:
    """The mean of paired differences over documents and its bias-corrected bootstrap interval (Efron 1987)."""
    import numpy as np
    from scipy.stats import bootstrap

    differences = nll - baseline
    mean = low = high = float(differences.mean())
    methods = ("BCa", "percentile") if float(np.ptp(differences)) > 0 else ()
    for method in methods:  # BCa has no value where all differences are the same but for rounding
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator = np.random.default_rng(seed)
            result = bootstrap((differences,), np.mean, n_resamples=RESAMPLES, method=method, rng=generator)
        low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
        if math.isfinite(low) and math.isfinite(high):
            break
    return Ablation(kind, tuple(coordinates), mean, low, high, tuple(differences.tolist()))


def part(
    kind: str,
    coordinates: Sequence[Coordinate],
    differences: np.ndarray,
    chosen: Iterable[int],
    level: float = EARLY,
    factor: float = 0.0,
) -> Ablation:
    """The mean difference over a part of the documents, and its t interval: the bootstrap of so few is too narrow."""
    import numpy as np
    from scipy.stats import t

    mean, count = float(differences.mean()), len(differences)
    half = float(t.ppf((1 + level) / 2, count - 1) * np.std(differences, ddof=1)) / math.sqrt(count)
    places = tuple(int(document) for document in chosen)
    values = tuple(differences.tolist())
    return Ablation(kind, tuple(coordinates), mean, mean - half, mean + half, values, factor, level, places)


def added(joint: Ablation, without: Ablation, seed: int = 0) -> Ablation:
    """What a member adds to a set, on the documents that were looked at both with and ``without`` it in the set."""
    import numpy as np

    one, other = (
        dict(zip(row.chosen or range(len(row.documents)), row.documents, strict=True)) for row in (joint, without)
    )
    common = sorted(one.keys() & other.keys())
    here, there = (np.array([documents[place] for place in common]) for documents in (one, other))
    return part("", (), here - there, common) if joint.chosen or without.chosen else paired("", (), here, there, seed)


def is_idle(joint: Ablation, without: Ablation, seed: int = 0) -> bool:
    """Whether a member adds nothing to a set: the loss is not shown to be over 0.01 nat higher with it in the set."""
    return added(joint, without, seed).low <= INERT
