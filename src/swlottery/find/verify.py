"""Do the candidates matter? Ablations on held-out text, paired with the intact network, against controls.

Every row is the mean over documents of NLL(ablated) − NLL(intact), in nats a token, with a 95 % bootstrap interval over
documents. A weight is

- **critical**: its lower bound is above 0.1 nat and above every control's interval;
- **jointly critical**: member of a set that is, and not idle in it;
- **weak**: its lower bound is above 0;
- **inert**: its interval lies inside ±0.01 nat;
- **undetermined** otherwise, with the length of text that would decide.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swlottery.find.ablation import Evaluator
from swlottery.models.architectures import DownProjection
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    import numpy as np

CRITICAL = 0.1
"""Nats a token: a perplexity ratio of 1.105 at least."""

INERT = 0.01

CONTROLS = 20
RANDOM_SETS = 3
RESAMPLES = 9999


@dataclass(frozen=True)
class Ablation:
    """One row. ``kind``: alone, restored, joint, left in, control, random set, largest others, canceller."""

    kind: str
    coordinates: tuple[Coordinate, ...]
    difference: float
    low: float
    high: float
    documents: tuple[float, ...]

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity with the weights at zero over perplexity without."""
        import math

        return math.exp(min(self.difference, 700.0))


def paired(
    kind: str, coordinates: Sequence[Coordinate], nll: np.ndarray, baseline: np.ndarray, seed: int = 0
) -> Ablation:
    """The mean of paired differences over documents and its bias-corrected bootstrap interval (Efron 1987)."""
    import numpy as np
    from scipy.stats import bootstrap

    differences = nll - baseline
    mean = float(differences.mean())
    low = high = mean
    if float(np.ptp(differences)) > 0:
        for method in ("BCa", "percentile"):  # BCa has no value where all differences but rounding are the same
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                interval = bootstrap(
                    (differences,), np.mean, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(seed)
                ).confidence_interval
            low, high = float(interval.low), float(interval.high)
            if np.isfinite(low) and np.isfinite(high):
                break
    return Ablation(kind, tuple(coordinates), mean, low, high, tuple(float(d) for d in differences))


def controls(
    downs: Sequence[DownProjection], found: Sequence[Coordinate], count: int
) -> list[tuple[Coordinate, Coordinate]]:
    """(found weight, control) pairs: weights of its matrix nearest to it in |w|, none of them found, none twice.

    ``count`` in all, shared evenly among the found weights in their order. Where magnitudes tie, as they do in quantised
    checkpoints, the place in the matrix decides.
    """
    import torch

    taken = set(found)
    pairs = []
    for nth, coordinate in enumerate(found):
        matrix = downs[coordinate.layer].matrix(coordinate.expert).float().abs()
        distance = (matrix - matrix[coordinate.out, coordinate.in_]).abs().flatten()
        wanted = count // len(found) + (nth < count % len(found))
        near = torch.sort(distance, stable=True).indices[: wanted + len(taken)]
        for index in near.tolist():
            if wanted == 0:
                break
            out, in_ = divmod(index, matrix.shape[1])
            control = Coordinate(coordinate.layer, out, in_, coordinate.expert)
            if control not in taken:
                taken.add(control)
                pairs.append((coordinate, control))
                wanted -= 1
    return pairs


def random_set(downs: Sequence[DownProjection], found: Sequence[Coordinate], seed: int) -> list[Coordinate]:
    """As many weights from the same matrices as ``found``, drawn uniformly, none of them found."""
    draw = random.Random(seed)
    drawn: list[Coordinate] = []
    for coordinate in found:
        out, in_ = downs[coordinate.layer].matrix(coordinate.expert).shape
        while True:
            other = Coordinate(coordinate.layer, draw.randrange(out), draw.randrange(in_), coordinate.expert)
            if other not in found and other not in drawn:
                drawn.append(other)
                break
    return drawn


