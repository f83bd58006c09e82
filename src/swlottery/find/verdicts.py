"""The verdict on each candidate, from the effects of the ablations.

A weight is

- **critical**: its lower bound is above 0.1 nat and above every control's interval;
- **jointly critical**: member of a set that is, and not idle in it;
- **weak**: its lower bound is above 0;
- **inert**: its interval lies inside ±0.01 nat;
- **undetermined** otherwise, with the length of text that would decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swlottery.find.effects import CRITICAL, INERT, Ablation, is_idle
from swlottery.find.verify import COMPARED
from swlottery.models.coordinates import Coordinate


@dataclass(frozen=True)
class Verdict:
    """The verdict on one weight; ``tokens``: the length of text that would decide, where it is undetermined."""

    word: str
    tokens: int | None = None


def verdicts(rows: Sequence[Ablation], window: int, seed: int = 0) -> dict[Coordinate, Verdict]:
    """The verdict on each weight with a row alone, from the rows of `verify`. window: the tokens of a document."""
    largest_control = max((row.high for row in rows if row.kind == "control"), default=0.0)
    members = {coordinate for joint in critical_sets(rows, seed) for coordinate in joint.coordinates}
    alone = {row.coordinates[0]: row for row in rows if row.kind == "alone"}
    return {one: _verdict(row, largest_control, one in members, window) for one, row in alone.items()}


def _verdict(row: Ablation, largest_control: float, in_critical_set: bool, window: int) -> Verdict:
    if row.low > CRITICAL and row.low > largest_control:
        return Verdict("critical")
    if in_critical_set:
        return Verdict("jointly critical")
    if row.low > 0:
        return Verdict("weak")
    if row.low > -INERT and row.high < INERT:
        return Verdict("inert")
    if row.difference <= -INERT:  # losing it helps, if anything: no length of text makes it weak or inert
        return Verdict("undetermined")
    # The interval narrows with the root of the number of documents: how many bring it off 0, or inside ±0.01?
    half = (row.high - row.low) / 2
    aim = max(row.difference, INERT - abs(row.difference), 1e-4)
    documents = len(row.documents) * max((half / aim) ** 2, 1.0)
    return Verdict("undetermined", int(documents * window) + 1)


def critical_sets(rows: Sequence[Ablation], seed: int = 0) -> list[Ablation]:
    """The joint ablations that are critical as sets, and whose members were all shown not to be idle."""
    compared = [row.high for row in rows if row.kind in COMPARED]
    bar = max(CRITICAL, *compared, 0.0)
    parts = [row for row in rows if row.kind in ("left in", "alone", "joint")]
    known = {frozenset(row.coordinates): row for row in sorted(parts, key=lambda row: len(row.documents))}

    def needed(joint: Ablation, member: Coordinate) -> bool:
        without = known.get(frozenset(joint.coordinates) - {member})
        return without is not None and not is_idle(joint, without, seed)

    joints = [row for row in rows if row.kind == "joint" and row.low > bar]
    return [joint for joint in joints if all(needed(joint, member) for member in joint.coordinates)]
