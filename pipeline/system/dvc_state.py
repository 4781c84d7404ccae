"""DVC's own state after a kill: stale lock entries are dropped, a torn dvc.lock is put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hapo_core.json_text import parse_json
from pipeline.artifacts import atomic_write_text, read_text
from pipeline.config.yaml import BAD_YAML, plain_values
from pipeline.system.processes import alive

RWLOCK = Path(".dvc/tmp/rwlock")


LOCKFILE = Path("dvc.lock")


LOCKFILE_COPY = Path(".hapo/dvc.lock")
"""DVC writes dvc.lock in place: a kill in that moment leaves it empty or torn."""


def heal_rwlock(root: Path = Path()) -> list[str]:
    """Repair `.dvc/tmp/rwlock` after a kill -9; call it while holding `run_lock`.

    An empty or torn file is removed, entries of processes that are gone are dropped.

    Returns:
        What was repaired, in words; empty where nothing was.
    """
    path = root / RWLOCK
    if not path.is_file():
        return []
    try:
        entries = parse_json(read_text(path))
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        path.unlink()
        return [f"removed {RWLOCK}, which a killed DVC left torn"]
    write = {path: info for path, info in entries.get("write", {}).items() if _holds(info)}
    read = {
        path: [i for i in infos if _holds(i)] for path, infos in entries.get("read", {}).items()
    }
    read = {path: infos for path, infos in read.items() if infos}
    kept = {mode: held for mode, held in (("write", write), ("read", read)) if held}
    named = {mode: {path: by for path, by in held.items() if by} for mode, held in entries.items()}
    if kept == {mode: held for mode, held in named.items() if held}:
        return []  # DVC itself leaves empty lists behind: nobody holds anything
    atomic_write_text(path, json.dumps(kept))
    return [f"dropped entries of ended processes from {RWLOCK}"]


def keep_lockfile(root: Path = Path()) -> None:
    """Copy dvc.lock to `.hapo/dvc.lock` if it is whole."""
    text = _read(root / LOCKFILE)
    if text != _read(root / LOCKFILE_COPY) and _whole(text):
        atomic_write_text(root / LOCKFILE_COPY, text)


def heal_lockfile(root: Path = Path()) -> list[str]:
    """Repair a torn or empty dvc.lock after a kill -9; call it while holding `run_lock`.

    The last whole copy takes its place; without one it is removed. Either way no work is lost:
    what the copy lacks DVC finds in its cache of runs.

    Returns:
        What was repaired, in words; empty where nothing was.
    """
    path, copy = root / LOCKFILE, root / LOCKFILE_COPY
    if not path.is_file() or _whole(_read(path)):
        return []
    text = _read(copy)
    if _whole(text):
        atomic_write_text(path, text)
        return [f"{LOCKFILE} was torn by a kill: put back from {LOCKFILE_COPY}"]
    path.unlink()
    return [f"removed {LOCKFILE}, torn by a kill; DVC finds finished stages in its cache of runs"]


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError):
        return ""


def _whole(text: str) -> bool:
    """Whether it is YAML with DVC's sections (a cut in a value passes: DVC then sees a change)."""
    try:
        found = plain_values(text)
    except BAD_YAML:
        return False
    return isinstance(found, dict) and isinstance(found.get("stages"), dict)


def writers(root: Path = Path()) -> dict[str, int]:
    """What DVC is writing now: absolute output path -> id of the living DVC process."""
    try:
        entries = parse_json(read_text(root / RWLOCK))
        held = entries.get("write", {})
        return {str(path): int(info["pid"]) for path, info in held.items() if _holds(info)}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}  # none, or caught in the middle of being written


def _holds(info: dict[str, Any]) -> bool:
    """Whether the recorded process runs and is a DVC (its id may have been given to another)."""
    pid = info.get("pid")
    if not isinstance(pid, int) or not alive(pid):
        return False
    try:
        return b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
