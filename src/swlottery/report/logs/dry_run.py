"""What ``swlottery sweep --dry-run`` says that a study will take, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swlottery.report import words
from swlottery.study import needs
from swlottery.study.grid import Point
from swlottery.study.needs import Needs

HEADS = ["arm", "branches from", "points", "trainings", "steps", "tokens", "GPU hours", "disk", "and running"]


def lines(points: Sequence[Point], given: float, folder: Path) -> list[str]:
    """A row an arm, their sum, and what it rests on. given: tokens a second, 0: those of the runs in ``folder``."""
    paces = {} if given else needs.measured(folder)
    arms: dict[str, list[Point]] = {}
    for point in points:
        arms.setdefault(point.arm or "all", []).append(point)
    arm_of = {point.label: point.arm for point in points}
    rows = []
    for arm, own in arms.items():
        parent = own[0].parent
        rows.append(_row(arm, arm_of[parent] if parent else "", own, needs.of_points(own, paces, given)))
    whole = needs.of_points(points, paces, given)
    known = (
        [f"{given:,.0f} (--tokens-per-second)"]
        if given
        else [f"{pace:,.0f} ({model}: the median of {how})" for (model, _), (pace, how) in paces.items()]
    )
    rate = ", ".join(known) or "not known: give --tokens-per-second, or let a run of the study come to an evaluation"
    return [
        "",
        *words.table(HEADS, [*rows, _row("in all", "", points, whole)], left=2),
        f"tokens a second of one GPU, or of one process without any: {rate}",
        "GPU hours: of the training steps alone. disk: what the runs leave; and running: what each takes beside it for",
        f"its checkpoints. The tokens of the text come on top, once. {words.NOTHING}: not known without the network",
        "",
    ]


def _row(name: str, parent: str, points: Sequence[Point], of: Needs) -> list[str]:
    hours = None if of.seconds is None else of.seconds / 3600
    sizes = [words.NOTHING if size is None else f"{size / 1e9:,.2f} GB" for size in (of.disk, of.working)]
    counts = [f"{number:,}" for number in (len(points), of.trainings, of.steps)]
    return [
        name,
        parent,
        *counts,
        words.tokens(of.tokens),
        words.number(hours, 1 if hours is None or hours >= 1 else 3),
        *sizes,
    ]
