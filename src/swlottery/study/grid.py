"""A study: many runs from one small file, each of them a point of a grid, or an arm at such a point.

name: rates                          # its folder: runs/rates
config: configs/gpt2-mini.yaml       # settings of all points; those below win
settings: {threads: 1}
grid:                                # every combination; a+b: both settings get the value
  seed+data_seed: [0, 1, 2]
arms:                                # at every point of the grid
  p20: {prune_rate: 0.2}
  p10: {prune_rate: 0.1, from_round_1: p20}    # branches from the arm p20 at the same point
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings, other_first_training
from swlottery.errors import BadInput
from swlottery.models.names import shortened
from swlottery.settings_file import check_values, from_file, read_yaml
from swlottery.study.naming import changed

PARTS = ("name", "config", "settings", "grid", "arms")
MOST = 100_000
"""Points of a study; more is a slip."""


@dataclass(frozen=True)
class Point:
    """One run of a study.

    label: readable, unique, the name of its folder. settings: those that the study gives. parent: the label of the
    point whose first round it branches from. arm: the name of its arm, "" in a study without.
    """

    label: str
    settings: dict[str, Any]
    parent: str | None = None
    arm: str = ""

    def entry(self) -> dict[str, Any]:
        """As in the files of a study."""
        return {"label": self.label, "settings": self.settings}


@dataclass(frozen=True)
class Study:
    """A study's name and all its points, arm by arm."""

    name: str
    points: list[Point]

    def placed(self, root: Path) -> Study:
        """The study with its folders below ``root`` in the settings: of runs, of figures, of the parents of runs."""
        runs, plots = (root.absolute() / folder / self.name for folder in ("runs", "plots"))
        points = []
        for point in self.points:
            places = {"runs": str(runs / point.label), "plots": str(plots / point.label)}
            if point.parent:
                places["from_round_1"] = str(runs / point.parent)
            points.append(replace(point, settings={**point.settings, **places}))
        return Study(self.name, points)


def read(path: Path, root: Path) -> Study:
    """Read a study and work out its points. root: where its ``config`` is looked for too.

    Raises:
        BadInput: a file that cannot be read, an unknown name, settings that a run refuses, two equal points.
    """
    content = read_yaml(path, "study", f"study: it needs {', '.join(PARTS)}")
    try:
        return _study(content, path.stem, root)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _study(content: Mapping[Any, Any], stem: str, root: Path) -> Study:
    for part in content:
        if part not in PARTS:
            near = difflib.get_close_matches(str(part), PARTS, n=1)
            raise BadInput(f"unknown part {part}" + (f": did you mean {near[0]}?" if near else ""))
    name = str(content.get("name", stem))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{,199}", name):
        raise BadInput(f"name: {name!r} is no name of a folder: up to 200 letters, digits, '.', '_' and '-'")
    common = check_values(_mapping(content, "settings"))
    if config := content.get("config"):
        path = Path(os.path.expanduser(str(config)))
        common = from_file(path if os.path.exists(path) else root / path) | common
    arms = {str(arm): own for arm, own in (_mapping(content, "arms") or {"": {}}).items()}
    for arm, own in arms.items():
        if not isinstance(own, dict):
            raise BadInput(f"arms: {arm} holds no settings: write 'name: value' below it")
    grid = _combinations(_mapping(content, "grid"))
    points = [_point(common, values, arm, own, arms) for arm, own in arms.items() for values in grid]
    _check_labels(points)
    _refuse_twins(points)
    return Study(name, points)


def _mapping(content: Mapping[Any, Any], part: str) -> dict[Any, Any]:
    found = content.get(part) or {}
    if not isinstance(found, dict):
        raise BadInput(f"{part}: write one 'name: value' a line")
    return found


def _combinations(grid: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """Every combination, the last name changing fastest."""
    for names, values in grid.items():
        if not isinstance(values, list) or not values:
            raise BadInput(f"grid: {names}: give a list of values")
    settings = [name.strip() for names in grid for name in str(names).split("+")]
    for name in settings:
        if settings.count(name) > 1:
            raise BadInput(f"grid: {name} stands twice: leave one of them away")
    number = math.prod(map(len, grid.values()))
    if number > MOST:
        raise BadInput(f"{number:,} points of the grid: at most {MOST:,}")
    return [dict(zip(map(str, grid), values, strict=True)) for values in itertools.product(*grid.values())]


def _point(
    common: Mapping[str, Any], values: Mapping[str, Any], arm: str, own: Mapping[str, Any], arms: Collection[str]
) -> Point:
    """The point at some values of the grid; arm, own: the arm and its settings; arms: the labels of all arms."""
    place = [f"{names.partition('+')[0].strip()}{value}" for names, value in values.items()]
    label = _label([*place, arm])
    at = {name.strip(): value for names, value in values.items() for name in names.split("+")}
    settings = dict(common) | check_values(at) | check_values(own)
    for name in ("runs", "plots"):
        if name in settings:
            raise BadInput(f"{name} is not for a study: every point has a folder of its own")
    parent = None
    if (other := settings.get("from_round_1")) in arms:
        if other == arm:
            raise BadInput(f"arms: {arm} branches from itself")
        del settings["from_round_1"]
        parent = _label([*place, str(other)])
    try:
        TrainSettings(**settings).check()
    except BadInput as error:
        raise BadInput(f"point {label}: {error}") from None
    return Point(label, settings, parent, arm)


def _label(parts: Sequence[str]) -> str:
    label = re.sub(r"[^A-Za-z0-9._+=-]", "_", "-".join(part for part in parts if part)).strip(".")
    return shortened(label, 240) or "point"


def _check_labels(points: Sequence[Point]) -> None:
    """Every point needs a folder of its own, and a parent that is no branch itself."""
    known: dict[str, Point] = {}
    for point in points:
        if point.label in known:
            raise BadInput(f"two points are called {point.label}")
        if point.label in ("points", "logs"):
            raise BadInput(f"a point cannot be called {point.label}: the study's folder has one of that name")
        known[point.label] = point
    for point in points:
        if point.parent and point.parent not in known:
            raise BadInput(f"no point is called {point.parent}, from which others branch")
        if point.parent and (first := known[point.parent].parent):
            raise BadInput(f"{point.parent} branches from {first}, and another branches from it: one step only")
        if point.parent:
            theirs = vars(TrainSettings(**known[point.parent].settings))
            if other := other_first_training(TrainSettings(**point.settings), theirs):
                raise BadInput(
                    f"{point.label} branches from {point.parent}, and has another {other[0]}: only later rounds may"
                )


def _refuse_twins(points: Sequence[Point]) -> None:
    """Two points with the same settings would do the same twice.

    With a constant rate from step 0 on, rewinding the learning rate and rewinding nothing are the same.
    """
    seen: dict[str, str] = {}
    for point in points:
        settings = TrainSettings(**point.settings)
        named = changed(settings) | {"parent": point.parent}
        constant = settings.lr_schedule == "constant" and not settings.warmup and settings.rewind_step == 0
        if constant and settings.rewind in ("lr", "none"):
            named["rewind"] = "lr or none"
        key = repr(sorted(named.items()))
        if key in seen:
            raise BadInput(f"the points {seen[key]} and {point.label} are the same run")
        seen[key] = point.label
