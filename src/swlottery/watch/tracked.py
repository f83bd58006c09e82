"""Which weights a run tracks, where they come from, and whether they mean something in its network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings
from swlottery.find import record as records
from swlottery.lottery.matching import Controls
from swlottery.lottery.start import Network
from swlottery.models.coordinates import Coordinate, check_place


@dataclass(frozen=True)
class Tracked:
    """One weight that is tracked by its coordinate. kind: super_weight, leader, foreign, or a kind of control; then
    ``of`` says whose."""

    kind: str
    coordinate: Coordinate
    of: Coordinate | None = None

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Tracked:
        """From JSON."""
        return cls(content["kind"], Coordinate(*content["coordinate"]))


def beforehand(network: Network, settings: TrainSettings, round_1: str | None = None) -> list[Tracked]:
    """The weights that are tracked from step 0: those of a record, and those of ``--follow``.

    A record without super weights gives its leader. Coordinates of another network are labelled foreign.

    Args:
        round_1: the hash of the trained network that the run branches from; a record of that one is no foreign one.

    Raises:
        BadInput: a record of another network without ``--allow-foreign``; a coordinate that the model does not have.
    """
    found = []
    if settings.super_weights not in ("discover", "none"):
        record = records.load(Path(settings.super_weights))
        kind = "super_weight" if record["super_weights"] else "leader"
        if record["weights_sha256"] not in (network.lineage, round_1):
            if not settings.allow_foreign:
                records.check_lineage(record, network.lineage, network.name)
            kind = "foreign"
        for weight in record["super_weights"] or [record["leader"]]:
            found.append(Tracked(kind, Coordinate.of(weight)))
    found += [Tracked("foreign", Coordinate(*one)) for one in settings.coordinates()]
    for one in found:
        check_place(network.roles.downs, one.coordinate, network.name)
    return list(dict.fromkeys(found))


def subjects(tracked: Sequence[Tracked], settings: TrainSettings) -> list[Coordinate]:
    """Of the weights that are tracked beforehand those that ``--protect`` and ``--force-prune`` are about: those of a
    record, also of another network; not those that only ``--follow`` names."""
    only_tracked = {Coordinate(*one) for one in settings.coordinates()}
    return [one.coordinate for one in tracked if one.kind != "foreign" or one.coordinate not in only_tracked]


def as_tracked(chosen: Iterable[Controls]) -> list[Tracked]:
    """The weights that a choice of controls adds."""
    return [Tracked(one.kind, coordinate, one.of) for one in chosen for coordinate in one.coordinates]
