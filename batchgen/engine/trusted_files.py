"""Files of compiled code and of weights, which only this user can have written.

`durable.create` makes them so.
"""

from __future__ import annotations

import os
import stat


def foreign(status: os.stat_result) -> str:
    """Why another user may have written a file; "" if only this user can have."""
    if not stat.S_ISREG(status.st_mode):
        return "is no plain file"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""
