"""Do the candidates matter? Ablations on held-out text, paired with the intact network, against controls.

Each row is looked at on as few documents as settle its question (looks.py). One that can no longer change a verdict is
not run. Rows that describe come after the verdicts, on few documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from swlottery.find.ablation import Evaluator
from swlottery.find.controls import controls, largest_others, random_set
from swlottery.find.effects import CRITICAL, EARLY, Ablation, part
from swlottery.find.looks import Rows, is_clear
from swlottery.models.coordinates import Coordinate, same_channel

COMPARED = ("control", "random set", "largest others")
"""The kinds of ablation that a candidate or a set of them is compared with."""

RANDOM_SETS = 3

DOSES = (0.75, 0.5, 0.25, 0.0)
"""What a weight is multiplied by, to see how its effect grows. At 0 it is the row of the weight alone, on the documents
of the others; nothing runs for that."""


def sets(found: Sequence[Coordinate]) -> list[list[Coordinate]]:
    """What is taken together: the weights that share a spike (the same output channel of a layer), and all weights."""
    by_channel: dict[tuple[int, int], list[Coordinate]] = {}
    for coordinate in found:
        by_channel.setdefault((coordinate.layer, coordinate.out), []).append(coordinate)
    shared = [members for members in by_channel.values() if 1 < len(members) < len(found)]
    return [*shared, list(found)] if len(found) > 1 else []


def cost(
    evaluator: Evaluator, found: Sequence[Coordinate], cancelling: Sequence[Coordinate], count: int
) -> tuple[float, float]:
    """The most that the rows of `verify` and of `describe` can take, in passes of the whole network over all documents.

    A set of n weights is taken with each member left in. Dropping idle members can go on for as many rows again.
    """
    alone = sum(evaluator.share([coordinate]) for coordinate in found)
    together = [(len(members), evaluator.share(members)) for members in sets(found)]
    verdicts = alone + math.ceil(count / max(len(found), 1)) * alone
    verdicts += sum((1 if size == 2 else 2 * size + 3) * share for size, share in together)
    verdicts += (RANDOM_SETS + 1) * evaluator.share(found) if together else 0
    described = (1 + len(DOSES)) * alone + sum(share for _, share in together)
    described += sum(evaluator.share([coordinate]) for coordinate in cancelling)
    return verdicts, described * evaluator.looks[0] / evaluator.looks[-1]


def verify(
    evaluator: Evaluator,
    found: Sequence[Coordinate],
    count: int,
    seed: int = 0,
    never: Collection[Coordinate] = (),
    observe: Callable[[Ablation], None] = lambda row: None,
) -> list[Ablation]:
    """The rows that the verdicts need.

    Args:
        found: the candidates. count: how many controls in all. never: what no ``found`` weight is compared with.
        observe: called with each row, and again when more documents were looked at for it; the weights are intact then.

    Order: each weight alone; controls, if one may be critical; the sets with a weight that is not critical yet, with
    each member left in; random sets and the largest other weights, if a set may be critical.
    """
    rows, downs = Rows(evaluator, seed, observe), evaluator.roles.downs

    def compare_alone() -> None:
        for control in [] if rows.of("control") else controls(downs, found, count, never):
            rows.seen("control", [control])
            rows.tell()

    def compare_sets() -> None:
        for nth in range(0 if rows.of("random set") else RANDOM_SETS):
            rows.seen("random set", random_set(downs, found, seed + nth, never))
            rows.tell()
        if not rows.of("largest others"):
            rows.seen("largest others", largest_others(downs, found, never))
            rows.tell()

    for coordinate in found:
        rows.settled("alone", [coordinate], is_clear)
        rows.tell()
    if any(row.low > CRITICAL for row in rows.of("alone")):
        compare_alone()
    left = set(found) - rows.critical()
    for together in sets(found):
        if not (members := _needed(rows, together, left)):
            continue
        compare_alone()
        compare_sets()
        if rows.above(rows.seen("joint", members), COMPARED):
            left -= set(members)
    rows.critical()  # the controls may have been looked at further since
    rows.tell()
    return [*rows.rows.values()]


def describe(
    evaluator: Evaluator,
    found: Sequence[Coordinate],
    rows: Sequence[Ablation],
    cancelling: Sequence[Coordinate],
    kappa: float,
    observe: Callable[[Ablation], None] = lambda row: None,
) -> list[Ablation]:
    """Rows that show what the weights do, and change no verdict. They are at the documents of the first look.

    Args:
        rows: of `verify`. cancelling: the largest weights of the cancellers. kappa: the bar of a spike.
        observe: called with each row; the weights are intact then.

    Order: each weight with its spike put back, where losing it costs anything; at each dose; its output channel; the
    sets whose effect is not known yet; the cancellers' largest weights.
    """
    count, made = evaluator.looks[0], list[Ablation]()
    chosen = evaluator.chosen(count)

    def add(
        kind: str,
        coordinates: Sequence[Coordinate],
        changed: Sequence[Coordinate] = (),
        factor: float = 0.0,
        restored: tuple[Coordinate, float] | None = None,
        level: float = 0.95,
    ) -> None:
        nll = evaluator.nll(changed or coordinates, restored, factor, count)
        made.append(part(kind, coordinates, nll - evaluator.baseline[chosen], chosen, level, factor))
        observe(made[-1])

    for coordinate in [row.coordinates[0] for row in rows if row.kind == "alone" and row.low > 0]:
        add("restored", [coordinate], restored=(coordinate, kappa))
    for coordinate in found:
        for factor in DOSES:
            add("dose", [coordinate], factor=factor)
    for coordinate in found:
        add("row", [coordinate], same_channel(evaluator.roles.downs, coordinate))
    known = {frozenset(row.coordinates) for row in rows if row.kind == "joint"}
    for members in sets(found):
        if frozenset(members) not in known:
            add("joint", members, level=EARLY)  # it may be called critical
    for coordinate in cancelling:
        add("canceller", [coordinate])
    return made


def _needed(rows: Rows, together: Sequence[Coordinate], left: Collection[Coordinate]) -> list[Coordinate]:
    """The members of a set that are needed in it, where its effect is large and one of ``left`` is among them; or none.

    Each member is left in, which shows who is idle. Idle members are dropped until there is none. This goes on for at
    most as many rows again as there are weights.
    """
    members, allowed = list(together), 2 * len(together) + 2
    while len(members) > 1 and not set(members).isdisjoint(left):
        allowed -= 1 + len(members)
        joint = rows.settled("joint", members, lambda row: row.low > CRITICAL or row.high < CRITICAL)
        rows.tell()
        if (allowed < 0 and len(members) > 2) or joint.low <= CRITICAL:  # the rows of a pair's members are there
            return []
        idle, without = [], {member: [c for c in members if c != member] for member in members}
        for member in members:
            idle += [member] if rows.is_idle(members, without[member]) else []
            rows.tell()
        if not idle:
            return members
        if len(members) - len(idle) < 2:  # each may be idle only because the others are at zero: drop one
            idle = [max(idle, key=lambda member: rows.seen("left in", without[member]).difference)]
        members = [member for member in members if member not in idle]
    return []
