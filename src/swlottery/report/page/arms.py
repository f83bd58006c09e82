"""Which runs belong together: the arm of each, and the networks that are the unit of every test.

An arm is named from a run's own settings, never from how it differs from the others at hand: a run has the same name in
every report. Runs whose trainings differ (another T, another model, …) are never pooled.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swlottery.config import AFTER_ROUND_1
from swlottery.report.page.facts import UNREADABLE, Facts
from swlottery.report.page.rows import OWN

if TYPE_CHECKING:
    from pandas import DataFrame

SEEDS = ("seed", "data_seed")
PROCEDURE = AFTER_ROUND_1 | {"init", "device", "threads"}
"""The settings that make an arm, or change nothing that is compared; all others make the set-up."""
TRAINED = {"steps": "T", "model": "", "start": "", "micro_batch": "batch", "lr": "rate"}
"""What settings of a training are called in a set-up's name, where not by their own names."""
USUAL = {
    "criterion": ("global-magnitude", ""),
    "init": ("gpt2", ""),
    "scope": ("attn+c_proj", "scope "),
    "protect": ("none", "protect "),
    "force_prune": ("none", "force-prune "),
    "data_order": ("same", "data order "),
    "rewind": ("weights", "rewind "),
}
"""Settings that an arm's name holds where they are not the usual ones, and what comes before the value."""


@dataclass(frozen=True)
class Arm:
    """Runs with one procedure in one set-up.

    rate: of each prune, None where they differ. plain: global magnitude pruning, rewound to where the training began,
    with nothing protected or forced: plain arms differ in their rate alone.
    """

    setup: str
    name: str
    rate: float | None
    plain: bool
    runs: tuple[str, ...]


def name_of(settings: Mapping[str, Any]) -> str:
    """``20 % × 5, rewind none``."""
    rounds = settings["rounds"]
    if settings["schedule"]:
        name = "schedule " + settings["schedule"]
    elif settings["one_shot"]:
        name = f"one shot of {_percent(settings['prune_rate'])} × {rounds}"
    else:
        name = f"{_percent(settings['prune_rate'])} × {rounds}"
    extras = [before + str(settings[key]) for key, (usual, before) in USUAL.items() if settings[key] != usual]
    if settings["rewind_step"] and settings["rewind"] != "none":
        extras.append(f"rewind to step {settings['rewind_step']}")
    return ", ".join([name, *extras])


def without_folders(setups: Iterable[str]) -> dict[str, str]:
    """Set-ups with the last part of each absolute path alone, where that leaves them different."""
    short = {setup: re.sub(r"(?<!\S)/(?:[^/,]+/)+", "", setup) for setup in setups}
    return short if len(set(short.values())) == len(short) else {setup: setup for setup in short}


def _percent(rate: Any) -> str:
    return f"{100 * float(rate):g} %"


