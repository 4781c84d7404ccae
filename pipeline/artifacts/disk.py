"""A full disk is said in bytes, before a large write where the size is known."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hapo_core.errors import HapoError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk or an exhausted quota is called."""


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
    if not by_text and getattr(error, "errno", None) not in FULL:
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


def folder_bytes(folder: Path) -> int:
    """Bytes on disk of all files below a folder, unwritten blocks of a sparse file included."""
    facts = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(max(f.st_size, f.st_blocks * 512) for f in facts)
