"""shim.c from Python: what is to happen at a system call that writes."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path


class Shim:
    """shim.c, compiled. None of it works without gcc, or but on Linux on x86-64."""

    def __init__(self, folder: Path) -> None:
        library = folder / "shim.so"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(Path(__file__).with_suffix(".c"))]
        subprocess.run(command, check=True, capture_output=True, text=True)
        self.library = ctypes.CDLL(str(library))

    def plan(
        self, folder: Path, action: str, call: str = "", path: str = "", nth: int = 1, error: int = 0, log: int = -1
    ) -> None:
        """What is to happen below ``folder`` in the children that `begin`: an action at the n-th call that fits.

        action: nothing, fail, or kill before or after it; ``all`` behind it: the whole group.
        """
        do = ["nothing", "fail", "before", "after"].index(action.removesuffix(" all"))
        texts = (os.fsencode(folder), os.fsencode(call), os.fsencode(path))
        self.library.shim_plan(texts[0], log, do, action.endswith(" all"), texts[1], texts[2], nth, error)

    def begin(self) -> None:
        """In a child: from now on the plan holds."""
        if number := self.library.shim_begin():
            raise OSError(number, os.strerror(number), "seccomp")

    @property
    def fired(self) -> bool:
        """Whether it has happened."""
        return bool(self.library.shim_fired())
