"""Do the candidates matter? Ablations on held-out text, paired with the intact network, against controls.

Every row is an effect: the mean over documents of NLL(ablated) − NLL(intact), in nats a token, with a 95 % bootstrap
interval over documents.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.find.ablation import Evaluator
from swlottery.find.controls import controls, largest_others, random_set
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    import numpy as np

CRITICAL = 0.1
"""An effect of so many nats a token, a perplexity ratio of 1.105, is large."""

INERT = 0.01
"""A smaller effect, in nats a token, is none."""

RANDOM_SETS = 3
RESAMPLES = 9999

Measure = Callable[[str, Sequence[Coordinate]], "Ablation"]
"""From a kind and the coordinates to set to zero to the row."""


@dataclass(frozen=True)
class Ablation:
    """One row: the effect of multiplying ``coordinates`` by ``factor``, and its interval over documents.

    kind: intact, alone, restored, joint, left in, control, random set, largest others, canceller; dose, a weight that
        is only made smaller; row, all weights of its output channel (``coordinates`` is the one that names it).
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


def cost(found: Sequence[Coordinate], cancelling: int, count: int) -> int:
    """The largest number of passes over the text that verifying can take, the intact one included.

    The set of all weights is taken with each member left in; dropping idle members can go on for as many rows again.
    """
    if not found:
        return 1 + cancelling
    together = 2 * len(found) + 2 + len(shared_spikes(found)) + RANDOM_SETS + 1 if len(found) > 1 else 0
    return 1 + 2 * len(found) + count + together + cancelling


def shared_spikes(found: Sequence[Coordinate]) -> list[list[Coordinate]]:
    """The found weights that feed the same output channel of the same layer, where there are several."""
    by_channel: dict[tuple[int, int], list[Coordinate]] = {}
    for coordinate in found:
        by_channel.setdefault((coordinate.layer, coordinate.out), []).append(coordinate)
    return [members for members in by_channel.values() if len(members) > 1]


def verify(
    evaluator: Evaluator,
    found: Sequence[Coordinate],
    cancelling: Sequence[Coordinate],
    count: int,
    kappa: float,
    seed: int,
    never: Collection[Coordinate] = (),
) -> Iterator[Ablation]:
    """Yield the rows of the verification; the weights are intact at every yield.

    Args:
        found: the candidates. cancelling: the largest weights of the cancellers that are verified.
        count: how many controls in all. kappa: the bar of a spike, for the rows with the spike restored.
        never: what no ``found`` weight is compared with.

    Order: each weight alone; each again with its spike restored, where losing it costs anything; the set jointly, with
    each member left in, and the set that is left when idle members are dropped; controls; random sets of the same size;
    the largest other weights; the cancellers' largest weights.
    """
    downs = evaluator.roles.downs

    def row(kind: str, coordinates: Sequence[Coordinate], restored: tuple[Coordinate, float] | None = None) -> Ablation:
        return paired(kind, coordinates, evaluator.nll(coordinates, restored), evaluator.baseline, seed)

    costly = []
    for coordinate in found:
        alone = row("alone", [coordinate])
        costly += [coordinate] if alone.low > 0 else []
        yield alone
    for coordinate in costly:
        yield row("restored", [coordinate], (coordinate, kappa))
    if len(found) > 1:
        yield from _together(row, found, seed)
    for control in controls(downs, found, count, never) if found else []:
        yield row("control", [control])
    if len(found) > 1:
        for nth in range(RANDOM_SETS):
            yield row("random set", random_set(downs, found, seed + nth, never))
        yield row("largest others", largest_others(downs, found, never))
    for coordinate in cancelling:
        yield row("canceller", [coordinate])


def _together(row: Measure, found: Sequence[Coordinate], seed: int) -> Iterator[Ablation]:
    """Sets at zero: the weights that share a spike, all weights, and all weights without the idle ones.

    Each set is taken again with each member left in, which shows who is idle. Idle members are dropped until there is
    none. This goes on for at most as many rows again as there are weights.
    """
    shared = shared_spikes(found)
    for members in shared:
        if len(members) < len(found):
            yield row("joint", members)
    members = list(found)
    allowed = 2 * len(found) + 2
    while len(members) > 1:
        allowed -= 1 + len(members)
        if allowed < 0:
            return
        joint = row("joint", members)
        if len(members) == len(found) or members not in shared:
            yield joint
        without = {member: row("left in", [c for c in members if c != member]) for member in members}
        yield from without.values()
        idle = [member for member in members if is_idle(joint, without[member], seed)]
        if not idle:
            return
        if len(members) - len(idle) < 2:  # each may be idle only because the others are at zero: drop one
            idle = [max(idle, key=lambda member: without[member].difference)]
        members = [member for member in members if member not in idle]


def is_idle(joint: Ablation, without: Ablation, seed: int = 0) -> bool:
    """Whether a member adds nothing to a set: the loss is not shown to be over 0.01 nat higher with it in the set."""
    import numpy as np

    added = paired("", (), np.array(joint.documents), np.array(without.documents), seed)
    return added.low <= INERT
