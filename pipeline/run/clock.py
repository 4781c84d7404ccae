"""The machine's time zone, for schedules; without Prefect, which takes a second to import."""

from __future__ import annotations

import os
from pathlib import Path
from zoneinfo import available_timezones


def time_zone() -> str:
    """The machine's zone as IANA names it (`Europe/Paris`); UTC where that is not known."""
    given = os.environ.get("TZ", "").lstrip(":")
    linked = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    for name in (given, linked):
        if name in available_timezones():
            return name
    return "UTC"
