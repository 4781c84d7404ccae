"""The project's root folder."""

from __future__ import annotations

from pathlib import Path

from hapo_core.errors import ConfigError


def find_root(start: Path | None = None) -> Path:
    """The project around `start` (default: the working directory): the folder with dvc.yaml.

    Raises:
        ConfigError: there is none, or it lies where none can work.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            refuse_place(folder)
            return folder
    raise ConfigError(
        "this is no hapo project: no dvc.yaml and .dvc here or above",
        where=str(here),
        remedy="change into the project's folder; `hapo init DIR` makes one, `hapo train --help` "
        "one of your own model and data",
    )


def refuse_place(folder: Path) -> None:
    """Refuse a folder in which no project can work, by its whole path.

    Raises:
        ConfigError: it is no UTF-8, or has braces: DVC takes them for places to fill in and fails
            in the middle of a run.
    """
    path = str(folder.absolute())
    what = None
    if "{" in path or "}" in path:
        what = "braces, and DVC cannot work there"
    elif path != path.encode("utf-8", "replace").decode():
        what = "bytes that are no UTF-8"
    if what is not None:
        raise ConfigError(
            f"the path of the project's folder has {what}",
            where=path.encode("utf-8", "backslashreplace").decode(),
            remedy="rename that folder, or move the project",
        )
