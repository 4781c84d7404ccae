"""Nothing tells credentials, and nothing listens beyond this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Project, eventually

from pipeline import secrets

SECRETS = {
    "HF_TOKEN": "hf_kQ3vNbW8xTzL5mRc",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI7MDENGbPx",
    "WANDB_API_KEY": "0123456789abcdef01234567",
}
REMOTE = """\
['remote "store"']
    url = https://somebody:pw-9fK2sQ7d@example.invalid/store
    password = pw-Zt81mmVw4
    access_key_id = AKIAX5EXAMPLE77Q
    secret_access_key = s3cr3t/Qq8uXo2p
"""
HIDDEN = (*SECRETS.values(), "pw-9fK2sQ7d", "pw-Zt81mmVw4", "AKIAX5EXAMPLE77Q", "s3cr3t/Qq8uXo2p")


def test_what_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config.local").write_text(REMOTE)
    monkeypatch.chdir(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    secrets._known.cache_clear()
    try:
        said = secrets.hide(f"false, {' '.join(HIDDEN)}, password = none")
        assert said == f"false, {' '.join([secrets.HIDDEN] * len(HIDDEN))}, password = none"
    finally:
        secrets._known.cache_clear()


def test_a_run_keeps_credentials_to_itself(finished_project: Project) -> None:
    """A stage tells all it knows by every way there is; its own server listens on loopback."""
    project = finished_project
    project.env |= {**SECRETS, "HAPO_SERVER_PORT": "0", "TOY_LEAK": "evaluate@final"}
    (project.path / ".dvc" / "config.local").write_text(REMOTE)
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    project.env["TOY_SECONDS"] = "6"
    try:
        run = project.start("pipeline.cli", "run")
        log = project.path / "ran.log"
        eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=120)
        addresses = listening(project)
        assert addresses and all(a.startswith("0100007F:") for a in addresses), addresses
        out, _ = run.communicate(timeout=120)
    finally:
        project.hapo("server", "stop")
    assert run.returncode != 0 and out.count(secrets.HIDDEN) >= 3
    told = [(name, secret) for secret in HIDDEN for name in places(project, secret)]
    told += [("output", secret) for secret in HIDDEN if secret in out]
    assert told == []
    database = (project.path / ".hapo" / "prefect" / "prefect.db").read_bytes()
    assert b"401 for ***" in database  # the error is there, without the credentials


def places(project: Project, secret: str) -> list[str]:
    """Files of the project that hold the text, but the one that must."""
    needle = secret.encode()
    return [
        str(path)
        for path in project.path.rglob("*")
        if path.is_file() and path.name != "config.local" and needle in path.read_bytes()
    ]


def listening(project: Project) -> list[str]:
    """Addresses (hexadecimal, ADDRESS:PORT) at which the run's processes and server listen."""
    home = project.path / ".hapo" / "prefect"
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            where = (folder / "cwd").resolve()
            if where in (project.path, home):
                inodes |= {str(one.readlink()) for one in (folder / "fd").iterdir()}
        except OSError:
            continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1])
    return found
