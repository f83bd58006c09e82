"""The questions of the plan that compare two arms, as one table. Rules: docs/study.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swlottery.config import OPERATIONAL
from swlottery.report.page.arms import SEEDS

Settings = Mapping[str, Any]
Order = Callable[[Settings, Settings], int]
"""Of a first and a second arm: 1 where a question is judged by them, 2 where they are shown too, else 0."""
LOSS, COST, DISTANCE = "loss", "cost", "distance"
FREE = OPERATIONAL.union(SEEDS) | {"device", "threads", "compile", "eval_steps", "from_round_1", "trace", "rounds"}
"""Settings in which the arms of any comparison may differ."""


@dataclass(frozen=True)
class Comparison:
    """One question. keys: the settings in which its arms differ, and in no other. outcome: what is compared.

    of_weights: judged by the networks that have a super weight, where there are enough.
    """

    name: str
    question: str
    keys: str
    outcome: str
    order: Order
    of_weights: bool = False


def _is(key: str, *ways: tuple[Any, Any]) -> Order:
    """By the values of one setting in the first and the second arm; the first way is the one that is judged."""
    places = {way: min(place, 2) for place, way in enumerate(ways, 1)}
    return lambda first, second: places.get((first.get(key), second.get(key)), 0)


def _longer(first: Settings, second: Settings) -> int:
    return int(first["steps"] > second["steps"])


def _growing(first: Settings, second: Settings) -> int:
    return int(bool(first["schedule"]) and not second["schedule"])


def _forced(first: Settings, second: Settings) -> int:
    if (first["force_prune"], second["force_prune"]) == ("sw", "controls"):
        return 1
    return 2 if (second["force_prune"], second["protect"]) == ("none", "none") else 0


XAVIER = _is("init", ("xavier", "gpt2"), ("xavier-zero-gains", "xavier"))
LAYERS = _is("criterion", ("layer-magnitude", "global-magnitude"))
FIRST = "Does it matter whether super weights are pruned first, or as many controls?"
START = "Does one prune of θ_0 leave another loss than one of the trained network?"
COMPARISONS = [
    Comparison("budget", "Do longer rounds change how near a weight is to pruning?", "steps", DISTANCE, _longer, True),
    Comparison("steps", "Does pruning cost another loss after longer rounds?", "steps", COST, _longer),
    Comparison("xavier", "Does Xavier change how near a weight is to pruning?", "init", DISTANCE, XAVIER, True),
    Comparison("pruned_first", FIRST, "protect force_prune", LOSS, _forced, True),
    Comparison("growing", "Does a growing schedule change the loss?", "schedule prune_rate", LOSS, _growing),
    Comparison("layers", "Does layer-wise pruning change the loss?", "criterion", LOSS, LAYERS),
    Comparison(
        "cosine",
        "Do warm-up and cosine change the loss?",
        "lr_schedule warmup",
        LOSS,
        _is("lr_schedule", ("cosine", "constant")),
    ),
    Comparison("at_start", START, "prune_at_start", LOSS, _is("prune_at_start", (True, False))),
]
