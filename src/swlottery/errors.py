"""The one exception a user may see as a message instead of a traceback, and the exit codes."""

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75
"""Stopped: early. The newest checkpoint counts, and the batch script requeues."""


class BadInput(Exception):
    """What the user asked for cannot be done.

    The message is one line that says what was wrong and what to do. ``cli.py`` prints it on stderr and exits with
    code 2; nothing has been written by then.
    """