def largest_others(downs: Sequence[DownProjection], found: Sequence[Coordinate]) -> list[Coordinate]:
    """As many weights as ``found``, from the same matrices: the largest in magnitude that are not found."""
    largest: list[Coordinate] = []
    for layer, expert in dict.fromkeys((coordinate.layer, coordinate.expert) for coordinate in found):
        matrix = downs[layer].matrix(expert)
        here = [c for c in found if (c.layer, c.expert) == (layer, expert)]
        order = matrix.float().abs().flatten().topk(min(2 * len(here), matrix.numel())).indices.tolist()
        width = matrix.shape[1]
        places = [Coordinate(layer, index // width, index % width, expert) for index in order]
        largest += [place for place in places if place not in found][: len(here)]
    return largest


def cost(found: Sequence[Coordinate], cancelling: int, count: int) -> int:
    """The largest number of passes over the text that verifying can take, the intact one included.

    The whole set is taken with each member left in once; dropping idle members can then go on for as many rows again.
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
    cancelling: Sequence[Coordinate] = (),
    count: int = CONTROLS,
    kappa: float = 0.0,
    seed: int = 0,
) -> Iterator[Ablation]:
    """Yield the rows of the verification; the weights are intact at every yield.

    Order: each weight alone; each again with its spike restored, where losing it costs anything; the set jointly, with
    each member left in, and the set that is left when idle members are dropped; controls; random sets of the same size;
    the largest other weights; the cancellers' largest weights.
    """
    downs = evaluator.roles.downs

    def row(kind: str, coordinates: Sequence[Coordinate], restored: tuple[Coordinate, float] | None = None) -> Ablation:
        return paired(kind, coordinates, evaluator.nll(coordinates, restored), evaluator.baseline, seed)

    alone = {}
    for coordinate in found:
        alone[coordinate] = row("alone", [coordinate])
        yield alone[coordinate]
    for coordinate in found:
        if alone[coordinate].low > 0:
            yield row("restored", [coordinate], (coordinate, kappa))
    if len(found) > 1:
        yield from _together(row, found, seed)
    for _, control in controls(downs, found, count) if found else []:
        yield row("control", [control])
    if len(found) > 1:
        for nth in range(RANDOM_SETS):
            yield row("random set", random_set(downs, found, seed + nth))
        yield row("largest others", largest_others(downs, found))
    for coordinate in cancelling:
        yield row("canceller", [coordinate])


def _together(row: _Row, found: Sequence[Coordinate], seed: int) -> Iterator[Ablation]:
    """Sets at zero: the weights that share a spike; all of them; and all of them without those that are idle.

    A set is taken again with each member left in. Idle members are dropped until none is left, at most as many rows
    again as there are weights.
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
        whole = row("joint", members)
        if len(members) == len(found) or members not in shared:
            yield whole
        without = {member: row("left in", [c for c in members if c != member]) for member in members}
        yield from without.values()
        idle = [member for member in members if is_idle(whole, without[member], seed)]
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


_Row = Callable[[str, Sequence[Coordinate]], Ablation]


@dataclass(frozen=True)
class Verdict:
    """The verdict on one weight; ``tokens``: the length of text that would decide, where it is undetermined."""

    word: str
    tokens: int | None = None


def verdicts(found: Sequence[Coordinate], rows: Sequence[Ablation], window: int, seed: int = 0) -> list[Verdict]:
    """One verdict a weight, from the rows of ``verify``. window: the tokens of a document."""
    ordinary = max((row.high for row in rows if row.kind == "control"), default=0.0)
    sets = critical_sets(rows, seed)
    members = {coordinate for joint in sets for coordinate in joint.coordinates}
    result = []
    for coordinate in found:
        row = next(row for row in rows if row.kind == "alone" and row.coordinates == (coordinate,))
        if row.low > CRITICAL and row.low > ordinary:
            result.append(Verdict("critical"))
        elif coordinate in members:
            result.append(Verdict("jointly critical"))
        elif row.low > 0:
            result.append(Verdict("weak"))
        elif row.low > -INERT and row.high < INERT:
            result.append(Verdict("inert"))
        elif row.difference <= -INERT:  # losing it helps, if anything: no length of text makes it weak or inert
            result.append(Verdict("undetermined"))
        else:
            # The interval narrows with the root of the number of documents: how many bring it off 0, or inside ±0.01?
            half = (row.high - row.low) / 2
            aim = max(row.difference, INERT - abs(row.difference), 1e-4)
            documents = len(row.documents) * max((half / aim) ** 2, 1.0)
            result.append(Verdict("undetermined", int(documents * window) + 1))
    return result


def critical_sets(rows: Sequence[Ablation], seed: int = 0) -> list[Ablation]:
    """The joint ablations that are critical as sets and have no idle member."""
    ordinary = max((row.high for row in rows if row.kind in ("control", "random set", "largest others")), default=0.0)
    smaller = {frozenset(row.coordinates): row for row in rows if row.kind in ("left in", "alone", "joint")}
    found = []
    for joint in (row for row in rows if row.kind == "joint"):
        parts = [frozenset(joint.coordinates) - {member} for member in joint.coordinates]
        idle = any(part in smaller and is_idle(joint, smaller[part], seed) for part in parts)
        if joint.low > CRITICAL and joint.low > ordinary and not idle:
            found.append(joint)
    return found
