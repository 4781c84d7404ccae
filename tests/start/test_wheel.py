"""From the wheel alone, outside of any clone: a project, its profiles, an upgrade."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from conftest import REPO
from wheel import Installed, build, environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    made = environment(tmp_path_factory.mktemp("env") / "env")
    made.install(wheel)
    return made


def test_the_wheel_holds_every_module_template_and_profile(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("hapo_core", "hapo_trl", "pipeline"):
        files = (p for p in (REPO / package).rglob("*") if p.is_file())
        wanted = {p.relative_to(REPO).as_posix() for p in files if "__pycache__" not in p.parts}
        assert wanted <= names
    profiles = {f"pipeline/project/{p.relative_to(REPO)}" for p in REPO.glob("params/*.yaml")}
    assert profiles and profiles <= names
    # DVC would take these for a project of its own inside of the package.
    assert not {n for n in names if n.endswith(("dvc.yaml", ".dvcignore", ".gitignore"))}


def test_init_makes_a_project_that_runs(installed: Installed, tmp_path: Path) -> None:
    made = installed.hapo("init", "mine", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    project = tmp_path / "mine"
    for name in ("dvc.yaml", "params.yaml", "README.md", ".gitignore", ".dvc/config"):
        assert (project / name).is_file()
    git = ["git", "-C", str(project)]
    assert subprocess.check_output([*git, "status", "--short"]) == b""
    assert subprocess.check_output([*git, "log", "--oneline"])
    listed = installed.hapo("profile", "list", cwd=project).stdout
    assert "* quickstart" in listed and "smollm2-gsm8k" in listed
    dry = installed.hapo("run", "--dry-run", cwd=project)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "evaluate@final" in dry.stdout
    assert installed.hapo("profile", "use", "smollm2-gsm8k", cwd=project).returncode == 0
    again = installed.hapo("init", "mine", cwd=tmp_path)
    assert again.returncode == 2 and "there is already dvc.yaml" in again.stderr


def test_without_a_project_every_error_says_how_to_make_one(
    installed: Installed, tmp_path: Path
) -> None:
    for words in (["run"], ["status"], ["samples"]):
        done = installed.hapo(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert "hapo init" in done.stderr and "hapo train" in done.stderr


def test_files_that_are_there_stay(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "problems.jsonl").write_text("{}\n")
    assert installed.hapo("init", ".", cwd=tmp_path).returncode == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "hapo run" in (tmp_path / "README-hapo.md").read_text()
    tracked = subprocess.check_output(["git", "ls-files"], cwd=tmp_path, text=True).split()
    assert "problems.jsonl" not in tracked


def test_inside_of_a_repository_only_the_project_is_committed(
    installed: Installed, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "other.txt").write_text("theirs")
    subprocess.run(["git", "add", "other.txt"], cwd=tmp_path, check=True)
    assert installed.hapo("init", "mine", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "mine" / ".git").exists()
    tracked = subprocess.check_output(
        ["git", "ls-tree", "-r", "--name-only", "HEAD"], cwd=tmp_path, text=True
    ).split()
    assert tracked and all(name.startswith("mine/") for name in tracked)
    dry = installed.hapo("run", "--dry-run", cwd=tmp_path / "mine")
    assert dry.returncode == 0, dry.stderr


@pytest.mark.slow
def test_an_upgrade_is_noticed_and_taken(tmp_path: Path, wheel: Path) -> None:
    env = environment(tmp_path / "env")
    env.install(wheel)
    assert env.hapo("init", "mine", cwd=tmp_path).returncode == 0
    project = tmp_path / "mine"
    assert "hapo init . --upgrade" not in env.hapo("status", cwd=project).stdout
    # A version whose stages differ: the template inside of the wheel is another one.
    env.install(build(tmp_path / "new", "0.2.0"))
    place = env.packages / "pipeline" / "project" / "dvc.yaml.txt"
    place.write_text(place.read_text().replace("  curate:\n", "  curate:\n    desc: new\n"))
    said = env.hapo("status", cwd=project).stdout
    assert "written by hapo 0.1.0, and 0.2.0 is installed" in said
    done = env.hapo("init", ".", "--upgrade", cwd=project)
    assert "dvc.yaml is new; the old one is kept as dvc.yaml.backup" in done.stdout
    assert "desc: new" in (project / "dvc.yaml").read_text()
    assert "is installed" not in env.hapo("status", cwd=project).stdout
    assert env.hapo("init", ".", "--upgrade", cwd=project).stdout.strip() == "nothing to change"
