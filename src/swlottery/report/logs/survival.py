"""Which of the followed weights and of their controls remain: the tables of the log that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swlottery.report.words import CONTROLS, NOTHING, Key, key, named, share, table

Event = Mapping[str, Any]


class Survival:
    """What the events ``followed``, ``box`` and ``prune`` tell, as tables. Nothing is printed."""

    def __init__(self) -> None:
        self.sizes: dict[Key, int] = {}
        self.tensors: dict[Key, str] = {}
        self.pruned_in: dict[Key, int] = {}
        self.alive: dict[int, str] = {}
        """Number of a prune → how many of the followed weights it left, of how many."""

    def follow(self, event: Event) -> list[str]:
        """The weights that are followed from here on, and how closely their controls come to them."""
        kinds = [kind for kind in CONTROLS if any(row["kind"] == kind for row in event["controls"])]
        controls = {
            (tuple(row["of"][:3]), row["kind"]): f"{row['count']}" + (f" × {row['gap']:.3g}" if row["gap"] else "")
            for row in event["controls"]
        }
        rows = []
        for weight in event["weights"]:
            at = key(weight)
            self.sizes[at] = weight["matrix_size"]
            rank = f"{weight['rank']:,} of {weight['matrix_size']:,}"
            own = [controls.get((at[:3], kind), NOTHING) for kind in kinds]
            rows.append([named(weight), f"{weight['value']:.4g}", rank, *own])
        heads = ["followed", "value", "rank of |w| in its matrix", *(CONTROLS[kind][0] for kind in kinds)]
        legend = ", ".join("{}: {}".format(*CONTROLS[kind]) for kind in kinds)
        return [
            *table(heads, rows),
            f"  controls ({legend}):",
            "  their number × |w| over the largest of them (above 1: none is as large); all are chosen among what prune 1 keeps",
        ]

    def locate(self, event: Event) -> None:
        """Learn from a ``box`` event which tensor its weights lie in."""
        self.tensors |= {key(weight): event["path"] for weight in event["weights"]}

    def prune(self, event: Event) -> list[str]:
        """How the followed weights and their controls came through one prune."""
        controls = event["controls"] if event["round"] > 1 else []  # they were chosen among what prune 1 kept
        kinds = [kind for kind in CONTROLS if any(row["kind"] == kind for row in controls)]
        tallies = {(tuple(row["of"][:3]), row["kind"]): f"{row['kept']}/{row['before']}" for row in controls}
        rows = []
        for weight in event["weights"]:
            at, over = key(weight), weight["over_threshold"]
            stood, stands = weight["alive_before"], weight["alive"]
            if stood and not stands:
                self.pruned_in[at] = event["round"]
            matrix = event["matrices"].get(self.tensors.get(at))
            rows.append(
                [
                    named(weight),
                    f"{weight['value']:.4g}" if stood else NOTHING,
                    f"{over:.3f}" if stood and over is not None else NOTHING,
                    ("kept" if stands else "PRUNED") if stood else f"gone at {self.pruned_in.get(at, 0)}",
                    share(matrix["kept"], matrix["before"]) if matrix else NOTHING,
                    share(matrix["kept"], self.sizes.get(at, 0)) if matrix else NOTHING,
                    *(tallies.get((at[:3], kind), NOTHING) for kind in kinds),
                ]
            )
        if rows:
            self.alive[event["round"]] = f"{sum(weight['alive'] for weight in event['weights'])}/{len(rows)}"
        heads = ["followed", "value", "|w|/thr.", "verdict", "its matrix", "in all"]
        return table([*heads, *(CONTROLS[kind][0] for kind in kinds)], rows)
