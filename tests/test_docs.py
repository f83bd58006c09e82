"""docs/method.md names what the program has: the columns of the watch, the controls, scopes, criteria and rewindings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from swlottery.config import TrainSettings
from swlottery.lottery import controls
from swlottery.lottery.prune import planned
from swlottery.lottery.scope import SCOPES
from swlottery.runtime.tables import WATCH

REPOSITORY = Path(__file__).resolve().parents[1]
METHOD = (REPOSITORY / "docs" / "method.md").read_text(encoding="utf-8")
FLAGS = {field.name: field.metadata["flag"] for field in dataclasses.fields(TrainSettings)}


def section(number: int) -> str:
    """The text of one numbered section."""
    return METHOD.partition(f"\n## {number}. ")[2].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """What is set as code in the first column of the tables of a text, in order."""
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row) if not name.startswith("--")]


def test_the_columns_of_the_watch() -> None:
    place = {"round", "step", "kind", "layer", "out", "in"}
    assert first_cells(section(12)) == [name for name in WATCH if name not in place]


def test_the_kinds_of_controls() -> None:
    assert first_cells(section(13)) == list(controls.KINDS)
    assert f"{controls.COUNT} of each" in section(13)


def test_scopes_criteria_and_rewindings() -> None:
    assert first_cells(section(8)) == list(SCOPES) == list(FLAGS["scope"]["choices"])
    assert set(FLAGS["criterion"]["choices"]) <= set(re.findall(r"`([a-z-]+)`", section(9)))
    assert first_cells(section(10)) == list(FLAGS["rewind"]["choices"])


def test_the_example_of_five_prunes() -> None:
    total = 124_373_760
    counts, _ = planned(TrainSettings(), total)
    left = [f"{total - sum(counts[: n + 1]):,}" for n in range(5)]
    assert f"leave {', '.join(left[:-1])} and {left[-1]}." in " ".join(section(9).split())


def test_every_flag_it_names_exists() -> None:
    named = {flag[2:].replace("-", "_") for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", METHOD)}
    assert named <= set(FLAGS)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+\.py)`", METHOD))))
def test_every_file_it_names_is_there(name: str) -> None:
    assert list((REPOSITORY / "src" / "swlottery").rglob(name))
