"""How many documents does a row need? As few as settle the question that it is asked.

Documents are looked at in growing numbers. An early look settles a question only where its 99.8 % interval does
(Haybittle 1971; Peto et al. 1976). The last look is at all documents, with a 95 % interval. So two early looks add at
most 0.4 % to the 5 % of errors of the last. Only the last look says that a weight does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from swlottery.find.ablation import Evaluator
from swlottery.find.effects import CRITICAL, INERT, Ablation, added, paired, part
from swlottery.models.coordinates import Coordinate


def is_clear(row: Ablation) -> bool:
    """Whether the interval of a weight alone shows an effect, and whether it is a large one.

    None that is inside ±0.01 nat settles anything early: all documents may show that it is small, but above 0.
    """
    return row.low > CRITICAL or 0 < row.low <= row.high < CRITICAL


class Rows:
    """The rows so far, each as of its last look. ``observe`` is told of them by `tell`."""

    def __init__(self, evaluator: Evaluator, seed: int, observe: Callable[[Ablation], None]) -> None:
        self.evaluator, self.seed, self.observe = evaluator, seed, observe
        self.rows: dict[tuple[str, frozenset[Coordinate]], Ablation] = {}
        self.changed: dict[tuple[str, frozenset[Coordinate]], None] = {}

    def of(self, *kinds: str) -> list[Ablation]:
        return [row for row in self.rows.values() if row.kind in kinds]

    def tell(self) -> None:
        """Show the rows that are new, or looked at further, since this was last called."""
        changed, self.changed = self.changed, {}
        for key in changed:
            self.observe(self.rows[key])

    def further(self, kind: str, coordinates: Sequence[Coordinate]) -> Ablation:
        """Look at more documents."""
        key, looks = (kind, frozenset(coordinates)), self.evaluator.looks
        known = self.rows.get(key)
        count = looks[looks.index(len(known.documents)) + 1 if known else 0]
        nll, baseline = self.evaluator.nll(coordinates, documents=count), self.evaluator.baseline
        if count == len(baseline):
            row = paired(kind, coordinates, nll, baseline, self.seed)
        else:
            chosen = self.evaluator.chosen(count)
            row = part(kind, coordinates, nll - baseline[chosen], chosen)
        self.rows[key], self.changed[key] = row, None
        return row

    def seen(self, kind: str, coordinates: Sequence[Coordinate]) -> Ablation:
        """The row; its first look if there was none."""
        return self.rows.get((kind, frozenset(coordinates))) or self.further(kind, coordinates)

    def settled(self, kind: str, coordinates: Sequence[Coordinate], is_settled: Callable[[Ablation], bool]) -> Ablation:
        """The row after as many looks as it takes."""
        row = self.seen(kind, coordinates)
        while row.chosen and (_alike(row) or not is_settled(row)):
            row = self.further(kind, coordinates)
        return row

    def critical(self) -> set[Coordinate]:
        """The weights that are critical alone."""
        found = set()
        for row in sorted(self.of("alone"), key=lambda row: row.low):  # who needs the narrowest controls comes first
            if row.low > CRITICAL and self.above(row, ("control",)):
                found.add(row.coordinates[0])
            else:
                self.settled("alone", row.coordinates, is_clear)
        return found

    def above(self, row: Ablation, kinds: Collection[str]) -> bool:
        """Whether an effect is large, and above those of all rows of ``kinds``."""
        while True:
            rival = max(self.of(*kinds), key=lambda rival: rival.high, default=row)
            if row.low > CRITICAL and (row.low > rival.high or rival is row):
                return True
            unsure = [one for one in (row, rival) if one.chosen and (one is row or row.low > CRITICAL)]
            if row.high < max(CRITICAL, rival.low) or not unsure:
                return False
            for one in unsure:
                self.further(one.kind, one.coordinates)
            row = self.seen(row.kind, row.coordinates)

    def is_idle(self, joint: Sequence[Coordinate], without: Sequence[Coordinate]) -> bool:
        """Whether a member adds nothing to the set ``joint``; see `effects.is_idle`."""
        while True:
            rows = self.seen("joint", joint), self.seen("left in", without)
            effect = added(rows[0], rows[1], self.seed)
            if not effect.chosen or (not _alike(effect) and not effect.low <= INERT <= effect.high):
                return effect.low <= INERT
            fewest = min(len(row.documents) for row in rows)
            for row in rows:
                if len(row.documents) == fewest:
                    self.further(row.kind, row.coordinates)


def _alike(row: Ablation) -> bool:
    """Whether an early look shows no spread: of a mixture's expert its documents may hold no token."""
    return bool(row.chosen) and len(set(row.documents)) == 1
