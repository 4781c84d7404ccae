"""A project in a folder with an odd name: it runs, is shown, and its name is never executed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import TOY_PARAMS, Project, long

from hapo_core.errors import ConfigError
from pipeline.start.project import make_project
from pipeline.system.project import find_root

NAMES = {
    "blanks and quotes": "a b'c\"d",
    "a command": "$(touch pwned)`touch pwned`;touch pwned&",
    "a dash first": "-rf",
    "not ASCII": "проект ü 日本",
    "a newline": "a\nb",
    "what globs and YAML mean": "[a]*?#%: x",
    "long": "/".join(["x" * 200] * 4),
}
QUICK = ("a command",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else long) for n in NAMES])
def test_a_project_there(
    finished_template: Path, tmp_path: Path, forks: dict[str, str], name: str
) -> None:
    path = tmp_path / NAMES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(finished_template, path, symlinks=True)
    project = Project(path, forks=forks)
    project.ran()
    project.edit("held_out: {k: 4", "held_out: {k: 3")
    said = project.hapo("run", "--no-server")
    assert "Traceback" not in said.stdout + said.stderr
    assert set(project.ran()) == {"evaluate@base", "evaluate@final", "report"}
    status = json.loads(project.hapo("status", "--json").stdout)
    assert {stage["state"] for stage in status["stages"]} == {"up to date"}
    for words in (("clean", "--dry-run"), ("env",)):
        done = project.hapo(*words, check=False)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ["{b}", "${seed}", "a}b", os.fsdecode(b"caf\xe9")])
def test_where_none_can_work(tmp_path: Path, name: str) -> None:
    """DVC fails in a folder with braces, in the middle of a run and without saying why."""
    folder = tmp_path / name
    (folder / ".dvc").mkdir(parents=True)
    (folder / "dvc.yaml").touch()
    with pytest.raises(ConfigError, match=r"braces|no UTF-8") as caught:
        find_root(folder)
    print(caught.value)  # it can be shown
    with pytest.raises(ConfigError, match=r"braces|no UTF-8"):
        make_project(tmp_path / "new" / name, TOY_PARAMS, "")
    assert not (tmp_path / "new").exists()


def test_through_a_link(finished_project: Project, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(finished_project.path)
    project = Project(link, forks=finished_project.forks)
    assert "nothing" in project.hapo("status").stdout
    project.ran()
    project.hapo("run", "--no-server")
    assert project.ran() == []
