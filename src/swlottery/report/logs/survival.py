"""Which of the tracked weights and of their controls remain: the tables of the log that say so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swlottery.report.words import CONTROLS, NOTHING, Key, key, named, share, table

Event = Mapping[str, Any]


class Survival:
    """What the events ``followed``, ``box`` and ``prune`` say, as tables. Nothing is printed."""

    def __init__(self) -> None:
        self.sizes: dict[Key, int] = {}
        self.tensors: dict[Key, str] = {}
        self.pruned_in: dict[Key, int] = {}
        self.alive: dict[int, str] = {}
        """Number of a prune → how many of the tracked weights it left, of how many."""

    def follow(self, event: Event) -> list[str]:
        """The weights that are tracked from here on, and how closely their controls match them in size."""
        kinds, controls = _by_kind(
            event["controls"], lambda row: f"{row['count']}" + (f" × {row['gap']:.3g}" if row["gap"] else "")
        )
        rows = []
        for weight in event["weights"]:
            at = key(weight)
            self.sizes[at] = weight["matrix_size"]
            rank = f"{weight['rank']:,} of {weight['matrix_size']:,}"
            own = [controls.get((at[:3], kind), NOTHING) for kind in kinds]
            rows.append([named(weight), f"{weight['value']:.4g}", rank, *own])
        heads = ["tracked", "value", "rank of |w| in its matrix", *(CONTROLS[kind][0] for kind in kinds)]
        legend = ", ".join("{}: {}".format(*CONTROLS[kind]) for kind in kinds)
        return [
            *table(heads, rows),
            f"  controls ({legend}):",
            "  their number × |w| over that of the largest (above 1: none is as large); all among what prune 1 keeps",
        ]

    def locate(self, event: Event) -> None:
        """Learn from a ``box`` event which tensor its weights are in."""
        self.tensors |= {key(weight): event["path"] for weight in event["weights"]}

    def prune(self, event: Event) -> list[str]:
        """How the tracked weights and their controls came through one prune."""
        controls = event["controls"] if event["round"] > 1 else []  # they were chosen among what prune 1 kept
        kinds, tallies = _by_kind(controls, lambda row: f"{row['kept']}/{row['before']}")
        rows = []
        for weight in event["weights"]:
            at, over = key(weight), weight["over_threshold"]
            value = ratio = NOTHING
            if weight["alive_before"]:
                outcome, value = "kept" if weight["alive"] else "PRUNED", f"{weight['value']:.4g}"
                ratio = NOTHING if over is None else f"{over:.3f}"
                if not weight["alive"]:
                    self.pruned_in[at] = event["round"]
            else:
                outcome = f"pruned in {self.pruned_in[at]}" if at in self.pruned_in else "masked at start"
            matrix = event["matrices"].get(self.tensors.get(at))
            kept = [share(matrix["kept"], of) for of in (matrix["before"], self.sizes.get(at, 0))] if matrix else []
            own = [tallies.get((at[:3], kind), NOTHING) for kind in kinds]
            rows.append([named(weight), value, ratio, outcome, *(kept or [NOTHING, NOTHING]), *own])
        if not rows:
            return []
        self.alive[event["round"]] = f"{sum(weight['alive'] for weight in event['weights'])}/{len(rows)}"
        heads = ["tracked", "value", "|w|/thr.", "outcome", "its matrix", "in all"]
        legend = ["its matrix: kept of what remained before this prune", "in all: of the full matrix"]
        legend += ["controls: kept/remaining before"] if kinds else []
        return ["", *table([*heads, *(CONTROLS[kind][0] for kind in kinds)], rows), f"  {'; '.join(legend)}"]


def _by_kind(controls: Any, written: Any) -> tuple[list[str], dict[tuple[Key, str], str]]:
    """The kinds of controls there are, in order, and what is written for each weight (layer, out, in) and kind."""
    kinds = [kind for kind in CONTROLS if any(row["kind"] == kind for row in controls)]
    return kinds, {(tuple(row["of"][:3]), row["kind"]): written(row) for row in controls}
