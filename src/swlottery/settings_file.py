"""Settings as files give them: a config's, and those of a study's points."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from swlottery.config import Settings, TrainSettings
from swlottery.errors import BadInput
from swlottery.yaml_file import read_yaml


def from_file(path: Path, kind: type[Settings] = TrainSettings) -> dict[str, Any]:
    """The settings of a ``kind`` (training) in a config file: a flat YAML mapping of setting names to values.

    Raises `BadInput` for a file that cannot be read, an unknown name (with the nearest known one), a value of another
    type.
    """
    content = read_yaml(path, "config", "settings: write one 'name: value' a line")
    try:
        return check_values(content, kind)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def check_values(values: Mapping[Any, Any], kind: type[Settings] = TrainSettings) -> dict[str, Any]:
    """Settings of a ``kind`` as a file gives them, of their types. `BadInput` for those that cannot be."""
    hints = get_type_hints(kind)
    return {name: _value(name, value, hints) for name, value in values.items()}


def _value(name: Any, value: Any, hints: Mapping[str, Any]) -> Any:
    if name not in hints:
        near = difflib.get_close_matches(str(name), hints, n=1)
        raise BadInput(f"unknown setting {name}" + (f": did you mean {near[0]}?" if near else ""))
    wanted = hints[name]
    if wanted == list[str]:
        items = value if isinstance(value, list) else [value]
        return [",".join(map(str, item)) if isinstance(item, list) else str(item) for item in items]
    if wanted is float:
        try:
            return float(str(value))  # YAML reads 6e-4 as text
        except ValueError:
            raise BadInput(f"{name}: {reprlib.repr(value)} is not a number") from None
    if wanted in (int, bool):
        if type(value) is not wanted:
            raise BadInput(
                f"{name}: {reprlib.repr(value)} is not {'a whole number' if wanted is int else 'true or false'}"
            )
        return value
    if value is None and wanted is not str:
        return None
    if value is None or isinstance(value, dict):
        raise BadInput(f"{name}: {reprlib.repr(value)} is not text")
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
