"""Unfinished work of a stage, found again after a kill, and how it becomes an artifact."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.artifacts.disk import FULL, folder_bytes, guard_disk
from pipeline.artifacts.files import atomic_write_text, fsync_folder, remove

SCRATCH = Path(".hapo/scratch")
PUBLISHED = "published"
"""Marks a scratch folder whose work is in its artifact."""


class Scratch:
    """Unfinished work of a stage: `root/<stage>-<hash>/`, found again after a kill.

    Args:
        stage: the DVC stage's name (`train@2`).
        inputs_hash: of `inputs_hash`; other inputs get another folder.
        root: ignored by git and DVC.
    """

    def __init__(self, stage: str, inputs_hash: str, root: Path = SCRATCH) -> None:
        self.stage = stage
        self.root = root
        self.path = root / f"{stage}-{inputs_hash[:16]}"
        with guard_disk(root):
            self.path.mkdir(parents=True, exist_ok=True)

    def publish(self, target: Path, part: str | None = None) -> None:
        """Move the folder (or its subfolder `part`) to `target`, replacing what is there.

        The target is complete or absent at every moment. On one file system this is a rename;
        across two, a synced copy beside the target, then a rename.

        Raises:
            HapoError: the disk of the target is full; the scratch folder is untouched.
        """
        source = self.path / part if part else self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(source)
        aside = target.with_name(f".{target.name}.partial")
        remove(aside)
        if source.stat().st_dev == target.parent.stat().st_dev:
            ready = source
        else:
            with guard_disk(target, needed=folder_bytes(source)):
                try:
                    _copy_synced(source, aside)
                except BaseException:
                    remove(aside)
                    raise
            ready = aside
        remove(target)
        ready.replace(target)
        fsync_folder(target.parent)
        remove(source)

    def publish_copy(self, target: Path, part: str) -> None:
        """Like `publish`, but the work stays here until a later stage calls `settle`.

        DVC records a stage only after it has ended. A kill between the two makes DVC delete the
        outputs and run the stage again, which then finds its finished work here. The copy is made
        of hard links where the file system allows; neither side is ever written in place.
        """
        source = self.path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.partial")
        remove(aside)
        with guard_disk(target):
            try:
                shutil.copytree(source, aside, copy_function=_link_or_copy)
            except BaseException:
                remove(aside)
                raise
        remove(target)
        aside.replace(target)
        fsync_folder(target.parent)
        atomic_write_text(self.path / PUBLISHED, f"{target}\n")

    @staticmethod
    def settle(stage: str, root: Path = SCRATCH) -> None:
        """Remove the published work of all stages but `stage`: that another stage has started
        means that DVC has recorded them."""
        for mark in root.glob(f"*/{PUBLISHED}"):
            if mark.parent.name.rsplit("-", 1)[0] != stage:
                remove(mark.parent)

    def discard_others(self) -> None:
        """Remove the folders of this stage that belong to other inputs."""
        for folder in self.root.glob("*-*"):
            if folder != self.path and folder.name.rsplit("-", 1)[0] == self.stage:
                remove(folder)

    def discard(self) -> None:
        """Remove this folder."""
        remove(self.path)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in FULL:
            raise
        shutil.copy2(source, target)
        with Path(target).open("rb") as handle:
            os.fsync(handle.fileno())
    return target


def _copy_synced(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            fsync_folder(path)
    fsync_folder(target)
