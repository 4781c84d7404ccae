"""Our Prefect server: a password, its own pages only, and no other server is taken for it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import PrefectServer, eventually

from hapo_core.errors import ConfigError, HapoError
from pipeline.flows import server, server_home
from pipeline.flows.health import answers, refuses, without_proxy
from pipeline.system.locks import device_locks
from pipeline.system.processes import alive

FAKE = """
import http.server, sys
class Fake(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'true' if self.path.endswith('health') else b'"3.8.8"'
        self.send_response(200); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args):
        print(self.headers.get('authorization'), file=sys.stderr)
made = http.server.HTTPServer(('127.0.0.1', 0), Fake)
print(made.server_port, flush=True)
made.serve_forever()
"""


def status_of(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_password_is_wanted(prefect_server: PrefectServer) -> None:
    address, body = prefect_server.api + "/flow_runs/filter", b"{}"
    kind = {"content-type": "application/json"}
    assert status_of(urllib.request.Request(address, body, kind)) == 401
    assert status_of(urllib.request.Request(address, body, prefect_server.headers)) == 200
    wrong = "Basic " + base64.b64encode(b"hapo:guess").decode()
    heads = {**kind, "authorization": wrong}
    assert status_of(urllib.request.Request(address, body, heads)) == 401
    assert refuses(prefect_server.api, None) and refuses(prefect_server.api, "hapo:guess")
    assert not refuses(prefect_server.api, prefect_server.auth)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null"])
def test_a_foreign_page_is_refused(prefect_server: PrefectServer, origin: str) -> None:
    """The browser's question before a JSON request: no leave, so the request is never made."""
    heads = {"origin": origin, "access-control-request-method": "POST"}
    heads["access-control-request-headers"] = "content-type,authorization"
    address = prefect_server.api + "/deployments/filter"
    asked = urllib.request.Request(address, headers=heads, method="OPTIONS")
    assert status_of(asked) == 400
    own = {**heads, "origin": prefect_server.api.removesuffix("/api")}
    assert status_of(urllib.request.Request(address, headers=own, method="OPTIONS")) == 200


def test_files_are_for_this_user_only(prefect_server: PrefectServer) -> None:
    home = prefect_server.root / server.HOME
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in home.iterdir() if p.is_file()}
    assert {"password", "prefect.db", "server.json", "server.log"} <= set(modes)
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}
    assert prefect_server.auth not in (home / "server.log").read_text(errors="replace")
    assert prefect_server.auth not in (home / "server.json").read_text()


def test_a_password_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    server_home.make_private(tmp_path)
    first = server_home.make_password(tmp_path)
    assert server_home.make_password(tmp_path) == first == server_home.password(tmp_path)
    (tmp_path / server.HOME / "password").chmod(0o644)
    assert server_home.password(tmp_path) is None
    assert server_home.make_password(tmp_path) != first
    aim = tmp_path / "aim"
    (tmp_path / server.HOME / "password").unlink()
    (tmp_path / server.HOME / "password").symlink_to(aim)
    server_home.make_password(tmp_path)
    assert not aim.exists()


def test_a_fake_at_the_usual_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks like Prefect, stands in the record even, and never sees the password."""
    with subprocess.Popen(
        [sys.executable, "-c", FAKE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as fake:
        assert fake.stdout is not None and fake.stderr is not None
        port = int(fake.stdout.readline())
        try:
            assert answers(f"http://127.0.0.1:{port}/api")
            monkeypatch.setenv(server.PORT, str(port))
            assert server.find(tmp_path) is None
            server_home.make_private(tmp_path)
            server_home.make_password(tmp_path)
            record = {"url": f"http://127.0.0.1:{port}", "pid": fake.pid}
            (tmp_path / server.HOME / "server.json").write_text(json.dumps(record))
            assert server.find(tmp_path) is None
            assert server.stop(tmp_path) is False and fake.poll() is None
        finally:
            fake.kill()
        assert "Basic" not in fake.stderr.read()


def test_a_copied_project_leaves_the_others_server_alone(
    prefect_server: PrefectServer, tmp_path: Path
) -> None:
    home = tmp_path / server.HOME
    home.mkdir(parents=True)
    for name in ("password", "server.json"):
        shutil.copy2(prefect_server.root / server.HOME / name, home / name)
    assert server.find(tmp_path) is None
    assert server.stop(tmp_path) is False
    assert answers(prefect_server.api)


def test_a_server_is_on_record_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts it may be killed while it waits: the next start must find and stop it."""
    found: list[int] = []

    def killed_here(process: subprocess.Popen[bytes], made: server.Server, home: Path) -> None:
        recorded = server_home.recorded(tmp_path)
        assert recorded is not None and recorded.pid == process.pid
        found.append(process.pid)
        eventually(lambda: server_home.is_own(recorded, tmp_path), 10)  # it has come to its exec

    monkeypatch.setattr(server, "_wait_healthy", killed_here)
    monkeypatch.setattr(server, "PREFECT_SERVER", ("http.server", "--directory"))
    monkeypatch.setenv(server.PORT, "0")
    server.start(tmp_path)
    server.start(tmp_path)
    assert len(found) == 2 and not alive(found[0])
    assert server.stop(tmp_path) and not alive(found[1])


