"""`.hapo/modules.json`: what was found in modules' texts, so that each text is parsed once.

A stage asks this of every module that it imports when it starts, and again before it publishes; to
parse them takes longer than all else that its start does. What is kept is named by the text's own
hash: an edit asks for another entry, and nothing here can be out of date. It may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hapo_core.errors import HapoError
from hapo_core.json_text import parse_json
from pipeline.artifacts import atomic_write_text, read_text

PLACE = Path(".hapo/modules.json")
LIMIT = 4000
"""Entries of a file; one that has more starts anew with what this process asked for."""
_READER = ("closure.py", "kept.py")
"""What reads the texts: another version of these, or of Python, may find something else."""

_entries: dict[str, list[str]] = {}
_loaded: set[Path] = set()
_made: dict[str, list[str]] = {}


def kept(key: str, make: Callable[[], list[str]]) -> list[str]:
    """The entry of this name, made where there is none."""
    if key not in _entries:
        _entries[key] = _made[key] = make()
    return _entries[key]


def load(root: Path = Path()) -> None:
    """Take up what earlier processes found; once for a project."""
    place = (root / PLACE).absolute()
    if place in _loaded:
        return
    _loaded.add(place)
    for key, entry in _read(place).items():
        _entries.setdefault(key, entry)


def save(root: Path = Path()) -> None:
    """Add what this process found; a project that cannot be written does without."""
    if not _made:
        return
    place = (root / PLACE).absolute()
    entries = _read(place) | _made
    if len(entries) > LIMIT:
        entries = dict(_made)
    text = json.dumps({"reader": _reader(), "entries": entries}, separators=(",", ":"))
    with suppress(OSError, HapoError):
        atomic_write_text(place, text + "\n")
        _made.clear()


def _read(place: Path) -> dict[str, list[str]]:
    """Empty where there is no such file, or it is another reader's or torn."""
    try:
        found = parse_json(read_text(place))
        entries = found["entries"] if found["reader"] == _reader() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {k: v for k, v in entries.items() if isinstance(v, list)}


def _reader() -> str:
    here = Path(__file__).parent
    texts = [(here / name).read_bytes() for name in _READER]
    return hashlib.sha256(b"".join([platform.python_version().encode(), *texts])).hexdigest()
