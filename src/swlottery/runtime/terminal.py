"""A terminal that may be closed while a command runs."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any


class _Terminal(io.FileIO):
    """A terminal to write to. When it is closed (EIO), what is written is lost, and nothing else is."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(content)


def outlive() -> None:
    """Let stdout and stderr, where they are a terminal, outlive it.

    Its end may come before SIGHUP does, or without it (``disown``, ``setsid``).
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty():
            to = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(to, stream.encoding, stream.errors, line_buffering=True))


def is_there() -> bool:
    """Whether this process has a controlling terminal, wherever its streams go."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
