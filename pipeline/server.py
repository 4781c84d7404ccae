"""The local Prefect server of a project: loopback only, its own home, port, log and record."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hapo_core.errors import HapoError
from pipeline.observe import answers
from pipeline.process import alive, stop_group_of
from pipeline.store import atomic_write_json

HOME = Path(".hapo/prefect")
HOST = "127.0.0.1"
DEFAULT_PORT = 4200
PORT = "HAPO_SERVER_PORT"
"""Environment variable: the port that is tried first; 0 means any free one."""
_START_SECONDS = 90.0


@dataclass(frozen=True)
class Server:
    """A Prefect server: its address, and its process where it is one of ours."""

    url: str
    pid: int | None = None

    @property
    def api(self) -> str:
        return self.url + "/api"


def find(root: Path = Path()) -> Server | None:
    """The server that a run in `root` would use: the project's own, else one at the usual port."""
    own = _recorded(root)
    if own is not None and own.pid is not None and alive(own.pid) and answers(own.api):
        return own
    usual = Server(f"http://{HOST}:{_first_port()}")
    return usual if _is_prefect(usual) else None


def ensure(root: Path = Path()) -> Server:
    """`find`, or `start`."""
    return find(root) or start(root)


def start(root: Path = Path(), port: int | None = None) -> Server:
    """Start the project's server and wait until it is healthy; it outlives this process.

    Args:
        root: the project.
        port: to listen on; by default 4200 (HAPO_SERVER_PORT), or a free one if that is taken.

    Raises:
        HapoError: the given port is taken, or the server ended or did not become healthy.
    """
    home = (root / HOME).absolute()
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home / "start.lock"):
        running = _recorded(root)
        if running is not None and running.pid is not None and alive(running.pid):
            if answers(running.api, timeout=5.0):
                return running
            stop(root)
        port = _choose_port(port)
        log = home / "server.log"
        process = _launch(home, port, log)
        server = Server(f"http://{HOST}:{port}", process.pid)
        try:
            _wait_healthy(process, server, log)
        except BaseException:
            stop_group_of(process.pid)
            raise
        atomic_write_json(home / "server.json", asdict(server))
        return server


def stop(root: Path = Path()) -> bool:
    """Stop the project's own server; False if there is none."""
    record = root / HOME / "server.json"
    own = _recorded(root)
    running = own is not None and own.pid is not None and _is_ours(own.pid)
    if running and own is not None and own.pid is not None:
        stop_group_of(own.pid)
    record.unlink(missing_ok=True)
    return running


# --- parts --------------------------------------------------------------------------------------


def _recorded(root: Path) -> Server | None:
    try:
        record = json.loads((root / HOME / "server.json").read_text(encoding="utf-8"))
        return Server(url=str(record["url"]), pid=int(record["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_ours(pid: int) -> bool:
    """Whether the process is a Prefect server: a recorded id may belong to another one today."""
    if not alive(pid):
        return False
    try:
        return b"prefect" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return sys.platform != "linux"


def _is_prefect(server: Server) -> bool:
    """Whether Prefect 3 answers there, and not some other program with a /api/health."""
    if not answers(server.api):
        return False
    try:
        with urllib.request.urlopen(server.api + "/admin/version", timeout=2.0) as reply:
            return bool(str(json.loads(reply.read(200))).startswith("3."))
    except (OSError, ValueError):
        return False


def _first_port() -> int:
    return int(os.environ.get(PORT, DEFAULT_PORT))


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
        except OSError:
            return False
    return True


def server_environment(home: Path, port: int) -> dict[str, str]:
    """The environment of a server process: nothing of a client's, nothing sent anywhere."""
    dropped = ("PREFECT__", "PREFECT_API_", "PREFECT_PROFILE", "PREFECT_UI_", "HAPO_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    env.update(
        PREFECT_HOME=str(home),
        PREFECT_SERVER_API_HOST=HOST,
        PREFECT_SERVER_API_PORT=str(port),
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
    )
    return env


def _launch(home: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect", "server", "start"]
    command += ["--host", HOST, "--port", str(port)]
    with log.open("ab") as sink:
        return subprocess.Popen(
            command,
            cwd=home,  # Prefect reads settings files of its working directory
            env=server_environment(home, port),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_healthy(process: subprocess.Popen[bytes], server: Server, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if answers(server.api):
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
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- the command --------------------------------------------------------------------------------


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo server start|stop|status`."""
    parser = subparsers.add_parser("server", help="start, stop or show the local Prefect server")
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser("start", help="start it (loopback only)")
    starting.add_argument("--port", type=int, default=None)
    actions.add_parser("stop", help="stop the project's own server")
    actions.add_parser("status", help="its address, process, home and log")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    if options.action == "start":
        server = start(port=options.port)
        print(f"Prefect {server.url}  (process {server.pid}, log {HOME / 'server.log'})")
        return 0
    if options.action == "stop":
        print("stopped" if stop() else "no server of this project runs")
        return 0
    found = find()
    if found is None:
        print("no server runs")
        return 1
    whose = f"process {found.pid}, home {HOME}" if found.pid else "not of this project"
    print(f"Prefect {found.url}  ({whose})")
    return 0
