"""What a tracker gets of a run, from its files: one row of numbers for each global step at which it was evaluated.

The global step counts the steps of all trainings. A training after the first begins at the step at which the one before
has ended: that step keeps the numbers of the trained network, and the evaluation of the rewound one has no row.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from swlottery.report.run_files import read_settings
from swlottery.runtime.tables import WATCH

NUMBERS = ("train_loss", "val_loss", "val_perplexity", "threshold")


class GlobalSteps:
    """The rows of one run, whose tables grow. `new` gives each row once."""

    def __init__(self, run: Path) -> None:
        self.run = run
        settings = read_settings(run)
        self.first, self.length = int(settings["rewind_step"]), int(settings["steps"]) - int(settings["rewind_step"])
        self._read = {name: (0, hashlib.sha256()) for name in ("metrics.jsonl", "watch.csv")}
        self._size: dict[str, float] = {}  # of the mask that is trained under
        self.known = ("foreign",) if settings["super_weights"] == "discover" else ("foreign", "super_weight", "leader")

    def new(self, lengths: Mapping[str, int], hashes: Mapping[str, str]) -> dict[int, dict[str, float]]:
        """Global step → numbers, of what was not read before of the first ``lengths`` bytes of the tables.

        Nothing where these bytes do not have the ``hashes``: those of a damaged checkpoint, which the run passed over.
        """
        lines, read = {}, {}
        for name, (begin, digest) in self._read.items():
            with open(self.run / name, "rb") as file:
                file.seek(begin)
                content = file.read(max(lengths.get(name, 0) - begin, 0))
            lines[name], read[name] = content.splitlines(), (begin + len(content), digest.copy())
            read[name][1].update(content)
            if content and hashes.get(name, read[name][1].hexdigest()) != read[name][1].hexdigest():
                return {}
        self._read = read
        rows: dict[int, dict[str, float]] = {}
        for event in map(json.loads, lines["metrics.jsonl"]):
            if event["event"] == "start":
                self._masked(event["counts"][0] / event["total"])
            elif event["event"] == "evaluation" and (step := self._global(event["round"], event["step"])) is not None:
                rows[step] = {name: event[name] for name in NUMBERS if event[name] is not None} | self._size
            elif event["event"] == "prune":
                if event["round"]:  # one at the start comes before all evaluations
                    rows[event["round"] * self.length + self.first]["threshold"] = event["threshold"]
                self._masked(event["remaining_fraction"])
        for row in csv.DictReader((line.decode() for line in lines["watch.csv"]), WATCH):
            if row["kind"] == "kind" or row["kind"].startswith("control_"):
                continue
            step = self._global(int(row["round"]), int(row["step"]))
            # The row of step 0 of a weight that is found later comes with the end of round 1, when that step was sent.
            if step is not None and (step or row["kind"] in self.known):
                place = ".".join(filter(None, (row[name] for name in ("layer", "out", "in", "expert"))))
                rows[step][f"{row['kind']}/{place}/size"] = abs(float(row["value"]))
                if row["over_threshold"]:
                    rows[step][f"{row['kind']}/{place}/over_threshold"] = float(row["over_threshold"])
        return rows

    def _global(self, round: int, step: int) -> int | None:
        return None if round > 1 and step == self.first else (round - 1) * self.length + step

    def _masked(self, remaining: float) -> None:
        self._size = {"sparsity": 1 - remaining, "remaining": remaining}
