"""The little HTTP that a vLLM server needs: JSON over kept connections, from several threads."""

from __future__ import annotations

import errno
import http.client
import json
import resource
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hapo_core.errors import ConfigError, HapoError


class ServerGone(Exception):
    """The server does not answer, or its engine is dead: the work can be done elsewhere."""


_SPARE = 128
"""Descriptors that are left to everything else: tables, logs, grading processes."""


def room_for(connections: int) -> int:
    """How many connections this process can hold open, at most `connections`; its own limit of
    descriptors is raised as far as the system allows.

    Raises:
        HapoError: there is room for none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        held = len(list(Path("/proc/self/fd").iterdir())) + _SPARE
    except OSError as error:  # even this takes one
        raise _no_descriptors() from error
    unlimited = resource.RLIM_INFINITY
    wanted = held + connections
    if soft != unlimited and soft < wanted:
        raised = wanted if hard == unlimited else min(wanted, hard)
        if raised > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    room = connections if soft == unlimited else min(connections, soft - held)
    if room < 1:
        raise _no_descriptors()
    return room


class NoDescriptors(HapoError):
    """This process may open no further connection: says nothing about the server."""


def _no_descriptors() -> NoDescriptors:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return NoDescriptors(
        f"this process may hold {soft} files and connections open, and needs more for its requests",
        remedy="raise the limit (`ulimit -n 4096` in the shell that starts the run)",
    )


class Client:
    """JSON requests to one server; one connection per thread, kept open between requests.

    Args:
        url: `http://host:port`, without a path.

    Raises:
        ConfigError: the URL is not of that form.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None or parts.path not in ("", "/"):
            raise ConfigError(
                f"{url!r} is no server address",
                remedy="write it as http://127.0.0.1:8000",
                topic="engine:url",
            )
        self.url = url.rstrip("/")
        self._host, self._port = parts.hostname, parts.port or 80
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPConnection] = set()

    def post(self, path: str, body: Mapping[str, object], timeout: float) -> Any:
        """POST a JSON object; the answer as JSON.

        Raises:
            ServerGone: no connection, a broken or late answer, or status 5xx.
            NoDescriptors: no connection can be opened.
            HapoError: the server refuses the request (4xx), with its words.
        """
        return self._ask("POST", path, json.dumps(body).encode(), timeout)

    def get(self, path: str, timeout: float) -> Any:
        """GET; the answer as JSON (None where it is empty). Raises as `post` does."""
        return self._ask("GET", path, None, timeout)

    def answers(self, timeout: float) -> bool:
        """Whether the server is up and says that its engine is healthy.

        Raises:
            NoDescriptors: it cannot be asked.
        """
        try:
            self.get("/health", timeout)
        except NoDescriptors:
            raise
        except (ServerGone, HapoError):
            return False
        return True

    def abort(self) -> None:
        """Break all connections: threads that wait for an answer get `ServerGone`."""
        with self._lock:
            connections = list(self._open)
            self._open.clear()
        for connection in connections:
            if connection.sock is not None:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, timeout: float) -> Any:
        connection = self._connection(timeout)
        reused = connection.sock is not None
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            status, text = reply.status, reply.read()
        except (OSError, http.client.HTTPException) as error:
            self._drop(connection)
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise _no_descriptors() from error  # ours to mend: the server may be well
            if reused and isinstance(error, ConnectionError):
                # The server closes connections that were idle for some seconds: ask on a new one.
                # All our requests may be repeated: seeds and paths say what is wanted.
                return self._ask(method, path, body, timeout)
            raise ServerGone(f"{self.url}{path}: {error or type(error).__name__}") from error
        if status >= 500:
            raise ServerGone(f"{self.url}{path}: status {status}: {_words(text)}")
        if status >= 400:
            raise HapoError(
                f"the server refuses the request: {_words(text)}", where=f"{self.url}{path}"
            )
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise ServerGone(f"{self.url}{path}: no JSON in the answer") from error

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port)
            self._local.connection = connection
        with self._lock:
            self._open.add(connection)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None
        with self._lock:
            self._open.discard(connection)


def _words(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300].decode("utf-8", "replace")
