"""The one exception a user may see as a message instead of a traceback, and the exit codes."""

from errno import EACCES, EDQUOT, EEXIST, ELOOP, ENAMETOOLONG, ENOSPC, ENOTDIR, EPERM, EROFS

DONE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 75
"""Stopped: early. The newest checkpoint counts, and the batch script requeues."""
UNUSABLE = (EACCES, EPERM, EROFS, ENOSPC, EDQUOT, EEXIST, ENOTDIR, ELOOP, ENAMETOOLONG)
"""What the system says of a file or folder that the user has to see to."""


class BadInput(Exception):
    """What the user asked for cannot be done.

    The message is one line that says what was wrong and what to do. ``cli.py`` prints it on stderr and exits with
    code 2; nothing has been written by then.
    """
