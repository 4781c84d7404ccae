"""The project's root folder."""

from __future__ import annotations

from pathlib import Path

from hapo_core.errors import ConfigError


def find_root(start: Path | None = None) -> Path:
    """The project around `start` (default: the working directory): the folder with dvc.yaml.

    Raises:
        ConfigError: there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise ConfigError(
        "this is no hapo project: no dvc.yaml and .dvc here or above",
        where=str(here),
        remedy="change into the project's folder; `hapo init DIR` makes one, `hapo train --help` "
        "one of your own model and data",
    )
