"""Which of the tracked weights and of their controls remain: the tables of the log that say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swlottery.report.words import CONTROLS, NOTHING, Key, key, named, number, share, table

Event = Mapping[str, Any]


class Survival:
    """What the events ``followed``, ``box`` and ``prune`` say, as tables. Nothing is printed."""

    def __init__(self) -> None:
        self.sizes: dict[Key, int] = {}
        self.downs: Mapping[int, str] = {}  # the tensor of each layer
        self.pruned_in: dict[Key, int] = {}
        self.alive: dict[int, str] = {}
        """Number of a prune → how many of the tracked weights it left, of how many."""

    def follow(self, event: Event) -> list[str]:
        """The weights that are tracked from here on, and how closely their controls match them in size."""
        kinds, controls = _by_weight(
            event["controls"], lambda row: f"{row['count']}" + (f" × {row['gap']:.3g}" if row["gap"] else "")
        )
        rows = []
        for weight in event["weights"]:
            at = key(weight)
            self.sizes[at] = weight["matrix_size"]
            rank = f"{weight['rank']:,} of {weight['matrix_size']:,}"
            rows.append([named(weight), f"{weight['value']:.4g}", rank, *controls(at)])
        legend = ", ".join(f"{head}: {text}" for head, text in kinds.items())
        return [
            *table(["tracked", "value", "rank of |w| in its matrix", *kinds], rows),
            f"  controls ({legend}):",
            "  their number × |w| over that of the largest (above 1: none is as large); all among what prune 1 keeps",
        ]

    def prune(self, event: Event) -> list[str]:
        """How the tracked weights and their controls came through one prune."""
        if not event["weights"]:
            return []
        chosen = event["controls"] if event["round"] > 1 else []  # they were chosen among what prune 1 kept
        kinds, controls = _by_weight(chosen, lambda row: f"{row['kept']}/{row['before']}")
        rows = []
        for weight in event["weights"]:
            at = key(weight)
            if weight["alive_before"]:
                outcome = "kept" if weight["alive"] else "PRUNED"
                if not weight["alive"]:
                    self.pruned_in[at] = event["round"]
                seen = [f"{weight['value']:.4g}", number(weight["over_threshold"], 3), outcome]
            else:
                outcome = f"pruned in {self.pruned_in[at]}" if at in self.pruned_in else "masked at start"
                seen = [NOTHING, NOTHING, outcome]
            matrix = event["matrices"].get(self.downs.get(at[0]))
            kept = [NOTHING, NOTHING]
            if matrix:
                kept = [share(matrix["kept"], of) for of in (matrix["before"], self.sizes.get(at, 0))]
            rows.append([named(weight), *seen, *kept, *controls(at)])
        self.alive[event["round"]] = f"{sum(weight['alive'] for weight in event['weights'])}/{len(rows)}"
        heads = ["tracked", "value", "|w|/thr.", "outcome", "its matrix", "in all", *kinds]
        legend = "  its matrix: kept of what remained before this prune; in all: of the full matrix"
        return ["", *table(heads, rows), legend + "; controls: kept/remaining before" * bool(kinds)]


def _by_weight(
    controls: Sequence[Event], written: Callable[[Event], str]
) -> tuple[dict[str, str], Callable[[Key], list[str]]]:
    """The kinds of controls there are (heading → in words), and what is written of a weight's controls."""
    kinds = [kind for kind in CONTROLS if any(row["kind"] == kind for row in controls)]
    texts = {(tuple(row["of"][:3]), row["kind"]): written(row) for row in controls}
    return dict(CONTROLS[kind] for kind in kinds), lambda at: [texts.get((at[:3], kind), NOTHING) for kind in kinds]
