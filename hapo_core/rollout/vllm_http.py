"""The little HTTP that a vLLM server needs: JSON over kept connections, from several threads."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from hapo_core.errors import ConfigError, HapoError


class ServerGone(Exception):
    """The server does not answer, or its engine is dead: the work can be done elsewhere."""


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
                where="rollout.vllm.urls",
                remedy="write it as http://127.0.0.1:8000",
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
            HapoError: the server refuses the request (4xx), with its words.
        """
        return self._ask("POST", path, json.dumps(body).encode(), timeout)

    def get(self, path: str, timeout: float) -> Any:
        """GET; the answer as JSON (None where it is empty). Raises as `post` does."""
        return self._ask("GET", path, None, timeout)

    def answers(self, timeout: float) -> bool:
        """Whether the server is up and says that its engine is healthy."""
        try:
            self.get("/health", timeout)
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
