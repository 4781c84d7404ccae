"""Seals on unfinished work: hashes beside files that a later attempt will take up again.

An artifact has its manifest; work in the scratch folder has none until it is published. A byte
that changes there between a kill and the next attempt would be published, hashed as good and
restored by every `dvc checkout`. So every file that is taken up again is sealed when it is
written, compared when it is taken up, and compared once more before it is published. What is
damaged is made again: the draws are counter-based, so it gets the same bytes. A seal names its own
place, which holds the hash of the inputs: one that was copied from another run is none here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from hapo_core.errors import DataError
from pipeline.artifacts.files import (
    atomic_write_json,
    read_json,
    remove,
    sha256_file,
    unfinished,
)
from pipeline.artifacts.manifest import check_manifest, write_manifest
from pipeline.artifacts.tables import Row, read_table, write_table

Tell = Callable[[str], None]
OF = "of"
"""Of which unfinished work a resume point is, or a seal, with its place in there."""


def write_seal(seal: Path, files: Iterable[Path], root: Path) -> None:
    """Write size and sha256 of `files` (below `root`) to the JSON file `seal`, whole or not."""
    entries = {
        path.relative_to(root).as_posix(): {
            "sha256": sha256_file(path, sync=True),
            "bytes": path.stat().st_size,
        }
        for path in files
    }
    seal.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(seal, {OF: _place(seal), "files": entries})


def _place(path: Path) -> str:
    """`train@1-HASH/rounds/NAME`; the name alone outside of unfinished work."""
    folder = unfinished(path)
    return path.name if folder is None else str(path.absolute().relative_to(folder.parent))


def _home(folder: Path) -> str:
    found = unfinished(folder / "any")
    return "" if found is None else found.name


def write_resume_point(
    folder: Path, kind: str, facts: Mapping[str, object], names: Iterable[str] | None = None
) -> None:
    """`write_manifest` of a resume point, which names the work that it is of."""
    write_manifest(folder, kind, {**facts, OF: _home(folder)}, names)


def broken(seal: Path, root: Path, files: Iterable[Path]) -> str | None:
    """What is wrong with the sealed `files`, naming the first; None where all are as they were."""
    if not seal.is_file():
        return f"{seal} is missing"
    try:
        found = read_json(seal)
        entries, of = found["files"], str(found[OF])
        expected = [(str(n), int(e["bytes"]), str(e["sha256"])) for n, e in entries.items()]
    except (DataError, AttributeError, KeyError, TypeError, ValueError):
        return f"{seal} is damaged"
    if of != _place(seal):
        return f"{seal} was written for {of}"
    if {name for name, _, _ in expected} != {p.relative_to(root).as_posix() for p in files}:
        return f"{seal} seals other files"
    for name, size, digest in expected:
        path = root / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size or sha256_file(path) != digest:
            return f"{path} has changed since it was written"
    return None


def sealed_part(
    path: Path,
    schema: pa.Schema,
    make: Callable[[], Sequence[Row]],
    tell: Tell,
    unchanged: Callable[[Tell], None] = lambda tell: None,
) -> tuple[pa.Table, bool]:
    """A table of finished work: read where it is whole, made (again) otherwise.

    Args:
        unchanged: asked after it is made and before it is kept; raises where it must not be.

    Returns:
        The table, and whether it was there.
    """
    seal = path.with_suffix(".seal.json")
    if path.is_file():
        problem = broken(seal, path.parent, [path])
        if problem is None:
            return read_table(path, schema), True
        tell(f"{problem}: this part is made again")
    seal.unlink(missing_ok=True)
    rows = make()
    unchanged(tell)
    write_table(rows, schema, path)
    write_seal(seal, [path], path.parent)
    return read_table(path, schema), False


def newest_whole(
    root: Path, pattern: str, kind: str, tell: Tell, wanted: Callable[[Path], str | None]
) -> Path | None:
    """The newest resume point below `root` that is whole; damaged and newer ones are removed.

    Args:
        pattern: of the resume points' folders; their names sort by age.
        kind: of their manifests.
        wanted: what else is wrong with a resume point, or None.
    """
    for leftover in root.glob(".*.partial"):
        shutil.rmtree(leftover)
    for folder in sorted(root.glob(pattern), reverse=True):
        try:
            of = check_manifest(folder, kind)["facts"].get(OF, "")
        except DataError as error:
            problem: str | None = f"{error.where}: {error.what}"
        else:
            problem = wanted(folder) if of == _home(root) else f"it is of {of or 'other work'}"
        if problem is None:
            return folder
        tell(f"the resume point {folder.name} is not used ({problem}); going back to an older one")
        remove(folder)
    return None


def drop_oldest(root: Path, pattern: str, keep: int) -> None:
    """Remove all resume points but the newest `keep`."""
    for folder in sorted(root.glob(pattern))[:-keep]:
        shutil.rmtree(folder)
