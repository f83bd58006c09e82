"""Which runs belong together: the arm of each, and the networks that are the unit of every test.

An arm is named from a run's own settings, never from how it differs from the others at hand: a run has the same name in
every report. Runs whose trainings differ (another T, another model, …) are never pooled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import mode
from typing import Any

from pandas import DataFrame

from swlottery.config import AFTER_ROUND_1
from swlottery.report.page.facts import UNREADABLE, Facts, full, own_of
from swlottery.report.page.rows import OWN

SEEDS = ("seed", "data_seed")
PROCEDURE = AFTER_ROUND_1 | {"init", "device", "threads", "prune_at_start"}
"""The settings that make an arm, or change nothing that is compared; all others make the set-up."""
ALWAYS = ("model", "steps")
"""The settings that every set-up's name holds."""
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

    title: the name, with what tells its set-up from the others. rate: of each prune, None where they differ. plain:
    global magnitude pruning, rewound to where the training began, with nothing protected or forced: plain arms differ
    in their rate alone. networks: one run for each network, by its θ_0: one that has finished, if one has. finished:
    those of them that have.
    """

    setup: str
    name: str
    title: str
    rate: float | None
    plain: bool
    rounds: int
    runs: tuple[str, ...]
    networks: tuple[str, ...]
    finished: tuple[str, ...]


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
    if settings.get("prune_at_start"):
        extras.append("pruned at the start")
    return ", ".join([name, *extras])


def without_folders(setups: Iterable[str]) -> dict[str, str]:
    """Set-ups with the last part of each absolute path alone, where that leaves them different."""
    short = {setup: re.sub(r"(?<!\S)/(?:[^/,]+/)+", "", setup) for setup in setups}
    return short if len(set(short.values())) == len(short) else {setup: setup for setup in short}


def _percent(rate: Any) -> str:
    return f"{100 * float(rate):g} %"


class Study:
    """Facts, and the runs sorted by arm.

    own: of each run the tracked weight that is listed first, the first super weight of the network or else its leader.

    To the columns of ``weights`` comes ``q``, the fraction of the weights in scope that may remain at most for a weight
    to be pruned: (1 − percentile among the remaining) · remaining, in the network that was trained in the round.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        runs = facts["runs"]
        read = {row.run: full(row.settings) for row in runs.itertuples() if row.state not in UNREADABLE}
        self.settings: dict[str, dict[str, Any]] = read
        self.state, self.lineage, self.network = (
            dict(zip(runs["run"], runs[column], strict=True)) for column in ("state", "lineage", "network")
        )
        weights, kept = facts["weights"], facts["kept"]
        left = {(row.run, row.round + 1): row.remaining_fraction for row in facts["rounds"].itertuples()}
        trained = [left.get(at, math.nan) for at in zip(weights["run"], weights["round"], strict=True)]
        weights = weights.assign(q=(1 - weights["percentile_remaining"] / 100) * trained)
        self.own = own_of(weights)
        own = weights["run"].map(self.own)
        mine = weights[(weights["weight"] == own) & weights["kind"].isin(OWN)].drop_duplicates(["run", "round"])
        others = weights[(weights["of"] == own) & (weights["kind"] == "control_rank")].set_index("weight")
        followed = kept[(kept["weight"] == kept["run"].map(self.own)) & kept["kind"].isin(OWN)]
        # Questions ask for the rows of a run, or of one of its rounds, thousands of times: they are grouped once.
        self._tables = facts.tables | {"weights": weights, "own": mine, "followed": followed}
        self._by_run = {name: dict(iter(table.groupby("run"))) for name, table in self._tables.items()}
        self._mine = mine.set_index(["run", "round"]).to_dict("index")
        self._controls = dict(iter(others.groupby(["run", "round"])))

    @cached_property
    def arms(self) -> list[Arm]:
        """All arms, set-ups together, the plain ones first and in them the largest rate."""
        groups: dict[tuple[str, str], list[str]] = {}
        for run, settings in self.settings.items():
            groups.setdefault((self._setup(settings), name_of(settings)), []).append(run)
        every = self.settings.values()
        apart = [key for key in ALWAYS if any(one[key] != self._usual[key] for one in every)]
        called, labels = (without_folders(self._setup(one, shown) for one in every) for shown in (ALWAYS, apart))
        arms = []
        for (setup, name), members in groups.items():
            first = self.settings[members[0]]
            rate = None if first["schedule"] or first["one_shot"] else float(first["prune_rate"])
            plain = rate is not None and name == f"{_percent(rate)} × {first['rounds']}"
            runs = sorted(members, key=self.seeds)
            networks = self._networks(runs)
            finished = [run for run in networks if self.state[run] == "finished"]
            label = labels[self._setup(first, apart)]
            title = f"{name} ({label})" if label else name
            lists = (tuple(runs), tuple(networks), tuple(finished))
            arms.append(Arm(called[setup], name, title, rate, plain, int(first["rounds"]), *lists))
        return sorted(arms, key=lambda arm: (arm.setup, not arm.plain, -(arm.rate or 0), -arm.rounds, arm.name))

    @cached_property
    def setups(self) -> list[list[Arm]]:
        """The arms of each set-up."""
        return [list(arms) for _, arms in groupby(self.arms, key=lambda arm: arm.setup)]

    @cached_property
    def rates(self) -> list[list[Arm]]:
        """Of each set-up the arms that differ in their rate alone, the largest first; of one rate the longest."""
        plain = [[arm for arm in arms if arm.plain] for arms in self.setups]
        return [[next(same) for _, same in groupby(arms, key=lambda arm: arm.rate)] for arms in plain]

    @cached_property
    def rated(self) -> dict[str, Arm]:
        """The arms of `rates`, by title."""
        return {arm.title: arm for arms in self.rates for arm in arms}

    def seeds(self, run: str) -> tuple[Any, ...]:
        """The same for the runs of two arms that are a pair."""
        return tuple(self.settings[run][seed] for seed in SEEDS)

    def kind(self, run: str) -> str:
        """``super weight`` or ``leader``: what a run follows."""
        return "super weight" if (self.rows("weights", run)["kind"] == "super_weight").any() else "leader"

    def at(self, run: str, round_: int, column: str) -> tuple[float | None, dict[str, float]]:
        """A column of ``weights`` at the end of a round: of the tracked weight, and of its controls that have it."""
        mine = self._mine.get((run, round_), {}).get(column, math.nan)
        controls = self._controls.get((run, round_))
        return (
            None if math.isnan(mine) else float(mine),
            {} if controls is None else controls[column].dropna().astype(float).to_dict(),
        )

    def rows(self, table: str, *runs: str) -> DataFrame:
        """The rows that a table has of some runs."""
        rows = self._tables[table]
        if len(runs) == 1:
            return self._by_run[table].get(runs[0], rows.iloc[:0])
        return rows[rows["run"].isin(runs)]

    def kept(self, *runs: str) -> DataFrame:
        """What each prune of some runs did to the tracked weight of each."""
        return self.rows("followed", *runs)

    def remaining(self, run: str) -> dict[int, float]:
        """Mask → the fraction of the weights in scope that it leaves."""
        rounds = self.rows("rounds", run)
        return dict(zip(rounds["round"], rounds["remaining_fraction"], strict=True))

    def left(self, runs: Iterable[str], mask: int) -> float:
        """What a mask leaves, in percent: the mean over runs."""
        found = [self.remaining(run)[mask] for run in set(runs)]
        return 100 * sum(found) / len(found)

    def loss(self, run: str, mask: int) -> float | None:
        """The held-out loss of the network trained under a mask."""
        return self.value("rounds", run, mask, "val_loss")

    def value(self, table: str, run: str, mask: int, column: str) -> float | None:
        """What a table says of a run under one mask; None where it says nothing."""
        rows = self.rows(table, run)
        found = rows[rows["round"] == mask][column].dropna()
        return float(found.iloc[0]) if len(found) else None

    def pruning_point(self, run: str, round_: int) -> tuple[float | None, dict[str, float]]:
        """q of the tracked weight and of each control after a round; of one that was pruned before, as it was then."""
        own: float | None = None
        controls: dict[str, float] = {}
        for now in range(1, round_ + 1):
            mine, others = self.at(run, now, "q")
            own = own if mine is None else mine
            controls |= others
        has_come_so_far = (self.rows("weights", run)["round"] >= round_).any()
        return (own, controls) if has_come_so_far else (None, {})

    def pairs(self, first: Arm, second: Arm) -> list[tuple[str, str]]:
        """Finished runs of two arms that branch from one trained round-1 network."""
        others = {self.network[run]: run for run in second.finished if self.network[run]}
        return [(run, others[self.network[run]]) for run in first.finished if self.network[run] in others]

    def survived_prune_1(self, run: str) -> bool:
        """Whether the tracked weight was alive after the first prune, as its controls are by choice."""
        return bool(self.kept(run)["alive"].head(1).any())

    def _networks(self, runs: Sequence[str]) -> list[str]:
        """One run for each network, in the order of the first that each has."""
        found = {self.lineage[run]: run for run in reversed(runs)}
        found |= {self.lineage[run]: run for run in reversed(runs) if self.state[run] == "finished"}
        return [found[lineage] for lineage in dict.fromkeys(map(self.lineage.__getitem__, runs)) if lineage]

    @cached_property
    def _usual(self) -> dict[str, Any]:
        """The most common value of each setting, so that a set-up is named by what is special about it."""
        values: dict[str, list[str]] = {}
        for settings in self.settings.values():
            for key, value in settings.items():
                values.setdefault(key, []).append(json.dumps(value))
        return {key: json.loads(mode(written)) for key, written in values.items()}

    def _setup(self, settings: Mapping[str, Any], always: Sequence[str] = ALWAYS) -> str:
        """The name of a set-up. always: the settings that it holds also where they are the usual ones."""
        special = {k: v for k, v in settings.items() if k not in PROCEDURE and k not in SEEDS and self._usual[k] != v}
        shown = {key: settings[key] for key in always} | special
        return ", ".join(f"{TRAINED.get(key, key)} {value}".strip() for key, value in shown.items())
