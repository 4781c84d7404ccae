"""The local Prefect server of a project: loopback only, its own home, port, password and log."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from pipeline.flows.health import answers, without_proxy
from pipeline.flows.observer import warn
from pipeline.flows.server_home import (
    HOME,
    PREFECT_SERVER,
    SERVER_AUTH,
    Server,
    forget_failure,
    is_own,
    known_failure,
    make_password,
    make_private,
    open_log,
    recorded,
    remember_failure,
    set_damaged_aside,
    write_record,
)
from pipeline.system.processes import stop_group_of

HOST = "127.0.0.1"
DEFAULT_PORT = 4200
PORT = "HAPO_SERVER_PORT"
"""Environment variable: the port that is tried first; 0 means any free one."""
KEEP_DAYS = 30
"""The server forgets runs that ended longer ago, and events after a tenth of that."""
_START_SECONDS = 180.0
_DAY = 86400


def find(root: Path = Path()) -> Server | None:
    """The project's own server, if it runs and answers. No other one is ever taken for it."""
    own = recorded(root)
    if own is not None and is_own(own, root) and answers(own.api):
        return own
    return None


def ensure(root: Path = Path()) -> Server:
    """`find`, or `start`; a server that failed to start is not tried again and again.

    Raises:
        HapoError: it does not start, now or when it was tried last.
    """
    running = find(root)
    if running is not None:
        return running
    failed = known_failure(root)
    if failed is not None:
        raise HapoError(
            f"the Prefect server did not start last time: {failed}",
            where=str(root / HOME / "server.log"),
            remedy="mend it, then `hapo server start` tries again; what Prefect knew may go: "
            f"`rm -r {HOME}` (no result lies there)",
        )
    return start(root)


def start(root: Path = Path(), port: int | None = None) -> Server:
    """Start the project's server and wait until it is healthy; it outlives this process.

    Args:
        root: the project.
        port: to listen on; by default 4200 (HAPO_SERVER_PORT), or a free one if that is taken.

    Raises:
        HapoError: the given port is taken, or the server ended or did not become healthy.
    """
    home = make_private(root)
    with _lock(home / "start.lock"):
        running = recorded(root)
        if running is not None and is_own(running, root) and answers(running.api, timeout=5.0):
            return running
        stop(root)
        auth = make_password(root)
        port = _choose_port(port)
        try:
            server = _start_once(home, port, auth)
        except HapoError as error:
            aside = set_damaged_aside(home)
            if aside is None:
                remember_failure(root, error)
                raise
            warn(f"Prefect's database was damaged; it lies at {aside}, and a new one begins")
            server = _start_once(home, port, auth)
        forget_failure(root)
        return server


def stop(root: Path = Path()) -> bool:
    """Stop the project's own server; False if there is none."""
    own = recorded(root)
    running = own is not None and is_own(own, root, any_password=True)
    if running and own is not None and own.pid is not None:
        stop_group_of(own.pid)
    (root / HOME / "server.json").unlink(missing_ok=True)
    return running


# --- the port -----------------------------------------------------------------------------------


def _first_port() -> int:
    text = os.environ.get(PORT, str(DEFAULT_PORT))
    if not text.isdigit() or int(text) > 65535:
        raise ConfigError(f"{text!r} is no port", where=PORT, remedy="0 to 65535; 0: any free one")
    return int(text)


def _choose_port(wanted: int | None) -> int:
    if wanted is not None:
        if not _free(wanted):
            raise HapoError(
                f"port {wanted} is taken",
                where=f"{HOST}:{wanted}",
                remedy="name another port, or none: then a free one is chosen",
            )
        return wanted
    first = _first_port()
    if first != 0 and _free(first):
        return first
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


# --- the process --------------------------------------------------------------------------------


def server_environment(home: Path, port: int, auth: str) -> dict[str, str]:
    """The environment of a server process: nothing of a client's, nothing sent anywhere.

    Only its own pages may call it, and only with the password. It forgets by itself: its
    database would grow by 0.1 MB a round for ever.
    """
    dropped = (
        "PREFECT__", "PREFECT_API_", "PREFECT_PROFILE", "PREFECT_UI_", "PREFECT_CLIENT_",
        "PREFECT_SERVER_API_", "PREFECT_SERVER_CORS_", "PREFECT_SERVER_UI_", "HAPO_",
    )  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    env.update(without_proxy(env))
    env.update(
        PREFECT_HOME=str(home),
        PREFECT_SERVER_API_HOST=HOST,
        PREFECT_SERVER_API_PORT=str(port),
        PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS=f"http://{HOST}:{port},http://localhost:{port}",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
    )
    env[SERVER_AUTH] = auth
    forgets = {
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(KEEP_DAYS * _DAY),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{KEEP_DAYS // 10}D",
    }
    return forgets | env


def _start_once(home: Path, port: int, auth: str) -> Server:
    process = _launch(home, port, auth)
    server = Server(f"http://{HOST}:{port}", process.pid, auth)
    # At once, so that it is found and stopped where this process is killed while it waits: a second
    # server would work on the same database.
    write_record(home.parents[1], server)
    try:
        _wait_healthy(process, server, home)
    except BaseException:
        stop_group_of(process.pid)
        raise
    return server


def _launch(home: Path, port: int, auth: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", *PREFECT_SERVER]
    command += ["--host", HOST, "--port", str(port)]
    with os.fdopen(open_log(home), "ab") as sink:
        return subprocess.Popen(
            command,
            cwd=home,  # Prefect reads settings files of its working directory
            env=server_environment(home, port, auth),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )


def _wait_healthy(process: subprocess.Popen[bytes], server: Server, home: Path) -> None:
    end, log = time.monotonic() + _START_SECONDS, home / "server.log"
    while time.monotonic() < end:
        if answers(server.api) and is_own(server, home.parents[1]):
            return
        if process.poll() is not None:
            raise HapoError(
                f"the Prefect server ended with status {process.returncode}:\n{_tail(log)}",
                where=str(log),
                remedy="read the log; `hapo run --no-server` works without Prefect",
            )
        time.sleep(0.1)
    raise HapoError(
        f"the Prefect server did not answer within {_START_SECONDS:.0f} s",
        where=str(log),
        remedy="read the log; `hapo run --no-server` works without Prefect",
    )


def _tail(log: Path, lines: int = 8) -> str:
    with suppress(OSError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return ""


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
