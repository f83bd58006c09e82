"""The structure that CONTRIBUTING.md describes: imports run downwards, and each room says what lives in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "swlottery"
ROOMS = [*["cli", "flags", "commands", "report", "study", "watch", "lottery", "find", "models", "data", "runtime"]]
ROOMS += ["settings_file", "config", "errors", "version"]
FLOOR = {room: -nth for nth, room in enumerate(ROOMS)}
FLOOR["api"] = FLOOR["commands"]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem != "__init__")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules += inside if node.module == "swlottery" else [node.module or ""]
    assert "swlottery" not in modules, "the package itself stands above its rooms: import from them"
    rooms = {module.split(".")[1] for module in modules if module.startswith("swlottery.")}
    return rooms & set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_downwards(path: Path) -> None:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    upwards = {other for other in imported(path) if FLOOR[other] > FLOOR[room]}
    assert not upwards, f"{room} stands below {', '.join(upwards)}"


def test_the_watch_takes_values() -> None:
    """It knows neither the run's folder nor who reads its rows."""
    for path in (SOURCE / "watch").glob("*.py"):
        assert not {"runtime", "report"} & imported(path), path.name


@pytest.mark.parametrize("room", [room for room in ROOMS if (SOURCE / room).is_dir()])
def test_a_room_says_what_lives_in_it(room: str) -> None:
    said = ast.get_docstring(ast.parse((SOURCE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert 3 <= len(said.splitlines()) <= 4


def test_the_formatter_is_obeyed() -> None:
    skips = sum(len(re.findall(r"# fmt: skip", path.read_text(encoding="utf-8"))) for path in FILES)
    assert skips <= 10
