"""Nothing tells credentials, and nothing listens beyond this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import PrefectServer, Project, eventually
from listening import listening
from real_runs import stage_pids

from pipeline.system import secrets

SECRETS = {
    "HF_TOKEN": "hf_kQ3vNbW8xTzL5mRc",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI7MDENGbPx",
    "WANDB_API_KEY": "0123456789abcdef01234567",
}
REMOTE = """\
['remote "web"']
    url = https://somebody:pw-9fK2sQ7d@example.invalid/store
    password = pw-Zt81mmVw4
['remote "store"']
    url = s3://bucket/store
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


def test_a_run_keeps_credentials_to_itself(
    finished_project: Project, prefect_server: PrefectServer
) -> None:
    """A stage tells all it knows by every way there is, and nothing listens beyond loopback."""
    project, home = finished_project, prefect_server.root / ".hapo" / "prefect"
    project.env |= {**SECRETS, **prefect_server.env, "TOY_SECONDS": "6"}
    project.env["TOY_LEAK"] = "report"
    (project.path / ".dvc" / "config.local").write_text(REMOTE)
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    run = project.start("pipeline.cli", "run")
    log = project.path / "ran.log"
    eventually(lambda: (log.exists() and "train@2" in log.read_text()) or run.poll() is not None)
    assert run.poll() is None, run.communicate()
    addresses = listening([*stage_pids(project), prefect_server.pid])
    assert addresses and all(a.startswith("0100007F:") for a in addresses), addresses
    out, _ = run.communicate(timeout=120)
    assert run.returncode != 0 and out.count(secrets.HIDDEN) >= 3
    told = [(str(p), s) for s in HIDDEN for p in (*holding(project.path, s), *holding(home, s))]
    told += [("output", secret) for secret in HIDDEN if secret in out]
    assert told == []
    assert holding(home, "401 for ***")  # the error is there, without the credentials


def holding(folder: Path, text: str) -> list[Path]:
    """Files that hold the text, but the one that must. Prefect's database is among them."""
    needle = text.encode()
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "config.local")
    return [path for path in files if needle in path.read_bytes()]
