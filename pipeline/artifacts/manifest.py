"""A folder's `manifest.json`: hashes of all its files, written last, checked when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hapo_core.errors import DataError
from pipeline.artifacts.disk import guard_disk
from pipeline.artifacts.files import (
    atomic_write_json,
    fsync_folder,
    mend_of,
    read_json,
    sha256_file,
)

MANIFEST = "manifest.json"
THINNED = "thinned"
"""Fact of a manifest: the parts that `hapo clean` took out of the folder."""
WHOLE = "whole"
"""Fact of such a manifest: `identity` of the folder before."""


def content_files(folder: Path) -> list[Path]:
    """All files below `folder` but its manifest, sorted by name."""
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return sorted(files, key=lambda p: p.relative_to(folder).as_posix())


def write_manifest(
    folder: Path, kind: str, facts: Mapping[str, object], names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Hash, sync and list the files of `folder`; writes `manifest.json` last and returns it.

    Args:
        folder: a finished artifact (subfolders included).
        kind: what the folder is (`data`, `policy`, `segment`, `evaluation`, ...).
        facts: reproducible facts only (no times, no host names), so that equal inputs give equal
            bytes.
        names: the files that the caller wrote there. What else lies in the folder is not listed,
            so it is not published either (`Scratch.publish`). None: all files that are there.

    Raises:
        DataError: one of `names` is missing, or is or lies behind a link.
    """
    if names is not None:
        paths = [_own_file(folder, name) for name in sorted(set(names))]
    else:
        paths = content_files(folder)
    with guard_disk(folder):
        files = {
            path.relative_to(folder).as_posix(): {
                "sha256": sha256_file(path, sync=True),
                "bytes": path.stat().st_size,
            }
            for path in paths
        }
        for inner in {path.parent for path in paths}:
            fsync_folder(inner)
    manifest: dict[str, Any] = {"kind": kind, "facts": dict(facts), "files": files}
    atomic_write_json(folder / MANIFEST, manifest)
    return manifest


def _own_file(folder: Path, name: str) -> Path:
    """`folder/name`, which must be a plain file in plain folders: a link's target is no work of
    the stage, and may change after it was hashed."""
    path = folder / name
    for step in (path, *path.parents):
        if step.is_symlink() or (step == path and not path.is_file()):
            what = "was replaced by a link" if step.is_symlink() else "is missing"
            raise DataError(
                f"a file of the unfinished artifact {what} while the stage ran",
                where=str(step),
                remedy="delete the link (nothing behind it is touched) and run the same command"
                if step.is_symlink()
                else mend_of(path),
            )
        if step == folder:
            break
    return path


def rewrite_manifest(
    folder: Path, manifest: Mapping[str, Any], without: Iterable[str], whole: str
) -> dict[str, Any]:
    """Write `manifest` into a copy of its folder that lacks the parts `without` (files or folders,
    relative); the facts name them, and the `identity` of the folder `whole`. The other entries
    stay as they are: nothing is hashed anew."""
    gone = sorted({*manifest["facts"].get(THINNED, []), *without})
    files = {
        name: entry
        for name, entry in manifest["files"].items()
        if not any(name == part or name.startswith(part + "/") for part in gone)
    }
    facts = {**manifest["facts"], THINNED: gone, WHOLE: whole}
    smaller = {**manifest, "facts": facts, "files": files}
    atomic_write_json(folder / MANIFEST, smaller)
    return smaller


def need_part(folder: Path, part: str) -> None:
    """Refuse a folder from which `hapo clean` removed a part that is needed now.

    Raises:
        DataError: naming the stage that makes it again.
    """
    found = folder / MANIFEST
    if found.is_file() and part in read_manifest(folder)["facts"].get(THINNED, []):
        raise DataError(
            f"`hapo clean` removed {part} of this segment",
            where=str(folder / part),
            remedy=f"`dvc repro -f train@{folder.name}` makes it again, and what follows from it",
        )


def identity(folder: Path) -> str:
    """Hex sha256 that names a finished artifact: of its manifest, as it was before `hapo clean`.

    Raises:
        DataError: there is no manifest.
    """
    manifest = read_manifest(folder)
    whole = manifest["facts"].get(WHOLE)
    return str(whole) if whole is not None else sha256_file(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, which has the form of one; nothing is compared with it.

    Raises:
        DataError: there is none, or it is damaged.
    """
    manifest = read_json(folder / MANIFEST)
    if not _is_manifest(manifest):
        raise DataError("not a manifest", where=str(folder / MANIFEST), remedy=_mend(folder))
    return manifest  # type: ignore[no-any-return]  # checked above


def _mend(folder: Path) -> str:
    return (
        f"delete {folder} and run `dvc checkout {folder}`; without a cached copy, `dvc repro`; "
        "if the damage comes back, `hapo clean --damaged` first"
    )


def check_manifest(
    folder: Path, kind: str | None = None, *, tables_only: bool = False
) -> dict[str, Any]:
    """Compare `folder` with its manifest, file by file, and return the manifest.

    Args:
        tables_only: hash tables and JSON; of weights only the size is compared, for a reader that
            does not load them.

    Raises:
        DataError: no manifest, another kind, or a missing, changed or extra file, by name.
    """
    mend = _mend(folder)
    if not (folder / MANIFEST).is_file():
        what = "the artifact is missing" if not folder.exists() else "the artifact is unfinished"
        raise DataError(f"{what} (no {MANIFEST})", where=str(folder), remedy=mend)
    manifest = read_manifest(folder)
    if kind is not None and manifest.get("kind") != kind:
        raise DataError(
            f"the artifact is of kind {manifest.get('kind')!r}, not {kind!r}",
            where=str(folder),
            remedy="name another folder, or `dvc repro` its stage",
        )
    listed: dict[str, Any] = manifest["files"]
    links = [path for path in folder.rglob("*") if path.is_symlink() and not path.is_file()]
    found = {p.relative_to(folder).as_posix(): p for p in (*content_files(folder), *links)}
    for name in sorted(set(listed) | set(found)):
        hashed = not tables_only or name.endswith((".parquet", ".json"))
        problem = _difference(found.get(name), listed.get(name), hashed)
        if problem:
            raise DataError(problem, where=str(folder / name), remedy=mend)
    return manifest


def _is_manifest(value: object) -> bool:
    """Whether a JSON value has the form of a manifest: a flipped bit can change a key too."""
    if not isinstance(value, dict) or not isinstance(value.get("facts"), dict):
        return False
    files = value.get("files")
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("bytes"), int)
        for entry in files.values()
    )


def _difference(path: Path | None, entry: Mapping[str, object] | None, hashed: bool) -> str | None:
    if path is None:
        return "a file of the artifact is missing"
    if entry is None:
        return "the artifact holds a file that its manifest does not list"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"the file has {size} bytes, its manifest says {entry['bytes']}"
    if hashed and sha256_file(path) != entry["sha256"]:
        return "the file's content differs from its manifest (sha256)"
    return None
