"""`hapo env`: enough for a bug report, and nothing that must not be in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TOY_PARAMS

from pipeline import cli
from pipeline.system import secrets


def test_it_names_versions_devices_and_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2")
    assert cli.main(["env"]) == 0
    out = capsys.readouterr().out
    assert "GLIBC_TUNABLES=glibc" in out
    for word in ("hapo 0", "python 3", "system Linux", "device ", "  torch ", "  dvc ", "cores"):
        assert word in out
    assert "configuration: none here" in out


def test_no_secret_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:passwordpassword")
    monkeypatch.setenv("https_proxy", "http://me:proxypass@proxy:80")
    monkeypatch.setenv("HF_HOME", "/home/somebody/cache")
    monkeypatch.setenv("http_proxy", "me:bareproxy@proxy:80")
    monkeypatch.setenv("no_proxy", "http://me:slash/inside@proxy")
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"Authorization": "Bearer headersecret"}')
    address = "http://me:urlpassword@host:8000"
    text = TOY_PARAMS.replace("profile: toy", "profile: mine").replace(
        "rollout: {max_tokens: 32}",
        f'rollout: {{max_tokens: 32, engine: vllm, vllm: {{urls: ["{address}"]}}}}',
    )
    (tmp_path / "params.yaml").write_text(text)
    secrets.learn()
    assert cli.main(["env"]) == 0
    out = capsys.readouterr().out
    assert "HF_TOKEN=***" in out and "profile mine" in out and "HF_HOME=~/cache" in out
    kept = ("hf_secret", "passwordpassword", "proxypass", "urlpassword", "somebody")
    for secret in (*kept, "bareproxy", "slash/inside", "headersecret"):
        assert secret not in out
    secrets.learn()
