"""A real Prefect server for tests, and questions to its API."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.flows import server
from pipeline.flows.server_home import make_private


@dataclass
class PrefectServer:
    """A running server of the tests, and questions to its API."""

    api: str
    root: Path
    pid: int
    auth: str

    @property
    def env(self) -> dict[str, str]:
        """How a process is told of the server."""
        return {"PREFECT_API_URL": self.api, "PREFECT_API_AUTH_STRING": self.auth}

    @property
    def headers(self) -> dict[str, str]:
        """Of a JSON request that is let in."""
        token = base64.b64encode(self.auth.encode()).decode()
        return {"content-type": "application/json", "authorization": f"Basic {token}"}

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """POST JSON, answer as JSON."""
        request = urllib.request.Request(
            self.api + path,
            json.dumps(dict(body or {})).encode(),
            self.headers,
        )
        return self._send(request)

    def patch(self, path: str, body: Mapping[str, object]) -> None:
        """PATCH JSON."""
        data = json.dumps(dict(body)).encode()
        self._send(urllib.request.Request(self.api + path, data, self.headers, method="PATCH"))

    def _send(self, request: urllib.request.Request) -> Any:
        """A busy server answers 503 (its database was locked): ask again, as Prefect does."""
        for left in reversed(range(10)):
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    return json.loads(reply.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != 503 or not left:
                    raise
            time.sleep(0.5)
        raise AssertionError("not reached")

    def flow_runs(self, **where: object) -> list[dict[str, Any]]:
        """Flow runs, newest first; `where` filters them by API fields."""
        body = {"sort": "START_TIME_DESC", "flow_runs": where}
        return list(self.post("/flow_runs/filter", body))

    def children(self, run_id: str) -> list[dict[str, Any]]:
        """The flow runs below a flow run."""
        return self.flow_runs(parent_flow_run_id={"any_": [run_id]})

    def task_runs(self, run_id: str) -> list[dict[str, Any]]:
        """The task runs of a flow run."""
        body = {"flow_runs": {"id": {"any_": [run_id]}}, "limit": 200}
        return list(self.post("/task_runs/filter", body))

    def logs(self, run_id: str) -> list[str]:
        """The log lines of a flow run."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.post("/logs/filter", body)]


def serve(folders: pytest.TempPathFactory, name: str) -> Iterator[PrefectServer]:
    """A server of its own home, at a free port of loopback, until the generator is closed. Its
    tables are those that the first server of this run of pytest made: that takes five seconds."""
    os.environ[server.PORT] = "0"  # never the usual port: a person may be using it
    ours = folders.getbasetemp()
    shared = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    root, made = folders.mktemp(name), shared / "prefect-tables"
    home = make_private(root)
    with made.with_suffix(".lock").open("w") as lock:  # the workers of pytest share it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made.is_dir():
            shutil.copytree(made, home, dirs_exist_ok=True)
        started = server.start(root)
        if not made.is_dir():
            made.with_suffix(".new").mkdir()
            with sqlite3.connect(home / "prefect.db") as tables:
                tables.execute("VACUUM INTO ?", (str(made.with_suffix(".new") / "prefect.db"),))
            tables.close()
            shutil.copy(home / "memo_store.toml", made.with_suffix(".new"))
            made.with_suffix(".new").rename(made)
    assert started.pid is not None and started.auth is not None
    try:
        yield PrefectServer(started.api, root, started.pid, started.auth)
    finally:
        server.stop(root)
