"""One hash over all that decides what a stage makes: its name tells unfinished work apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.artifacts.files import sha256_file
from pipeline.artifacts.manifest import MANIFEST, content_files


def inputs_hash(params_subset: Mapping[str, object], dep_paths: Iterable[Path]) -> str:
    """Hex sha256 over canonical JSON of the parameters and the content of the dependencies.

    A folder with a manifest counts by its manifest, any other folder by all its files.

    Raises:
        DataError: a dependency is missing.
    """
    digest = hashlib.sha256()
    text = json.dumps(params_subset, sort_keys=True, ensure_ascii=False, default=_plain)
    digest.update(text.encode("utf-8"))
    for dep in dep_paths:
        for path in _hashed_files(Path(dep)):
            inside = path.relative_to(dep).as_posix() if path != dep else ""
            digest.update(f"\0{Path(dep).as_posix()}\0{inside}\0{sha256_file(path)}".encode())
    return digest.hexdigest()


def _hashed_files(dep: Path) -> list[Path]:
    if dep.is_file():
        return [dep]
    if not dep.is_dir():
        raise DataError(
            "an input of the stage is missing",
            where=str(dep),
            remedy="`dvc checkout`, or `dvc repro` the stage that writes it",
        )
    return [dep / MANIFEST] if (dep / MANIFEST).is_file() else content_files(dep)


def _plain(value: object) -> object:
    """JSON for pydantic sections; everything else is an error."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} has no canonical JSON")
    return dump(mode="json")
