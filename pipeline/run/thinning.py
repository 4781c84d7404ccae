"""Thinning an artifact: a journal says what goes, so that a kill in the middle is mended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hapo_core.errors import HapoError
from pipeline.artifacts import (
    MANIFEST,
    THINNED,
    fsync_folder,
    identity,
    read_json,
    read_manifest,
    remove,
    rewrite_manifest,
)
from pipeline.artifacts.places import POLICIES

JOURNAL = Path(".hapo/clean.json")


def finish(root: Path = Path()) -> list[str]:
    """Finish a `carry_out` that was cut off; call it while holding the run lock.

    Returns:
        What was done, in words; empty where there was nothing.
    """
    if not (root / JOURNAL).is_file():
        return []
    journal = read_json(root / JOURNAL)
    for name, parts in journal["segments"].items():
        _thin(root / POLICIES / name, parts)
    for stage in _as_recorded(root, journal["stages"], journal["segments"]):
        command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", "--", stage]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode != 0:
            raise HapoError(
                f"DVC did not record the smaller segment: {(done.stderr or done.stdout).strip()}",
                where=stage,
                remedy="`hapo clean` again; or `dvc checkout` brings everything back",
            )
    (root / JOURNAL).unlink()
    return [f"finished `hapo clean`: segments {', '.join(journal['segments'])} are smaller now"]


def _as_recorded(root: Path, stages: Sequence[str], thinned: Iterable[str]) -> list[str]:
    """The stages of which nothing but the thinned segments differs from dvc.lock.

    `dvc commit` records the present parameters and dependencies as what made the outputs. Where
    they were edited since (a kill in the middle, then another params.yaml) that would be untrue:
    such a stage is left as it is, to run again.
    """
    from dvc.repo import Repo

    folders = [str((root / POLICIES / name).absolute()) for name in thinned]
    same = set()
    for stage in Repo(str(root)).index.stages:
        deps = [d for d in stage.deps if not _holds(str(d.fs_path), folders)]
        if not stage.changed_stage() and not any(d.status() for d in deps):
            same.add(str(stage.addressing))
    return [name for name in stages if name in same]


def _holds(path: str, folders: Iterable[str]) -> bool:
    return any(path == f or f.startswith(path + os.sep) for f in folders)


def _readers(root: Path, names: Iterable[str]) -> set[str]:
    """The stages that write or read one of the segments' folders."""
    from dvc.repo import Repo

    folders = [str((root / POLICIES / name).absolute()) for name in names]
    found = set()
    for stage in Repo(str(root)).index.stages:
        paths = [str(x.fs_path) for x in (*stage.outs, *stage.deps)]
        if any(_holds(path, folders) for path in paths):
            found.add(str(stage.addressing))
    return found


def _thin(folder: Path, parts: Sequence[str]) -> None:
    """Replace the folder by one without the parts, whose manifest names them; doing it twice is
    doing it once."""
    aside = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old.partial")
    if old.exists() and not folder.exists():  # killed between the two renames
        old.rename(folder)
    remove(aside)
    remove(old)
    manifest = read_manifest(folder)
    if set(parts) <= set(manifest["facts"].get(THINNED, [])):
        return
    gone = {folder / part for part in parts}
    shutil.copytree(
        folder,
        aside,
        copy_function=os.link,
        ignore=lambda at, names: [n for n in names if Path(at, n) in gone or n == MANIFEST],
    )
    rewrite_manifest(aside, manifest, parts, identity(folder))
    folder.rename(old)
    aside.rename(folder)
    fsync_folder(folder.parent)
    remove(old)
