"""The one exception a user may see as a message instead of a traceback, how it is told, and the exit codes."""

from __future__ import annotations

import sys

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75
"""Stopped: early. The newest checkpoint counts, and the batch script requeues."""
LONGEST = 2000
"""Characters of a message."""


class BadInput(Exception):
    """What the user asked for cannot be done.

    The message is one line that says what was wrong and what to do. ``cli.py`` prints it on stderr and exits with
    code 2; nothing has been written by then.
    """


def complain(message: str) -> None:
    """Write a message on stderr, as one line."""
    message = " ".join(message.split())
    if len(message) > LONGEST:  # a value in it is
        message = f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
    # One write: print's second one, of the line's end, may come behind another line of a log that stdout shares.
    sys.stderr.write(f"swlottery: {message}\n")
    sys.stderr.flush()
