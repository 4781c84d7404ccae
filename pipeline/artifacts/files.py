"""Files that are whole or absent: written aside, synced, renamed, the folder synced."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hapo_core.errors import DataError
from hapo_core.json_text import parse_json
from hapo_core.umask import umask
from pipeline.artifacts.disk import guard_disk

_CHUNK = 1 << 20


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
            aside.chmod(0o666 & ~umask())
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


def read_text(path: Path) -> str:
    """UTF-8 of a plain file. What else may lie in its place is an error at once: a pipe would keep
    a reader waiting for ever, and a device may have no end.

    Raises:
        OSError: it cannot be read, or is no plain file (ENXIO).
        UnicodeDecodeError: it is no UTF-8.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.ENXIO, "no plain file", str(path))
        with os.fdopen(handle, encoding="utf-8", closefd=False) as source:
            return source.read()
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        DataError: missing, no plain file or not JSON.
    """
    try:
        return parse_json(read_text(path))
    except OSError as error:
        lost = error.errno in (errno.ENOENT, errno.ENOTDIR) and not path.is_symlink()
        if not lost and error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise  # this user may not, or the disk fails
        what = "is missing" if lost else "is no plain file"
        raise DataError(f"the file {what}", where=str(path), remedy=mend_of(path)) from error
    except ValueError as error:
        raise DataError(
            f"not valid JSON: {error}",
            where=str(path),
            remedy=mend_of(path),
        ) from error


def mend_of(path: Path) -> str:
    """What to do about a damaged file: DVC knows artifacts, and nothing of unfinished work."""
    folder = unfinished(path)
    if folder is not None:
        return f"delete {folder} and run the same command: this stage starts anew"
    return "delete it and run `dvc checkout`; without a cached copy, `dvc repro`"


def unfinished(path: Path) -> Path | None:
    """The folder of unfinished work (`train@1-HASH`) that holds `path`; None outside of one."""
    for folder in path.absolute().parents:
        above = folder.parent
        scratch = above.name == "scratch" and above.parent.name == ".hapo"
        if scratch or (above.name.startswith(".") and above.name.endswith(".unfinished")):
            return folder
    return None


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path, *, sync: bool = False) -> str:
    """Hex sha256 of a file's content; `sync` also makes the content durable."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
        if sync:
            os.fsync(source.fileno())
    return digest.hexdigest()


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
