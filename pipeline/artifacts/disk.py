"""A full disk is said in bytes, before a large write where the size is known; a limit on the size
of files too."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hapo_core.errors import HapoError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk or an exhausted quota is called."""
_FULL = ("No space left on device", "os error 28", "database or disk is full")
_TOO_LARGE = ("File too large", "os error 27")


def human_bytes(count: float) -> str:
    """12.3 MB for 12300000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def disk_full(error: BaseException, where: Path, needed: int | None = None) -> HapoError | None:
    """The HapoError for `error` if a full disk (or quota, or the limit on one file's size) caused
    it, else None.

    Libraries written in Rust or C++ report the condition only in their message, hence the text.
    """
    text, number = str(error), getattr(error, "errno", None)
    if number == errno.EFBIG or any(said in text for said in _TOO_LARGE) or _stopped_sqlite(text):
        return _too_large(where)
    if number not in FULL and not any(said in text for said in _FULL):
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


def _stopped_sqlite(text: str) -> bool:
    """SQLite has one word for a write that the size limit stops and for a disk that is damaged."""
    return "disk I/O error" in text and _largest_file() is not None


def _largest_file() -> int | None:
    """`ulimit -f` of this process, in bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _too_large(where: Path) -> HapoError:
    limit = _largest_file()
    least = "the largest that the file system takes"
    if limit is not None:
        least = f"{human_bytes(limit)}, the limit of this process (`ulimit -f`)"
    return HapoError(
        f"a file may not grow as large as it has to: it has reached {least}. What was finished is "
        "whole; the same command continues there",
        where=str(where),
        remedy="`ulimit -f unlimited`, or another file system; then run the same command again",
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


def folder_bytes(folder: Path) -> int:
    """Bytes on disk of all files below a folder, unwritten blocks of a sparse file included."""
    facts = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(max(f.st_size, f.st_blocks * 512) for f in facts)
