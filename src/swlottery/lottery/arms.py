"""The arms of a run that concern single weights: ``--protect`` and ``--force-prune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.lottery import matching
from swlottery.lottery.entries import Place
from swlottery.models.coordinates import Coordinate

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Arms:
    """protected: never pruned; as many others go instead. forced: go with the next prune, and count there."""

    protected: Sequence[Coordinate] = ()
    forced: Sequence[Coordinate] = ()

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Arms:
        """From JSON."""
        return cls(*([Coordinate(*c) for c in content[name]] for name in ("protected", "forced")))


def choose(settings: TrainSettings, subjects: Sequence[Coordinate], weights: Mapping[Place, Tensor]) -> Arms:
    """The arms of a run whose super weights are ``subjects``. weights: the down-projections now, ``[out, in]``."""
    subjects = list(dict.fromkeys(subjects))
    protected = subjects if settings.protect == "sw" else []
    if settings.force_prune == "none" or not subjects:
        return Arms(protected)
    return Arms(protected, subjects if settings.force_prune == "sw" else _instead(subjects, weights))


def _instead(subjects: Sequence[Coordinate], weights: Mapping[Place, Tensor]) -> list[Coordinate]:
    """For each weight the ordinary one of its matrix that is nearest in rank of magnitude."""
    sizes = {place: matrix.abs() for place, matrix in weights.items()}
    taken, found = set(subjects), list[Coordinate]()
    for c in subjects:
        nearest = matching.choose(c, "control_rank", sizes, sizes, {}, taken).coordinates[0]
        taken.add(nearest)
        found.append(nearest)
    return found
