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
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings, check_values, from_file, read_yaml
from swlottery.errors import BadInput
from swlottery.study.naming import changed

PARTS = ("name", "config", "settings", "grid", "arms")
MOST = 100_000
"""Points of a study; more is a slip."""


@dataclass(frozen=True)
class Point:
    """One run of a study. label: readable, a name of a folder, its own; settings: those that are given; parent: the label
    of the point whose first round it branches from."""

    label: str
    settings: dict[str, Any]
    parent: str | None = None


@dataclass(frozen=True)
class Study:
    """What a file of a study says, with every point worked out."""

    name: str
    points: list[Point]


def read(path: Path, root: Path) -> Study:
    """Read a study and work out its points. root: where its ``config`` is looked for if it is not found as it stands.

    Raises:
        BadInput: a file that cannot be read, an unknown name, settings that a run refuses, two points that are the same.
    """
    content = read_yaml(path, "study", f"study: it needs {', '.join(PARTS)}")
    for part in content:
        if part not in PARTS:
            near = difflib.get_close_matches(str(part), PARTS, n=1)
            raise BadInput(f"{path}: unknown part {part}" + (f": did you mean {near[0]}?" if near else ""))
    name = str(content.get("name", path.stem))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"{path}: name: {name!r} is no name of a folder: letters, digits, '.', '_' and '-'")
    common = _config(path, content.get("config"), root) | check_values(path, _mapping(path, content, "settings"))
    points = []
    for coordinates in _grid(path, _mapping(path, content, "grid")):
        arms = _mapping(path, content, "arms") or {"": {}}
        for arm, own in arms.items():
            if not isinstance(own, dict):
                raise BadInput(f"{path}: arms: {arm} holds no settings: write 'name: value' below it")
            points.append(_point(path, common, coordinates, str(arm), own, [str(each) for each in arms]))
    _refuse_twins(path, points)
    return Study(name, points)


def _config(path: Path, config: Any, root: Path) -> dict[str, Any]:
    if config is None:
        return {}
    given = Path(str(config))
    return from_file(given if given.exists() else root / given, TrainSettings)


def _mapping(path: Path, content: Mapping[str, Any], part: str) -> dict[str, Any]:
    found = content.get(part) or {}
    if not isinstance(found, dict):
        raise BadInput(f"{path}: {part}: write one 'name: value' a line")
    return found


def _grid(path: Path, grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination, the last name changing fastest."""
    number = 1
    for names, values in grid.items():
        if not isinstance(values, list) or not values:
            raise BadInput(f"{path}: grid: {names}: give a list of values")
        number *= len(values)
    if number > MOST:
        raise BadInput(f"{path}: {number:,} points of the grid: at most {MOST:,}")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _point(
    path: Path,
    common: Mapping[str, Any],
    coordinates: Mapping[str, Any],
    arm: str,
    own: Mapping[str, Any],
    arms: list[str],
) -> Point:
    place = [f"{str(names).partition('+')[0].strip()}{value}" for names, value in coordinates.items()]
    label = _label([*place, arm])
    at = {name.strip(): value for names, value in coordinates.items() for name in str(names).split("+")}
    settings = dict(common) | check_values(path, at) | check_values(path, own)
    for name in ("runs", "plots"):
        if name in settings:
            raise BadInput(f"{path}: {name} is not for a study: every point has a folder of its own")
    parent = settings.get("from_round_1")
    if parent in arms:
        if parent == arm:
            raise BadInput(f"{path}: arms: {arm} branches from itself")
        del settings["from_round_1"]
        parent = _label([*place, parent])
    else:
        parent = None
    try:
        TrainSettings(**settings).check()
    except BadInput as error:
        raise BadInput(f"{path}: point {label}: {error}") from None
    return Point(label, settings, parent)


def _label(parts: list[str]) -> str:
    return re.sub(r"[^A-Za-z0-9._+=-]", "_", "-".join(part for part in parts if part)).strip(".") or "point"


def _refuse_twins(path: Path, points: list[Point]) -> None:
    """Two points with one name would share a folder; two with the same settings would do the same twice.

    With a constant rate from step 0 on, rewinding the learning rate and rewinding nothing are the same.
    """
    labels: set[str] = set()
    seen: dict[str, str] = {}
    parents = {point.parent for point in points if point.parent}
    for point in points:
        if point.label in labels:
            raise BadInput(f"{path}: two points are called {point.label}")
        if point.label in ("points", "logs"):
            raise BadInput(f"{path}: a point cannot be called {point.label}: the study's folder has one of that name")
        labels.add(point.label)
        settings = TrainSettings(**point.settings)
        named = changed(settings) | {"from_round_1": point.parent}
        constant = settings.lr_schedule == "constant" and not settings.warmup and settings.rewind_step == 0
        if constant and settings.rewind in ("lr", "none"):
            named["rewind"] = "lr or none"
        key = repr(sorted(named.items(), key=lambda pair: pair[0]))
        if key in seen:
            raise BadInput(f"{path}: the points {seen[key]} and {point.label} are the same run")
        seen[key] = point.label
        if point.label in parents and point.parent:
            raise BadInput(
                f"{path}: {point.label} branches from {point.parent}, and another branches from it: one step only"
            )
    for parent in parents - labels:
        raise BadInput(f"{path}: no point is called {parent}, from which others branch")
