"""Settings as files give them, a config's and those of a study's points; and the YAML that a person wrote.

In that no name stands twice, there is no more than a person writes, and no code.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from swlottery.config import Settings, TrainSettings
from swlottery.errors import BadInput

LONGEST = 1 << 20
"""Characters of a file, as it is and with its aliases written out."""


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
        items = value if isinstance(value, list | tuple) else [value]
        return [",".join(map(str, item)) if isinstance(item, list | tuple) else str(item) for item in items]
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
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def read_yaml(path: Path, what: str, holds: str) -> dict[Any, Any]:
    """The mapping in a YAML file. what: the file is called that; holds: what it should hold, in a complaint.

    Raises `BadInput` for a file that cannot be read, for a name that stands twice, and for anything but a mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the {what} {path}: {error}") from None
    if len(text) > LONGEST:
        raise BadInput(f"{path} is too long for a {what}: at most {LONGEST:,} characters")
    try:
        loaded = _load(text)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except Exception as error:  # a value that is none, such as the date 2026-99-99, gives an error of any type
        raise BadInput(f"{path} is not YAML: {error or type(error).__name__}") from None
    if not isinstance(loaded, dict):
        raise BadInput(f"{path} holds no {holds}")
    return loaded


def _load(text: str) -> Any:
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(loader, node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(loader: Any, node: Any, sizes: dict[Any, int]) -> int:
    """The length of a node with its aliases written out. `BadInput` where that is too long, and for a name twice.

    sizes: of the nodes that were looked at; -1: of one that is being looked at.
    """
    import yaml

    if (known := sizes.get(node)) is not None:
        if known < 0:
            raise BadInput("an alias stands inside of what it is short for")
        return known
    sizes[node], size = -1, 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(loader, item, sizes) for item in node.value)
    else:
        seen: set[Any] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                merges = key.tag == "tag:yaml.org,2002:merge"
                name = key.value if merges else loader.construct_object(key)
                if {name, str(name)} & seen:  # 1, "1" and 1.0 too
                    raise BadInput(f"{name} stands twice (line {key.start_mark.line + 1}): leave one of them away")
                seen |= {name, str(name)}
            size += _check(loader, key, sizes) + _check(loader, value, sizes)
    if size > LONGEST:
        raise BadInput(f"it has over {LONGEST:,} characters with its aliases written out")
    sizes[node] = size
    return size
