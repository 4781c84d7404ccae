"""One run at a time per project, and DVC's locks after a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hapo_core.errors import HapoError
from pipeline.process import alive
from pipeline.store import atomic_write_text

RUN_LOCK = Path(".hapo/run.lock")
RWLOCK = Path(".dvc/tmp/rwlock")


@contextmanager
def run_lock(root: Path = Path()) -> Iterator[None]:
    """Hold the project's run lock; the kernel releases it, however this process ends.

    Raises:
        HapoError: another run holds it; names its process.
    """
    path = root / RUN_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise HapoError(
                f"another run of this project is going on: process {holder}",
                where=str(path),
                remedy="wait for it, or stop it with Ctrl-C there (its finished work is kept)",
            ) from error
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


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
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        path.unlink()
        return [f"removed {RWLOCK}, which a killed DVC left torn"]
    kept = {name: _alive_only(entry) for name, entry in entries.items()}
    kept = {name: entry for name, entry in kept.items() if entry}
    if kept == entries:
        return []
    atomic_write_text(path, json.dumps(kept))
    return [f"dropped entries of ended processes from {RWLOCK}"]


def _alive_only(entry: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if isinstance(entry.get("write"), dict) and _holds(entry["write"]):
        kept["write"] = entry["write"]
    readers = [reader for reader in entry.get("read", []) if _holds(reader)]
    if readers:
        kept["read"] = readers
    return kept


def _holds(info: dict[str, Any]) -> bool:
    """Whether the recorded process runs and is a DVC (its id may have been given to another)."""
    pid = info.get("pid")
    if not isinstance(pid, int) or not alive(pid):
        return False
    try:
        return b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