def test_sigterm_to_the_service_ends_its_runs_and_not_the_server(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the record says: `hapo serve` may have lost it."""
    from prefect.runner import Runner

    from pipeline.run import deployment

    run = subprocess.Popen(["sleep", "60"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deployment, "children", lambda: [prefect_server.pid, run.pid])
    monkeypatch.setattr(Runner, "handle_sigterm", lambda *_: None)
    deployment._Runner(name="x").handle_sigterm()
    assert run.wait(timeout=10) == -signal.SIGTERM
    assert alive(prefect_server.pid) and answers(prefect_server.api, timeout=10)


@pytest.mark.slow
def test_a_damaged_database_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(server.PORT, "0")
    home = server_home.make_private(tmp_path)
    (home / "prefect.db").write_bytes(b"no database at all" * 1000)
    try:
        assert server.start(tmp_path).pid is not None
        assert "was damaged" in capsys.readouterr().err
        assert (home / "prefect.damaged-1.db").is_file()
    finally:
        server.stop(tmp_path)


def test_a_server_that_cannot_start_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hapo_core.errors import HapoError

    tries: list[int] = []

    def fails(*_: object) -> server_home.Server:
        tries.append(1)
        raise HapoError("it ended")

    monkeypatch.setattr(server, "_start_once", fails)
    with pytest.raises(HapoError, match="it ended"):
        server.ensure(tmp_path)
    with pytest.raises(HapoError, match="last time: it ended"):
        server.ensure(tmp_path)
    assert len(tries) == 1
    with pytest.raises(HapoError, match="it ended"):
        server.start(tmp_path)  # a person asks: tried again
    assert len(tries) == 2


def test_a_proxy_does_not_stand_before_loopback(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert without_proxy({}) == {} == without_proxy({"HTTP_PROXY": "x", "NO_PROXY": "*"})
    told = without_proxy({"https_proxy": "http://x", "no_proxy": "intern"})
    assert told["NO_PROXY"] == told["no_proxy"] == "intern,127.0.0.1,localhost,::1"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert answers(prefect_server.api)


# --- lock files in a shared folder --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "dangling", "hard", "folder", "pipe"])
def test_a_planted_lock_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    locks, victim = tmp_path / "locks", tmp_path / "victim"
    locks.mkdir()
    victim.write_text("precious")
    monkeypatch.setenv("HAPO_LOCKS", str(locks))
    lock = locks / "cpu.lock"
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "dangling":
        lock.symlink_to(tmp_path / "new")
    elif kind == "hard":
        os.link(victim, lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    with pytest.raises(ConfigError, match="is not touched"), device_locks(["cpu"], tmp_path):
        raise AssertionError("it was taken")
    assert victim.read_text() == "precious" and not (tmp_path / "new").exists()


def test_a_device_is_a_file_among_the_locks_and_never_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of GPUs come from params.yaml (`rollout.vllm.gpus`) and CUDA_VISIBLE_DEVICES."""
    monkeypatch.setenv("HAPO_LOCKS", str(tmp_path / "locks"))
    (tmp_path / "poetry.lock").write_text("precious")
    names = ["gpu-x/../../poetry", "gpu-../../poetry", f"{tmp_path}/poetry", "gpu-MIG-GPU-5c/1/0"]
    for name in names:
        with device_locks([name]):
            pass
    assert (tmp_path / "poetry.lock").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["locks", "poetry.lock"]
    inside = list((tmp_path / "locks").iterdir())
    assert len(inside) == len(names) and all(path.is_file() for path in inside)


@pytest.mark.parametrize("planted", ["file", "link to nowhere"])
@pytest.mark.parametrize("given", [True, False])
def test_what_lies_in_the_place_of_the_locks_is_named(
    planted: str, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / f"hapo-{os.getuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("HAPO_LOCKS", raising=False)
    monkeypatch.setattr("pipeline.system.locks.COMMON", tmp_path)
    if given:
        monkeypatch.setenv("HAPO_LOCKS", str(place))
    if planted == "file":
        place.write_text("precious")
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=f"cannot be made[\\s\\S]*{place}"):
        device_locks(["cpu"]).__enter__()
    assert not (tmp_path / "nowhere").exists()


def test_another_tmpdir_is_no_other_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch job has a TMPDIR of its own: it may not share a GPU unseen."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("HAPO_LOCKS", raising=False)
    monkeypatch.setattr("pipeline.system.locks.COMMON", tmp_path)
    with device_locks(["cpu"]):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "job"))
        with pytest.raises(HapoError, match="another run works on cpu"):
            device_locks(["cpu"]).__enter__()
