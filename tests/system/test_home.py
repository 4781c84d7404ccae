"""A home folder that nobody knows: a name that is no user's, or a user that is only a number."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
from conftest import REPO

from pipeline import cli
from pipeline.artifacts.places import expanded
from pipeline.curate.sources.files import expand
from pipeline.flows.stage import guarded

NOBODY = "~no-user-has-this-name/x.jsonl"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number of its own."""

    def unknown(number: int) -> object:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_a_home_that_nobody_knows_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, homeless: None
) -> None:
    assert expanded(NOBODY) == Path(NOBODY) and expand(NOBODY) == Path(NOBODY)
    assert expanded("~/x") == Path("~/x") and expanded(Path("~")) == Path("~")
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/x") == expand("$HOME/x") == Path("/home/me/x")


@pytest.mark.parametrize(
    "words",
    [
        ("data", "peek", NOBODY),
        ("train", "--dir", "d", "--model", NOBODY, "--data", NOBODY),
    ],
)
def test_a_path_below_it_is_told_as_missing(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(list(words)) == 2
    assert NOBODY in capsys.readouterr().err


def test_the_bug_report_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, homeless: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["env"]) == 0


def test_what_dvc_says_without_one_is_a_sentence(
    homeless: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks() -> None:
        Path("~").expanduser()

    assert guarded(asks) == 2
    said = capsys.readouterr().err
    assert f"number {os.getuid()}" in said and "export HOME=" in said
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(RuntimeError):  # somebody else's home, or another error altogether
        guarded(lambda: Path(NOBODY).expanduser())


def test_nothing_else_asks_for_a_home() -> None:
    """`Path.expanduser` and `Path.home` raise."""
    rooms = [path for room in ("pipeline", "hapo_core") for path in (REPO / room).rglob("*.py")]
    asks = re.compile(r"\)\.expanduser\(|\.home\(\)")
    assert [path.name for path in rooms if asks.search(path.read_text())] == []


def test_no_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere/at/all"])
    assert guarded(tempfile.gettempdir) == 2
    assert "export TMPDIR" in capsys.readouterr().err
