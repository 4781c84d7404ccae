"""What options take: numbers within their range, and places that can be written.

Each is an argparse `type`: what does not fit is told with the option's name before anything runs.
A folder that cannot be written would otherwise be found after the hours that fill it.
"""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from pathlib import Path

MOST = 10**9
"""Of anything that is counted: rows, rounds, tokens, processes."""


def count(text: str) -> int:
    """1, 2, 3 ..."""
    return _whole(text, 1)


def number(text: str) -> int:
    """0, 1, 2 ..."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text[:40]!r} is no whole number") from error
    if not least <= value <= MOST:
        raise ArgumentTypeError(f"{text[:40]!r} is not between {least} and {MOST:,}")
    return value


def finite(text: str) -> float:
    """Any number but infinity, and not `nan`."""
    try:
        value = float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text[:40]!r} is no number") from error
    if not math.isfinite(value):
        raise ArgumentTypeError(f"{text[:40]!r} is no finite number")
    return value


def positive(text: str) -> float:
    """Above 0."""
    value = finite(text)
    if value <= 0:
        raise ArgumentTypeError(f"{text[:40]!r} is not above 0")
    return value


def inside(text: str) -> float:
    """Between 0 and 1, both left out."""
    value = finite(text)
    if not 0 < value < 1:
        raise ArgumentTypeError(f"{text[:40]!r} is not between 0 and 1")
    return value


def folder(text: str) -> Path:
    """A folder that files can be written to; it need not be there."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise ArgumentTypeError(f"{text!r} is a file and no folder")
    _writable(path, text)
    return path


def file(text: str) -> Path:
    """A file that can be written; it need not be there."""
    path = Path(text)
    if path.exists() and not path.is_file():
        raise ArgumentTypeError(f"{text!r} is no file that can be written")
    _writable(path.parent, text)
    return path


def _writable(path: Path, text: str) -> None:
    place = path.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ArgumentTypeError(f"{text!r} cannot be made: {place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ArgumentTypeError(f"{text!r} cannot be written: {place} belongs to another user")
