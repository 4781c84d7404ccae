"""Bytes on disk by folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts.places import dvc_cache

CACHE = "DVC's cache"


FOLDERS = (
    "artifacts",
    ".hapo/scratch",
    ".hapo/revisions",
    ".hapo/engine",
    ".hapo/prefect",
    "reports",
)


class DiskSizes:
    """Bytes on disk, every inode once."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def of(self, path: Path) -> int:
        """Of a file, or of all files below a folder; 0 where there is none."""
        total = 0
        for name in _files(path):
            try:
                facts = name.lstat()
            except FileNotFoundError:  # removed while we look
                continue
            key = (facts.st_dev, facts.st_ino)
            if key not in self._seen:
                self._seen.add(key)
                total += facts.st_blocks * 512
        return total


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _disk(root: Path) -> tuple[dict[str, int], int]:
    sizes = DiskSizes()
    folders = {name: root / name for name in FOLDERS} | {CACHE: dvc_cache(root)}
    found = {name: sizes.of(folder) for name, folder in folders.items() if folder.exists()}
    facts = os.statvfs(root)
    return found, facts.f_bavail * facts.f_frsize
