"""swlottery: find the super weights of a causal language model and follow them through iterative magnitude pruning.

The functions of ``__all__`` live in `swlottery.api` and are loaded when they are first used (docs/api.md).
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from swlottery.version import __version__ as __version__

__all__ = [
    "BadInput",
    "TrainSettings",
    "apply",
    "evaluate",
    "find",
    "load_masks",
    "load_record",
    "prune",
    "track",
    "train",
]

if TYPE_CHECKING:
    from swlottery.api import (
        BadInput,
        TrainSettings,
        apply,
        evaluate,
        find,
        load_masks,
        load_record,
        prune,
        track,
        train,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'swlottery' has no attribute '{name}'")
    from swlottery import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Importing the subpackage ``find`` sets an attribute of that name, which must not hide the function."""

    find = property(lambda self: __getattr__("find"), lambda self, subpackage: None)


sys.modules[__name__].__class__ = _Package
