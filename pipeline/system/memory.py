"""How much memory the processes of a run may use: the machine's, or what their container allows."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def memory_bytes(own: Path = _OWN, groups: Path = _GROUPS) -> int:
    """Bytes of memory here. A container, a Slurm job or a systemd unit may have less than the
    machine: the kernel ends what goes beyond its limit without a word.

    Args:
        own: names this process's control groups.
        groups: where they are mounted.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(own, groups)])


def _limits(own: Path, groups: Path) -> list[int]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        if number == "0" and not kinds:  # version 2
            found += _above(groups, path, "memory.max")
        elif "memory" in kinds.split(","):
            found += _above(groups / "memory", path, "memory.limit_in_bytes")
    return found


def _above(root: Path, path: str, name: str) -> list[int]:
    """The limits of a group and of all that it lies in; in a container the path may be one of the
    host's, which is not there."""
    folder = root / path.lstrip("/")
    found = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        try:
            text = (group / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) > 0:  # else `max`
            found.append(int(text))
    return found
