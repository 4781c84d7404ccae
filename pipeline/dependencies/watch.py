"""The dependencies of the stage `deps` in dvc.yaml: kept in step with params.yaml."""

from __future__ import annotations

import io
from pathlib import Path

from ruamel.yaml import YAML

from pipeline.artifacts import atomic_write_text
from pipeline.config import Params
from pipeline.dependencies.closure import PACKAGES, code_root
from pipeline.dependencies.lock import FOLDER, watched

STAGE = "deps"
INSTALLED = FOLDER / "installed"
"""Links to the packages where they are installed: DVC overlooks what lies in a `.venv`."""


def keep_watch(params: Params, root: Path = Path()) -> bool:
    """List in dvc.yaml what the stage `deps` depends on; whether the file changed."""
    place = root / "dvc.yaml"
    if not place.is_file():
        return False
    yaml = YAML()
    yaml.width = 200
    graph = yaml.load(place.read_text(encoding="utf-8"))
    stage = (graph.get("stages") or {}).get(STAGE)
    if stage is None:
        return False
    wanted = ["params.yaml", *_code(root), *(p.as_posix() for p in watched(params, root))]
    wanted += ["data"] if (root / "data").is_dir() else []
    if sorted(map(str, stage["deps"])) == sorted(wanted):
        return False
    stage["deps"] = sorted(wanted)
    sink = io.StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(graph, sink)
    atomic_write_text(place, sink.getvalue())
    return True


def _code(root: Path) -> list[str]:
    code = code_root(root)
    if code == root:
        return list(PACKAGES)
    for package in PACKAGES:
        link, target = root / INSTALLED / package, str(code / package)
        if not link.is_symlink() or str(link.readlink()) != target:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return [(INSTALLED / package).as_posix() for package in PACKAGES]
