"""A setting, and what the settings of all commands have in common."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from swlottery.errors import BadInput

KAPPA = 40.0
"""κ. One constant for all models: twice the 95th percentile of the permutation null on a real one (docs/method.md)."""
MAX_WEIGHTS = 32
"""The most weights that a search takes out."""


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    least: float = 0,
    below: float | None = None,
    path: bool = False,
    affects: Literal["all", "later", "nothing"] = "all",
) -> Any:
    """One setting.

    Args:
        unit: of a number.
        metavar: what ``--help`` writes for the value; N of an integer and X of a fraction where it is not given.
        least, below: the limits of a number.
        path: whether it names a file or folder; then a ``~`` in front is the home folder.
        affects: all results, only those later than the first training, or nothing.
    """
    flag: dict[str, Any] = {}
    if isinstance(default, bool):
        flag["action"] = "store_true"
    elif choices:
        flag["choices"] = choices
    else:
        flag["metavar"] = metavar or {int: "N", float: "X"}.get(type(default))
    if isinstance(default, list):
        flag["action"] = "append"
    metadata = {"help": help, "flag": flag, "unit": unit, "least": least, "below": below, "path": path}
    metadata["affects"] = affects
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


later = partial(setting, affects="later")
"""A setting that changes nothing about the first training."""


def flag_of(name: str) -> str:
    """The flag of a setting: ``--eval-tokens`` of ``eval_tokens``."""
    return f"--{name.replace('_', '-')}"


@dataclass
class Settings:
    """What the settings of all commands have in common."""

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            if one.metadata.get("path") and (value := getattr(self, one.name)):
                setattr(self, one.name, os.path.expanduser(value))

    def check_limits(self) -> None:
        """Raise `BadInput` for a value that is not among its setting's choices, or not within its limits."""
        for one in dataclasses.fields(self):
            value, flag, about = getattr(self, one.name), flag_of(one.name), one.metadata
            if about.get("path") and value == "":
                raise BadInput(f"{flag} is empty: give a path, or leave it away")
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and re.search("[\0\ud800-\udfff]", text):
                    raise BadInput(f"{flag} {text!a}: is not UTF-8, or holds a zero byte")
            choices = about.get("flag", {}).get("choices")
            if choices and value not in (*choices, one.default):
                raise BadInput(f"{flag} {value}: choose from {', '.join(choices)}")
            if isinstance(value, int | float) and not isinstance(value, bool):
                if not about["least"] <= value < 2**63:
                    raise BadInput(f"{flag} {value:g}: must be at least {about['least']:g}, and finite")
                if about["below"] is not None and value >= about["below"]:
                    raise BadInput(f"{flag} {value:g}: must be below {about['below']:g}")

    def check_idle(self, *cases: tuple[str, object, str]) -> None:
        """Raise `BadInput` for a setting that is given and could not act.

        cases: (names of settings, whether they cannot act, with what); only these settings are looked at.
        """
        defaults = {one.name: one.default for one in dataclasses.fields(self)}
        for names, idle, why in cases:
            for name in names.split() if idle else ():
                default = [] if defaults[name] is dataclasses.MISSING else defaults[name]
                if (value := getattr(self, name)) != default:
                    shown = "" if value is True else f" {value}"
                    away = "leave it away" if not default else f"leave it at {default}, its default"
                    raise BadInput(f"{flag_of(name)}{shown} changes nothing {why}: {away}")


def coordinate(flag: str, text: str) -> tuple[int, ...]:
    """(layer, out, in), and the expert where one is given. Raises `BadInput` for anything else."""
    numbers = re.fullmatch(r"\(?((\s*\d{1,18}\s*,){2,3}\s*\d{1,18}\s*)\)?", str(text))
    if not numbers:
        raise BadInput(f"{flag} {text}: give a coordinate as LAYER,OUT,IN, such as 2,447,666")
    return tuple(map(int, numbers[1].split(",")))