class Study:
    """Facts, and the runs sorted by arm."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        runs = facts["runs"]
        self.settings = {row.run: json.loads(row.settings) for row in runs.itertuples() if row.state not in UNREADABLE}
        self.state, self.lineage, self.network = (
            dict(zip(runs["run"], runs[column], strict=True)) for column in ("state", "lineage", "network")
        )
        self._tables: dict[str, dict[str, DataFrame]] = {}

    @cached_property
    def arms(self) -> list[Arm]:
        """All arms, set-ups together, the plain ones first and in them the largest rate."""
        groups: dict[tuple[str, str], list[str]] = {}
        for run, settings in self.settings.items():
            groups.setdefault((self._setup(settings), name_of(settings)), []).append(run)
        called = without_folders({setup for setup, _ in groups})
        arms = []
        for (setup, name), runs in groups.items():
            first = self.settings[runs[0]]
            rate = None if first["schedule"] or first["one_shot"] else float(first["prune_rate"])
            plain = rate is not None and name == f"{_percent(rate)} × {first['rounds']}"
            by_seed = sorted(runs, key=lambda run: [self.settings[run][seed] for seed in SEEDS])
            arms.append(Arm(called[setup], name, rate, plain, tuple(by_seed)))
        return sorted(arms, key=lambda arm: (arm.setup, not arm.plain, -(arm.rate or 0), -self._rounds(arm), arm.name))

    def title(self, arm: Arm) -> str:
        """An arm's name, with its set-up where there is more than one."""
        return arm.name if len(self.setups) == 1 else f"{arm.name} ({arm.setup})"

    @cached_property
    def setups(self) -> dict[str, list[Arm]]:
        """The arms of each set-up."""
        found: dict[str, list[Arm]] = {}
        for arm in self.arms:
            found.setdefault(arm.setup, []).append(arm)
        return found

    @cached_property
    def rates(self) -> list[list[Arm]]:
        """Of each set-up the arms that differ in their rate alone, the largest first; of one rate the longest."""
        found = []
        for arms in self.setups.values():
            longest: dict[float | None, Arm] = {}
            for arm in arms:
                if arm.plain:
                    longest.setdefault(arm.rate, arm)
            found.append(list(longest.values()))
        return found

    @property
    def rated(self) -> list[Arm]:
        """The arms of `rates`."""
        return [arm for arms in self.rates for arm in arms]

    def units(self, arm: Arm, finished: bool = False) -> dict[str, str]:
        """One run for each network, by the hash of its θ_0: of several one that has finished, if one has.

        finished: leave out networks whose run has not.
        """
        found: dict[str, str] = {}
        for run in sorted(arm.runs, key=lambda run: self.state[run] != "finished"):
            if self.lineage[run] and (self.state[run] == "finished" or not finished):
                found.setdefault(self.lineage[run], run)
        return {lineage: found[lineage] for run in arm.runs if (lineage := self.lineage[run]) in found}

    def own(self, run: str) -> str | None:
        """The tracked weight that is listed first: the first super weight of the network, or else its leader."""
        return self._own.get(run)

    def kind(self, run: str) -> str:
        """``super weight`` or ``leader``: what a run follows."""
        rows = self._weights.get(run)
        return "super weight" if rows is not None and (rows["kind"] == "super_weight").any() else "leader"

    def at(self, run: str, round_: int, column: str) -> tuple[float | None, dict[str, float]]:
        """A column of ``weights`` at the end of a round: of the tracked weight, and of its controls that have it."""
        if (run, round_) not in self._rounds_of:
            return None, {}
        rows, others = self._rounds_of[run, round_]
        mine, theirs = rows[column].iloc[:1].dropna(), others.set_index("weight")[column].dropna()
        return (float(mine.iloc[0]) if len(mine) else None), {str(w): float(value) for w, value in theirs.items()}

    def rows(self, table: str, runs: Iterable[str]) -> DataFrame:
        """The rows that a table has of some runs."""
        rows, wanted = self.facts[table], list(runs)
        if len(wanted) == 1:
            return self._by_run(table).get(wanted[0], rows.iloc[:0])
        return rows[rows["run"].isin(wanted)]

    def kept(self, run: str) -> DataFrame:
        """What each prune did to the tracked weight."""
        rows = self.rows("kept", [run])
        return rows[(rows["weight"] == self.own(run)) & rows["kind"].isin(OWN)]

    def last(self, run: str) -> list[Any]:
        """What the last prune did to each of the run's own tracked weights."""
        rows = self.rows("kept", [run])
        own = rows[rows["kind"].isin(OWN)]
        return list(own[own["round"] == own["round"].max()].itertuples())

    def initial(self, run: str, round_: int) -> dict[str, float]:
        """|w|/threshold at the end of a round, of the controls matched on |θ_0|."""
        rows = self.rows("initial", [run])
        now = rows[(rows["round"] == round_) & (rows["of"] == self.own(run))].dropna(subset=["over_threshold"])
        return {weight: float(value) for weight, value in zip(now["weight"], now["over_threshold"], strict=True)}

    def remaining(self, run: str) -> dict[int, float]:
        """Mask → the fraction of the weights in scope that it leaves."""
        table = self.rows("rounds", [run])
        return {int(r): float(f) for r, f in zip(table["round"], table["remaining_fraction"], strict=True)}

    def left(self, runs: Iterable[str], mask: int) -> float:
        """What a mask leaves, in percent: the mean over runs."""
        found = [self.remaining(run)[mask] for run in set(runs)]
        return 100 * sum(found) / len(found)

    def loss(self, run: str | None, mask: int, column: str = "val_loss") -> float | None:
        """The held-out loss of the network trained under a mask; ``start_loss``: before its first step."""
        rows = self.rows("rounds", [run] if run else [])
        found = rows[rows["round"] == mask][column].iloc[:1].dropna()
        return float(found.iloc[0]) if len(found) else None

    def pruning_point(self, run: str, round_: int) -> tuple[float | None, dict[str, float]]:
        """q of the tracked weight and of each control: the fraction of the weights in scope that may remain at most
        for this weight to be pruned.

        (1 − percentile among the remaining) · remaining, in the network that was trained in ``round_``; of a weight
        that was pruned before, as it was then.
        """
        remaining = self.remaining(run)
        own: float | None = None
        controls: dict[str, float] = {}
        for now in range(1, round_ + 1):
            mine, others = self.at(run, now, "percentile_remaining")
            left = remaining.get(now - 1)
            if left is None:
                return None, {}
            own = own if mine is None else (1 - mine / 100) * left
            controls |= {weight: (1 - percentile / 100) * left for weight, percentile in others.items()}
        rows = self._weights.get(run)
        has_come_so_far = rows is not None and (rows["round"] >= round_).any()
        return (own, controls) if has_come_so_far else (None, {})

    def pairs(self, first: Arm, second: Arm) -> list[tuple[str, str]]:
        """Finished runs of two arms that branch from one trained round-1 network."""
        others = {self.network[run]: run for run in self.units(second, finished=True).values() if self.network[run]}
        runs = self.units(first, finished=True).values()
        return [(run, others[self.network[run]]) for run in runs if self.network[run] in others]

    def survived_prune_1(self, run: str) -> bool:
        """Whether the tracked weight was alive after the first prune, as its controls are by choice."""
        table = self.kept(run)
        return bool(len(table) and table["alive"].iloc[0])

    def _rounds(self, arm: Arm) -> int:
        return int(self.settings[arm.runs[0]]["rounds"])

    # Questions ask for the rows of a run, or of one of its rounds, thousands of times: each table is grouped once.

    def _by_run(self, table: str) -> dict[str, DataFrame]:
        if table not in self._tables:
            self._tables[table] = {str(run): rows for run, rows in self.facts[table].groupby("run")}
        return self._tables[table]

    @property
    def _weights(self) -> dict[str, DataFrame]:
        return self._by_run("weights")

    @cached_property
    def _own(self) -> dict[str, str]:
        own = {run: rows[rows["kind"].isin(OWN)] for run, rows in self._weights.items()}
        return {run: str(rows["weight"].iloc[0]) for run, rows in own.items() if len(rows)}

    @cached_property
    def _rounds_of(self) -> dict[tuple[str, int], tuple[DataFrame, DataFrame]]:
        """Of each run that follows a weight, and each of its rounds: that weight's rows, and those of its controls."""
        found = {}
        for run, own in self._own.items():
            for round_, now in self._weights[run].groupby("round"):
                mine = now[(now["weight"] == own) & now["kind"].isin(OWN)]
                found[run, int(round_)] = mine, now[(now["of"] == own) & (now["kind"] == "control_rank")]
        return found

    @cached_property
    def _usual(self) -> dict[str, Any]:
        """The most common value of each setting, so that a set-up is named by what is special about it."""
        counts: dict[str, Counter[str]] = {}
        for settings in self.settings.values():
            for key, value in settings.items():
                counts.setdefault(key, Counter())[json.dumps(value)] += 1
        return {key: json.loads(count.most_common(1)[0][0]) for key, count in counts.items()}

    def _setup(self, settings: Mapping[str, Any]) -> str:
        special = {k: v for k, v in settings.items() if k not in PROCEDURE and k not in SEEDS and self._usual[k] != v}
        always = {"model": settings["model"], "steps": settings["steps"]}
        parts = [f"{TRAINED.get(key, key) or ''} {value}".strip() for key, value in {**always, **special}.items()]
        return ", ".join(parts)
