"""The stages that a run may be asked for, looked up before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hapo_core.errors import ConfigError
from pipeline.config import PARAMS
from pipeline.config.nearest import nearest
from pipeline.config.yaml import read_yaml_file
from pipeline.run.request import Request


def check_targets(request: Request, root: Path = Path()) -> None:
    """Refuse what is no stage of this project: a typing error, an option, another project's file.

    Raises:
        ConfigError: names the stage that may be meant.
    """
    forced = (request.force_stage,) if request.force_stage is not None else ()
    wanted = (*request.targets, *forced)
    if not wanted:
        return
    known = stages(root)
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"no stage {name!r}{nearest(name, known)}",
                where="hapo run",
                remedy="one of " + ", ".join(known),
            )


def stages(root: Path = Path()) -> list[str]:
    """The names in dvc.yaml; of a stage for each key, its own name and each with its key."""
    graph = read_yaml_file(root / "dvc.yaml")["stages"]
    params = read_yaml_file(root / PARAMS)
    found = []
    for name, stage in graph.items():
        found.append(str(name))
        over = stage.get("foreach", stage.get("matrix"))
        if isinstance(over, str):
            over = params.get(over.strip("${} "), {})
        found += [f"{name}@{key}" for key in _keys(over)]
    return found


def _keys(over: Any) -> list[str]:
    if isinstance(over, Mapping):
        return [str(key) for key in over]
    return [str(one) for one in over] if isinstance(over, list) else []
