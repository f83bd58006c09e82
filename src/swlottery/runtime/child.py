"""Processes of this package that it starts itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from swlottery.runtime.provenance import PACKAGE


def command(module: str, *arguments: str) -> list[str]:
    """A command that calls ``main`` of a module.

    As ``python -m`` does, but for ``sys.path``: that begins with the current folder, where a user's ``token.py`` takes
    the place of Python's own. (``python -P`` came with Python 3.11.)
    """
    code = f"from sys import exit, path; path[:] = filter(None, path); from {module} import main; exit(main())"
    return [sys.executable, "-c", code, *arguments]


def variables(given: Mapping[str, str], package: Path = PACKAGE) -> dict[str, str]:
    """The environment variables for such a process: the package is in reach, the current folder is not."""
    entries = given.get("PYTHONPATH", "").split(os.pathsep)
    # An empty entry means the current folder too: `export PYTHONPATH=/mine:$PYTHONPATH`, where there was none.
    kept = [entry for entry in entries if os.path.normpath(entry) != os.curdir]
    folders = [str(package.parent), *kept]
    return {**given, "PYTHONPATH": os.pathsep.join(folders), "PYTHONSAFEPATH": "1"}
