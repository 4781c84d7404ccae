"""Files that are whole or absent: atomic writes, manifests, scratch folders, timings.

The order is always the same: write aside, fsync, rename, fsync the folder. A folder's
`manifest.json` is written last, so a folder with a manifest is complete, and a folder without one
never was.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hapo_core.errors import DataError, HapoError

MANIFEST = "manifest.json"
TIMINGS = Path("artifacts/timings")
SCRATCH = Path(".hapo/scratch")
PUBLISHED = "published"
"""Marks a scratch folder whose work is in its artifact."""
THINNED = "thinned"
"""Fact of a manifest: the parts that `hapo clean` took out of the folder."""
WHOLE = "whole"
"""Fact of such a manifest: `identity` of the folder before."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHUNK = 1 << 20


# --- a full disk --------------------------------------------------------------------------------


def human_bytes(count: float) -> str:
    """12.3 MB for 12300000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def disk_full(error: BaseException, where: Path, needed: int | None = None) -> HapoError | None:
    """The HapoError for `error` if a full disk (or quota) caused it, else None.

    Libraries written in Rust or C++ report the condition only in their message, hence the text.
    """
    text = str(error)
    by_text = "No space left on device" in text or "os error 28" in text
    if not by_text and getattr(error, "errno", None) not in _FULL:
        return None
    place = _existing(where)
    free = shutil.disk_usage(place).free
    if needed is None:
        lack = f"{human_bytes(free)} are free"
    else:
        missing = max(needed - free, 1)
        lack = (
            f"{human_bytes(needed)} are needed, {human_bytes(free)} are free, "
            f"at least {human_bytes(missing)} are missing"
        )
    return HapoError(
        f"the disk is full: {lack}. What was finished is whole; the same command continues there",
        where=str(where),
        remedy="free space on that disk, then run the same command again",
    )


@contextmanager
def guard_disk(where: Path, needed: int | None = None) -> Iterator[None]:
    """Turn a full disk inside the block into a HapoError that names the missing bytes.

    Raises:
        HapoError: instead of the OSError (or a library's own error) for a full disk.
    """
    try:
        yield
    except HapoError:
        raise
    except Exception as error:  # only looked at: everything but a full disk passes unchanged
        full = disk_full(error, where, needed)
        if full is None:
            raise
        raise full from error


def require_space(where: Path, needed: int) -> None:
    """Refuse before a large write starts.

    Raises:
        HapoError: fewer than `needed` bytes are free on the disk of `where`.
    """
    if shutil.disk_usage(_existing(where)).free < needed:
        full = disk_full(OSError(errno.ENOSPC, "checked before writing"), where, needed)
        assert full is not None
        raise full


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


# --- atomic files -------------------------------------------------------------------------------


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all, durable on return.

    Raises:
        HapoError: the disk is full; the old content is untouched.
    """
    path = Path(path)
    with guard_disk(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        aside = Path(name)
        try:
            with os.fdopen(handle, "wb") as sink:
                sink.write(data)
                sink.flush()
                os.fsync(sink.fileno())
            aside.chmod(0o666 & ~_umask())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
        fsync_folder(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` of UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, obj: object) -> None:
    """Canonical JSON: sorted keys, indent 2, trailing newline, no NaN.

    Raises:
        ValueError: `obj` holds NaN or infinity (not JSON; write None).
    """
    text = json.dumps(obj, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DataError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            "the file is missing", where=str(path), remedy="`dvc checkout`, or `dvc repro`"
        ) from error
    except ValueError as error:
        raise DataError(
            f"not valid JSON: {error}",
            where=str(path),
            remedy="delete it and run `dvc checkout`; without a cached copy, `dvc repro`",
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


# --- manifests ----------------------------------------------------------------------------------


def sha256_file(path: Path, *, sync: bool = False) -> str:
    """Hex sha256 of a file's content; `sync` also makes the content durable."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
        if sync:
            os.fsync(source.fileno())
    return digest.hexdigest()


def _content(folder: Path) -> list[Path]:
    """All files below `folder` but its manifest, sorted by name."""
    files = (p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return sorted(files, key=lambda p: p.relative_to(folder).as_posix())


def write_manifest(folder: Path, kind: str, facts: Mapping[str, object]) -> dict[str, Any]:
    """Hash, sync and list every file of `folder`; writes `manifest.json` last and returns it.

    Args:
        folder: a finished artifact (subfolders included).
        kind: what the folder is (`data`, `policy`, `segment`, `evaluation`, ...).
        facts: reproducible facts only (no times, no host names), so that equal inputs give equal
            bytes.
    """
    with guard_disk(folder):
        files = {
            path.relative_to(folder).as_posix(): {
                "sha256": sha256_file(path, sync=True),
                "bytes": path.stat().st_size,
            }
            for path in _content(folder)
        }
        for inner in {path.parent for path in _content(folder)}:
            fsync_folder(inner)
    manifest: dict[str, Any] = {"kind": kind, "facts": dict(facts), "files": files}
    atomic_write_json(folder / MANIFEST, manifest)
    return manifest


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
    manifest = folder / MANIFEST
    if manifest.is_file() and part in read_json(manifest)["facts"].get(THINNED, []):
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
    manifest = read_json(folder / MANIFEST)
    whole = manifest["facts"].get(WHOLE)
    return str(whole) if whole is not None else sha256_file(folder / MANIFEST)


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
    mend = f"delete {folder} and run `dvc checkout {folder}`; without a cached copy, `dvc repro`; "
    mend += "if the damage comes back, `hapo clean --damaged` first"
    if not (folder / MANIFEST).is_file():
        what = "the artifact is missing" if not folder.exists() else "the artifact is unfinished"
        raise DataError(f"{what} (no {MANIFEST})", where=str(folder), remedy=mend)
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError("not a manifest", where=str(folder / MANIFEST), remedy=mend)
    if kind is not None and manifest.get("kind") != kind:
        raise DataError(
            f"the artifact is of kind {manifest.get('kind')!r}, not {kind!r}",
            where=str(folder),
            remedy="name another folder, or `dvc repro` its stage",
        )
    listed: dict[str, Any] = manifest["files"]
    found = {path.relative_to(folder).as_posix(): path for path in _content(folder)}
    for name in sorted(set(listed) | set(found)):
        hashed = not tables_only or name.endswith((".parquet", ".json"))
        problem = _difference(found.get(name), listed.get(name), hashed)
        if problem:
            raise DataError(problem, where=str(folder / name), remedy=mend)
    return manifest


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


# --- scratch ------------------------------------------------------------------------------------


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
    return [dep / MANIFEST] if (dep / MANIFEST).is_file() else _content(dep)


def _plain(value: object) -> object:
    """JSON for pydantic sections; everything else is an error."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} has no canonical JSON")
    return dump(mode="json")


class Scratch:
    """Unfinished work of a stage: `root/<stage>-<hash>/`, found again after a kill.

    Args:
        stage: the DVC stage's name (`train@2`).
        inputs_hash: of `inputs_hash`; other inputs get another folder.
        root: ignored by git and DVC.
    """

    def __init__(self, stage: str, inputs_hash: str, root: Path = SCRATCH) -> None:
        self.stage = stage
        self.root = root
        self.path = root / f"{stage}-{inputs_hash[:16]}"
        with guard_disk(root):
            self.path.mkdir(parents=True, exist_ok=True)

    def publish(self, target: Path, part: str | None = None) -> None:
        """Move the folder (or its subfolder `part`) to `target`, replacing what is there.

        The target is complete or absent at every moment. On one file system this is a rename;
        across two, a synced copy beside the target, then a rename.

        Raises:
            HapoError: the disk of the target is full; the scratch folder is untouched.
        """
        source = self.path / part if part else self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_folder(source)
        aside = target.with_name(f".{target.name}.partial")
        remove(aside)
        if source.stat().st_dev == target.parent.stat().st_dev:
            ready = source
        else:
            with guard_disk(target, needed=folder_bytes(source)):
                try:
                    _copy_synced(source, aside)
                except BaseException:
                    remove(aside)
                    raise
            ready = aside
        remove(target)
        ready.replace(target)
        fsync_folder(target.parent)
        remove(source)

    def publish_copy(self, target: Path, part: str) -> None:
        """Like `publish`, but the work stays here until a later stage calls `settle`.

        DVC records a stage only after it has ended. A kill between the two makes DVC delete the
        outputs and run the stage again, which then finds its finished work here. The copy is made
        of hard links where the file system allows; neither side is ever written in place.
        """
        source = self.path / part
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.partial")
        remove(aside)
        with guard_disk(target):
            try:
                shutil.copytree(source, aside, copy_function=_link_or_copy)
            except BaseException:
                remove(aside)
                raise
        remove(target)
        aside.replace(target)
        fsync_folder(target.parent)
        atomic_write_text(self.path / PUBLISHED, f"{target}\n")

    @staticmethod
    def settle(stage: str, root: Path = SCRATCH) -> None:
        """Remove the published work of all stages but `stage`: that another stage has started
        means that DVC has recorded them."""
        for mark in root.glob(f"*/{PUBLISHED}"):
            if mark.parent.name.rsplit("-", 1)[0] != stage:
                remove(mark.parent)

    def discard_others(self) -> None:
        """Remove the folders of this stage that belong to other inputs."""
        for folder in self.root.glob("*-*"):
            if folder != self.path and folder.name.rsplit("-", 1)[0] == self.stage:
                remove(folder)

    def discard(self) -> None:
        """Remove this folder."""
        remove(self.path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Bytes on disk of all files below a folder, unwritten blocks of a sparse file included."""
    facts = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(max(f.st_size, f.st_blocks * 512) for f in facts)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _FULL:
            raise
        shutil.copy2(source, target)
        with Path(target).open("rb") as handle:
            os.fsync(handle.fileno())
    return target


def _copy_synced(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    for path in target.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            fsync_folder(path)
    fsync_folder(target)


# --- timings ------------------------------------------------------------------------------------


def record_timing(
    stage: str,
    wall_s: float,
    *,
    generated: int = 0,
    trained: int = 0,
    rows: int | None = None,
    parts: Mapping[str, float] | None = None,
    root: Path = TIMINGS,
) -> None:
    """Write `artifacts/timings/STAGE.json`; wall times live apart from reproducible artifacts.

    Args:
        wall_s: seconds of the stage, over all its attempts.
        generated: tokens sampled.
        trained: tokens that went through forward and backward.
        rows: input rows, where the stage's speed is counted in them.
        parts: seconds by name.
    """
    facts: dict[str, object] = {
        "stage": stage,
        "wall_s": round(wall_s, 3),
        "tokens": {"generated": generated, "trained": trained},
        "parts": {name: round(seconds, 3) for name, seconds in sorted((parts or {}).items())},
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if rows is not None:
        facts["rows_per_second"] = round(rows / wall_s, 1)
    atomic_write_json(root / f"{stage}.json", facts)


def read_timings(root: Path = TIMINGS) -> dict[str, dict[str, Any]]:
    """All recorded timings by stage; an empty dict where there are none."""
    return {path.stem: read_json(path) for path in sorted(root.glob("*.json"))}
