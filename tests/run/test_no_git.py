"""A project whose `.git` is gone (a copied folder, an archive): one sentence that mends it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hapo_core.errors import ConfigError
from pipeline.artifacts.revisions import need_git


def hapo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "bare"
    assert hapo(folder.parent, "init", str(folder)).returncode == 0
    shutil.rmtree(folder / ".git")
    return folder


@pytest.mark.parametrize(
    "words",
    [["status"], ["run"], ["run", "--dry-run"], ["clean"], ["report", "--against", "HEAD"]],
)
def test_commands_say_that_git_is_missing(bare: Path, words: list[str]) -> None:
    """DVC's error stood there, with remedies about a torn dvc.lock or a name that is no run."""
    done = hapo(bare, *words)
    assert done.returncode == 2, done.stdout
    assert "there is no .git here or above" in done.stderr and "`git init`" in done.stderr


def test_the_remedy_works(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mended"
    shutil.copytree(bare, folder)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "commit", "-qm", "begin"], cwd=folder, check=True)
    assert hapo(folder, "status").returncode == 0


def test_dvc_without_git_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(ConfigError, match="no git repository"):
        need_git(tmp_path)
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    need_git(tmp_path)
