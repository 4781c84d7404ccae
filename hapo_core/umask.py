"""The mode that files and folders get which are made aside with a stricter one."""

from __future__ import annotations

import os


def umask() -> int:
    """Of this process; the system tells it only where it is set, so it is set for a moment."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
