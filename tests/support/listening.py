"""At which addresses processes of this machine listen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"
"""The kernel's word for the state."""
_LOOPBACK = (
    "0100007F:",
    "00000000000000000000000001000000:",
    "0000000000000000FFFF00000100007F:",
)
"""127.0.0.1, ::1, and the first as an address of IPv6."""


def listening(pids: list[int]) -> list[str]:
    """Addresses (hexadecimal, ADDRESS:PORT) at which the processes listen."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):  # it has ended
            sockets |= {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    return [address for address, inode in _all() if f"socket:[{inode}]" in sockets]


def listening_at(port: int) -> list[str]:
    """The addresses of whoever listens at a port."""
    return [address for address, _ in _all() if address.endswith(f":{port:04X}")]


def _all() -> Iterator[tuple[str, str]]:
    """Address and inode of every socket that listens."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                yield fields[1], fields[9]


def elsewhere(addresses: list[str]) -> list[str]:
    """Those that are not the loopback interface: the network reaches them."""
    return [one for one in addresses if not one.startswith(_LOOPBACK)]


def family(pid: int) -> list[int]:
    """A process and all that it and they started."""
    found = [pid]
    for parent in found:  # it grows while it is walked
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(word) for word in task.read_text().split()]
    return found
