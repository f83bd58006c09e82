"""How often the host waits for the device: as seldom for many followed weights as for few."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fake_gpu import Waits
from lottery.runs import built
from swlottery.lottery import masks as masking
from swlottery.lottery.prune import Pruner
from swlottery.lottery.training import Training
from swlottery.models.coordinates import Coordinate
from swlottery.watch import events, recorder, rows
from swlottery.watch.tracked import Tracked

PARTS: list[tuple[Any, str]] = [
    (Training, "step"),
    (Pruner, "prune"),
    (Pruner, "thresholds"),
    (rows, "rows"),
    (events, "prune"),
    (recorder, "survivors"),
    (masking, "violations"),
]


@pytest.fixture
def most(tiny_gpt2, text, tmp_path, gpu, monkeypatch):
    """Of a run of two rounds that follows so many weights from its start: the most waits in one call of each part."""

    def go(number: int, **changes: Any) -> tuple[Counter, Waits]:
        found: Counter = Counter()
        places = Waits()
        with monkeypatch.context() as patch:
            for owner, name in PARTS:
                title = f"{owner.__name__.rpartition('.')[2]}.{name}"
                patch.setattr(owner, name, counted(getattr(owner, name), title, found, places))
            known = [Tracked("foreign", Coordinate(nth % 2, nth // 2, nth)) for nth in range(number)]
            built(tiny_gpt2, text, tmp_path / str(number), known, steps=3, eval_steps=2, **changes).run()
        return found, places

    def counted(real: Any, name: str, found: Counter, places: Waits) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with gpu.inside() as inside:
                result = real(*args, **kwargs)
            found[name] = max(found[name], inside.count())
            places.places += inside.places
            return result

        return call

    return go


def test_waits_do_not_grow_with_what_is_followed(most):
    """Two weights with 152 controls, and 8 with 608, in the same two matrices; six tensors are in scope."""
    (few, places), (many, _) = most(2), most(8)
    assert few == many, str(places)
    assert few["rows.rows"] <= 2 + 5, "one a matrix; the places, and all that remain"
    assert few["events.prune"] + 2 * few["recorder.survivors"] <= 12
    assert few["Pruner.thresholds"] == few["masks.violations"] == 1
    assert few["Pruner.prune"] <= 3 * 6 + 17


def test_a_step_waits_for_two_numbers(most):
    """Its loss and its norm."""
    found, places = most(0)
    assert found["Training.step"] <= 2, str(places)
