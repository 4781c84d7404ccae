"""Unfinished work of a stage, found again after a kill, and how it becomes an artifact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.disk import FULL, guard_disk
from pipeline.artifacts.files import atomic_write_text, fsync_folder, remove
from pipeline.artifacts.manifest import MANIFEST, content_files, read_manifest

Tell = Callable[[str], None]


def _quiet(text: str) -> None:
    """Says nothing."""


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
            if self.path.is_symlink():
                self.path.unlink(missing_ok=True)
            self.path.mkdir(parents=True, exist_ok=True)
            for link in [p for p in self.path.rglob("*") if p.is_symlink()]:
                link.unlink(missing_ok=True)  # no stage makes one: it would write elsewhere

    def publish(self, target: Path, part: str | None = None, tell: Tell = _quiet) -> None:
        """Make the folder (or its subfolder `part`) the artifact `target`, replacing what is there,
        and remove it here. See `publish_copy`.

        Raises:
            HapoError: the disk of the target is full; the scratch folder is untouched.
        """
        source = self.path / part if part else self.path
        _publish(source, target, tell)
        remove(source)

    def publish_copy(self, target: Path, part: str, tell: Tell = _quiet) -> None:
        """Publish what the manifest of `part` lists, and nothing else that lies there.

        The target is complete or absent at every moment. It is made of hard links where the file
        system allows, else of synced copies; neither side is ever written in place. The work stays
        here until a later stage calls `settle`: DVC records a stage only after it has ended. A kill
        between the two makes DVC delete the outputs and run the stage again, which then finds its
        finished work here.

        Args:
            tell: gets a line about what is left out.
        """
        _publish(self.path / part, target, tell)
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


def _publish(source: Path, target: Path, tell: Tell) -> None:
    names = _listed(source)
    if strangers := _strangers(source, set(names)):
        shown = ", ".join(strangers[:3]) + (" ..." if len(strangers) > 3 else "")
        tell(f"left out of {target}, as this stage did not write it: {shown}")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial")
    remove(aside)
    here = source.stat().st_dev == target.parent.stat().st_dev
    needed = None if here else sum((source / name).stat().st_size for name in names)
    with guard_disk(target, needed):
        try:
            aside.mkdir()
            folders = {aside}
            for name in names:
                to = aside / name
                to.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(source / name, to)
                folders.add(to.parent)
            for folder in folders:
                fsync_folder(folder)
        except BaseException:
            remove(aside)
            raise
    remove(target)
    aside.replace(target)
    fsync_folder(target.parent)


def _strangers(source: Path, names: set[str]) -> list[str]:
    """What lies there and is not named; leftovers of a write that was killed are nobody's."""
    paths = [p.relative_to(source) for p in source.rglob("*") if p.is_file() or p.is_symlink()]
    killed = [p for p in paths if any(s[:1] == "." and s.endswith(".partial") for s in p.parts)]
    return sorted({p.as_posix() for p in paths} - {p.as_posix() for p in killed} - names)


def _listed(source: Path) -> list[str]:
    """The files of an artifact, the manifest last; all there are where it has none."""
    if not (source / MANIFEST).is_file():
        return [path.relative_to(source).as_posix() for path in content_files(source)]
    return [*read_manifest(source)["files"], MANIFEST]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in FULL:
            raise
        shutil.copy2(source, target)
        with target.open("rb") as handle:
            os.fsync(handle.fileno())
