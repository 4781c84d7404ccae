"""The stage graph, dvc.yaml, of a project that was made by the package: of which version it is."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from pipeline.config.shipped import shipped_text
from pipeline.config.yaml import round_trip
from pipeline.dependencies.watch import STAGE

GRAPH = "dvc.yaml"
_STAMP = re.compile(r"^# Written by hapo ([\w.+!-]+);.*\n", re.MULTILINE)


def stamped(name: str) -> str:
    """A shipped file; dvc.yaml says of which version it is."""
    text = shipped_text(name)
    if name != GRAPH:
        return text
    head = f"# Written by hapo {version('hapo')}; `hapo init . --upgrade` brings it up to date.\n"
    return head + _STAMP.sub("", text)


def behind(root: Path = Path()) -> str | None:
    """A sentence where the project's stages are those of another version than the installed one;
    None where they are not, or where the project was not made by the package (a clone)."""
    place = root / GRAPH
    text = place.read_text(encoding="utf-8") if place.is_file() else ""
    made, here = _STAMP.search(text), version("hapo")
    if made is None or made[1] == here or plain(GRAPH, text) == plain(GRAPH, stamped(GRAPH)):
        return None
    return (
        f"dvc.yaml was written by hapo {made[1]}, and {here} is installed: "
        "`hapo init . --upgrade` takes its stages; `hapo status` says what would run again"
    )


def plain(name: str, text: str) -> object:
    """What counts of a file: of dvc.yaml no comment, and not the list that `hapo run` keeps."""
    if name != GRAPH:
        return text
    graph = round_trip().load(text)
    stages = {k: dict(v) for k, v in graph["stages"].items()}
    stages.get(STAGE, {}).pop("deps", None)
    return {**{k: v for k, v in graph.items() if k != "stages"}, "stages": stages}
