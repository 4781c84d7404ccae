"""A second clone pulls from a DVC remote and goes on where the first stopped."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project, eventually, long

GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]


def git(project: Project, *words: str) -> None:
    subprocess.run([*GIT, *words], cwd=project.path, check=True, capture_output=True)


def second(first: Project, path: Path) -> Project:
    subprocess.run([*GIT, "clone", "-q", str(first.path), str(path)], check=True)
    return Project(path, dict(first.env), first.forks)


def shared(project: Project, url: str) -> None:
    """Name the remote in the committed configuration, push, and commit what DVC recorded."""
    project.dvc("remote", "add", "--default", "store", url)
    git(project, "add", ".")
    git(project, "commit", "-qm", "what ran so far")
    project.dvc("push")


def manifests(project: Project) -> dict[str, bytes]:
    policies = project.path / "artifacts/policy"
    return {p.parent.name: p.read_bytes() for p in policies.glob("*/manifest.json")}


@long
def test_from_a_folder_after_a_kill(project: Project, tmp_path: Path) -> None:
    """The first is killed in segment 2; the second pulls, runs segment 2, and gets the bytes that
    the first gets when it goes on."""
    first = project
    first.env["TOY_SECONDS"] = "20"
    run = first.start("pipeline.cli", "run", "--no-server", "train@2")
    log = first.path / "ran.log"
    eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=150)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    first.env["TOY_SECONDS"] = "0"
    shared(first, str(tmp_path / "remote"))
    other = second(first, tmp_path / "second")
    other.dvc("pull", "--allow-missing")  # segment 2 was never finished: nothing to pull
    assert set(manifests(other)) == {"base", "1"}
    assert manifests(other)["1"] == manifests(first)["1"]
    assert "train@2" in other.hapo("status").stdout
    other.ran()
    other.hapo("run", "--no-server")
    assert sorted(other.ran()) == ["evaluate@base", "evaluate@final", "report", "train@2"]
    first.ran()
    first.hapo("run", "--no-server")
    assert manifests(other) == manifests(first) and len(manifests(first)) == 3


@pytest.fixture
def bucket() -> Iterator[tuple[str, str]]:
    """(endpoint, bucket) of a real S3 server on loopback, or skip."""
    for module in ("moto", "flask", "dvc_s3"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (extra `dev`)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: _answers(url), seconds=60)
        request = urllib.request.Request(f"{url}/runs", method="PUT")
        urllib.request.urlopen(request, timeout=20).close()
        yield url, "runs"
    finally:
        server.kill()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


@long
def test_from_s3_with_another_segment(
    finished_project: Project, bucket: tuple[str, str], tmp_path: Path
) -> None:
    url, name = bucket
    first = finished_project
    first.env |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "s3cr3t-of-the-test"}
    first.dvc("remote", "add", "--default", "store", f"s3://{name}/hapo")
    first.dvc("remote", "modify", "store", "endpointurl", url)
    git(first, "add", ".")
    git(first, "commit", "-qm", "finished")
    first.dvc("push")
    other = second(first, tmp_path / "second")
    other.dvc("pull")
    assert manifests(other) == manifests(first)
    found = json.loads(other.hapo("status", "--json").stdout)
    assert {s["state"] for s in found["stages"]} == {"up to date"}
    other.ran()
    other.hapo("segments", "3")
    other.hapo("run", "--no-server")
    assert other.ran() == ["train@3", "evaluate@final", "report"]
    config = (first.path / ".dvc/config").read_text() + (other.path / ".dvc/config").read_text()
    assert "s3cr3t" not in config
