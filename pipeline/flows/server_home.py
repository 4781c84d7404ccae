"""The home of a project's Prefect server: its password, its record, and whether it is ours.

A server is trusted only where its process runs as this user with this home and this password.
"Something answers at that port" says nothing: another user's program may, or another project's.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from hapo_core.errors import HapoError
from hapo_core.json_text import parse_json
from pipeline.artifacts import atomic_write_json, read_text
from pipeline.system.processes import alive

HOME = Path(".hapo/prefect")
DATABASE = "prefect.db"
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
PREFECT_SERVER = ("prefect", "server", "start")
"""What `python -m` runs as a server."""
_USER = "hapo"
_FAILED = "failed.json"
_LOG_BYTES = 5_000_000
"""A longer log is put aside when the server starts; one older log is kept."""


@dataclass(frozen=True)
class Server:
    """A Prefect server: its address, its process, and `user:password` that it asks for."""

    url: str
    pid: int | None = None
    auth: str | None = field(default=None, repr=False)

    @property
    def api(self) -> str:
        return self.url + "/api"

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


def make_private(root: Path) -> Path:
    """The home folder, absolute, which only this user can enter; so are files from before."""
    home = (root / HOME).absolute()
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    for path in home.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)
    return home


def password(root: Path) -> str | None:
    """`user:password` of the project's server; None before there is one."""
    try:
        return _private_text(root / HOME / "password")
    except OSError:
        return None


def make_password(root: Path) -> str:
    """The password, made where there is none, and anew where others could have read it."""
    path = root / HOME / "password"
    known = password(root)
    if known:
        return known
    path.unlink(missing_ok=True)
    auth = f"{_USER}:{secrets.token_urlsafe(24)}"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "w") as sink:
        sink.write(auth + "\n")
    return auth


def _private_text(path: Path) -> str | None:
    """The file's text, if it is this user's and nobody else's."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as source:
        found = os.fstat(source.fileno())
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            return None
        return source.read(200).strip() or None


# --- the record ---------------------------------------------------------------------------------


def write_record(root: Path, server: Server) -> None:
    """Note the server that was started; never its password."""
    path = root / HOME / "server.json"
    atomic_write_json(path, {"url": server.url, "pid": server.pid})
    path.chmod(0o600)


def recorded(root: Path) -> Server | None:
    """The server that was started last, if it is well recorded; it may be gone."""
    try:
        record = parse_json(read_text(root / HOME / "server.json"))
        server = Server(url=str(record["url"]), pid=int(record["pid"]), auth=password(root))
        return server if server.port else None
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def is_own(server: Server, root: Path, *, any_password: bool = False) -> bool:
    """Whether the process lives, is this user's Prefect server of this home, and listens.

    A recorded id may belong to another process today, and a copied project brings the record of
    the project it was copied from. `any_password` is for stopping one of an earlier version.
    """
    if server.pid is None or not alive(server.pid):
        return False
    if sys.platform != "linux":  # no other proof here than the password itself
        return server.auth is not None or any_password
    environment = _environment_of(server.pid)
    if environment.get("PREFECT_HOME") != str((root / HOME).absolute()):
        return False
    if any_password:
        return True
    has_it = server.auth is not None and environment.get(SERVER_AUTH) == server.auth
    return has_it and _listener(server.port) in (None, os.getuid())


def is_server(pid: int) -> bool:
    """Whether the process was started as a Prefect server, of whatever project."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:5] == [b"-m", *(word.encode() for word in PREFECT_SERVER)]


def _environment_of(pid: int) -> dict[str, str]:
    """What the process was started with; empty where it is another user's."""
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
            return {}
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in text.split("\0") if "=" in entry)


def _listener(port: int) -> int | None:
    """The user whose socket listens at 127.0.0.1:PORT; None where nobody's does."""
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if words[3] == "0A" and words[1] in (f"0100007F:{port:04X}", f"00000000:{port:04X}"):
            return int(words[7])
    return None


# --- what may have gone wrong -------------------------------------------------------------------


def remember_failure(root: Path, error: HapoError) -> None:
    """So that later runs do not wait again for a server that does not start."""
    path = root / HOME / _FAILED
    atomic_write_json(path, {"what": error.what, "database": _stamp(root)})
    path.chmod(0o600)


def forget_failure(root: Path) -> None:
    """It has started."""
    (root / HOME / _FAILED).unlink(missing_ok=True)


def known_failure(root: Path) -> str | None:
    """Why the server did not start last time, while its database is the same."""
    try:
        failed = parse_json(read_text(root / HOME / _FAILED))
        return str(failed["what"]) if failed["database"] == _stamp(root) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stamp(root: Path) -> list[int] | None:
    try:
        found = (root / HOME / DATABASE).stat()
        return [found.st_size, found.st_ino]
    except OSError:
        return None


def set_damaged_aside(home: Path) -> Path | None:
    """Move a database that SQLite cannot read out of the way; the new name, None if it is whole.

    It holds what Prefect showed, and no result of ours.
    """
    database = home / DATABASE
    if not database.exists() or _is_whole(database):
        return None
    names = (home / f"prefect.damaged-{n}.db" for n in range(1, 1000))
    aside = next(name for name in names if not name.exists())
    database.rename(aside)
    for suffix in ("-wal", "-shm", "-journal"):  # they belong to the old file
        (home / (DATABASE + suffix)).unlink(missing_ok=True)
    return aside


def _is_whole(database: Path) -> bool:
    try:
        with closing(sqlite3.connect(database, timeout=5.0)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:  # locked, or no space: not damage
        return True
    except sqlite3.DatabaseError:
        return False


def open_log(home: Path) -> int:
    """A descriptor that appends to the server's log; a long one is put aside first."""
    log = home / "server.log"
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(home / "server.log.1")
    return os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
