"""`hapo server notify`: a webhook hears of failed runs and of alarms, of one project alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from conftest import PrefectServer, eventually

from pipeline.flows.names import deployment_name

# `hapo run` of a project around a stage that warns and fails; ADDRESS is told of it.
RUN = """
import os, sys
from pathlib import Path
from pipeline.flows.health import prepare_environment
prepare_environment()
from hapo_core.errors import HapoError
from pipeline.flows import flow_run
from pipeline.flows.notify import forget, notify
from pipeline.flows.observer import PARENT
from pipeline.run.flow_run import RunFlow

address, api = sys.argv[1], os.environ["PREFECT_API_URL"]
try:
    print(*notify(address, Path()), sep="\\n")
except HapoError as error:
    sys.exit(f"REFUSED {error}")
flow_run._START_SECONDS = 60
flow = RunFlow(api, Path())
flow.start()
os.environ[PARENT] = str(flow.joined.run_id)

def work(observer):
    observer.alarm('Alarm in round 3: "short" has fallen; the gate stays as it is.')
    raise HapoError("broken on purpose")

try:
    flow_run.run_joined("train@1", api, work)
except HapoError:
    flow.finish(255, None)
input()
print("gone", *forget(Path()))
"""


@contextmanager
def receiver(status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address on loopback, and the JSON that it was sent."""
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/json"
            heard.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret-path", heard
        server.shutdown()


def start(server: PrefectServer, url: str, folder: Path) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, url],
        cwd=folder,
        env={**kept, **server.env},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_webhook_hears_of_alarms_and_failures(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    name = deployment_name(tmp_path)
    with receiver() as (url, heard):
        process = start(prefect_server, url, tmp_path)
        events = eventually(lambda: {m["event"]: m for m in heard} if len(heard) == 3 else None)
        assert {m["project"] for m in heard} == {name}
        assert all(m["text"] == m["content"] for m in heard)
        assert 'train@1: Alarm in round 3: "short" has fallen' in events["hapo.alarm"]["text"]
        failed = events["prefect.flow-run.Failed"]
        assert "train@1: broken on purpose" in failed["text"]
        (run,) = prefect_server.flow_runs(id={"any_": [failed["flow_run"]]})
        assert run["name"] == "hapo" and run["state"]["message"] == "train@1: broken on purpose"
        out, err = process.communicate("\n", timeout=60)
        assert process.returncode == 0, err
        assert f"automation  {name}: failed runs" in out and "secret-path" not in out + err
        assert f"gone {name}: failed runs {name}: the teacher's alarm" in out
    assert prefect_server.post("/automations/filter") == []


def test_an_address_that_takes_nothing_changes_nothing(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    with receiver(404) as (url, heard):
        err = start(prefect_server, url, tmp_path).communicate("", timeout=60)[1]
        assert "REFUSED" in err and "404" in err and "secret-path" not in err and len(heard) == 1
    assert prefect_server.post("/automations/filter") == []
