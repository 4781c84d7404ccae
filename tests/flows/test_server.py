"""The Prefect server of a project: on loopback, found and started once, never another program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PrefectServer
from listening import listening_at

from hapo_core.errors import HapoError
from pipeline.flows import server


def test_server_listens_on_loopback_only(prefect_server: PrefectServer) -> None:
    port = int(prefect_server.api.rsplit(":", 1)[1].split("/")[0])
    assert listening_at(port) == [f"0100007F:{port:04X}"]


def test_server_is_found_and_started_once(prefect_server: PrefectServer) -> None:
    found = server.find(prefect_server.root)
    assert found is not None and found.api == prefect_server.api
    assert server.start(prefect_server.root).pid == prefect_server.pid


def test_taken_port_is_refused(tmp_path: Path, prefect_server: PrefectServer) -> None:
    port = int(prefect_server.api.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(HapoError, match="is taken"):
        server.start(tmp_path, port)
    assert server.find(tmp_path) is None


def test_another_program_at_the_usual_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that answers, but is no Prefect server, is left alone."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline().split(" port ")[1].split()[0])
        monkeypatch.setenv(server.PORT, str(port))
        try:
            assert server.find(tmp_path) is None
            assert server._choose_port(None) != port
        finally:
            other.kill()


def test_dead_record_is_no_server(tmp_path: Path) -> None:
    home = tmp_path / server.HOME
    home.mkdir(parents=True)
    for text in ("", "{", '{"url": "http://127.0.0.1:9", "pid": 999999999}'):
        (home / "server.json").write_text(text)
        assert server.find(tmp_path) is None
    assert server.stop(tmp_path) is False
