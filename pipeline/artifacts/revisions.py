"""Files of another revision (commit, branch, tag, experiment), copied once out of DVC's cache."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError, DataError
from pipeline.artifacts import guard_disk, remove

if TYPE_CHECKING:
    from dvc.api import DVCFileSystem

REVISIONS = Path(".hapo/revisions")
"""`.hapo/revisions/COMMIT/`: the copies, at the places they have in a project."""
_COMMIT = re.compile("[0-9a-f]{40}")


def need_git(root: Path) -> None:
    """Refuse a project whose git repository is gone: DVC then reads none of its stages, and says
    so in words about itself.

    Raises:
        ConfigError: no `.git` here or above, and DVC has not been told to do without.
    """
    here = root.resolve()
    if "GIT_DIR" in os.environ or any((f / ".git").exists() for f in (here, *here.parents)):
        return
    for name in ("config", "config.local"):
        told = configparser.ConfigParser(interpolation=None, strict=False)
        with suppress(configparser.Error, OSError, UnicodeDecodeError):
            told.read(here / ".dvc" / name, encoding="utf-8")
            if told.getboolean("core", "no_scm", fallback=False):
                return
    raise ConfigError(
        "the project has no git repository: there is no .git here or above",
        where=str(here),
        remedy="bring its .git back, or begin a new one here: `git init`, `git add .` and "
        "`git commit -m begin`; finished stages are kept",
    )


def fetch(revision: str, paths: Iterable[Path], root: Path = Path()) -> Path:
    """The folder that holds these files and folders of a revision; what is missing is copied.

    Raises:
        ConfigError: there is no such revision.
        DataError: it lacks one of them, or DVC's cache does.
        HapoError: the disk is full.
    """
    files: DVCFileSystem | None = None
    commit = revision
    if not _COMMIT.fullmatch(revision):
        files, commit = _open(revision, root)
    folder = root / REVISIONS / commit[:16]
    for path in paths:
        if not (folder / path).exists():
            files = files or _open(revision, root)[0]
            _copy(files, path, folder / path, revision)
    return folder


def _open(revision: str, root: Path) -> tuple[DVCFileSystem, str]:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    need_git(root)
    try:
        files = DVCFileSystem(str(root.absolute()), rev=revision)
        return files, str(files.repo.get_rev())
    except (DvcException, SCMError) as error:
        raise ConfigError(
            f"there is no run {revision!r}: {error}",
            where=str(root.absolute()),
            remedy="`dvc exp list`, `git branch`, or the path of another project",
        ) from error


def _copy(files: DVCFileSystem, path: Path, target: Path, revision: str) -> None:
    from dvc.exceptions import DvcException

    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")  # two may copy at once
    remove(aside)
    target.parent.mkdir(parents=True, exist_ok=True)
    with guard_disk(aside):
        try:
            files.get(str(path), str(aside), recursive=files.isdir(str(path)))
        except BaseException as error:
            remove(aside)  # what it took is not what is missing
            if not isinstance(error, FileNotFoundError | DvcException):
                raise
            raise DataError(
                f"the run {revision!r} has no {path}, or DVC's cache lacks it",
                where=str(path),
                remedy="`dvc pull` (`dvc exp pull origin NAME` for an experiment), or run it to "
                "its end",
            ) from error
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        remove(aside)  # another process has copied the same meanwhile
