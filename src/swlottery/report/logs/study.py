"""The state of a study's points as text: for ``swlottery status`` and ``swlottery sweep``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from swlottery.report import words
from swlottery.report.logs import status
from swlottery.study.states import PointState


def table(states: Sequence[PointState]) -> list[str]:
    """The lines of a table, a row a point; below it why points are not done, and how many have which state."""
    cells = []
    for one in states:
        row = dict.fromkeys(status.NUMBERS) | dict(one.status)
        step = status.of_total(row["step"], row["steps"])
        loss = words.number(row["val_loss"])
        cells.append([one.label, one.state, status.round_of(row), step, loss, one.task or words.NOTHING])
    lines = words.table(["point", "state", "round", "step", "val", "task"], cells, left=2, width=10_000)
    reasons = [f"{one.label}: {one.reason}" for one in states if one.reason]
    return [*lines, *(["", *reasons] if reasons else []), "", counts(states)]


def counts(states: Sequence[PointState]) -> str:
    """How many points have which state: ``3 points: 2 done, 1 failed``."""
    by_state = Counter(one.state for one in states)
    return f"{words.count(len(states), 'point')}: " + ", ".join(f"{n} {state}" for state, n in by_state.items())
