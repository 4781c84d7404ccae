"""Which modules of ours a stage and the processes that it starts really load."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import warm
from conftest import REPO, Project

from pipeline.config import load_params
from pipeline.dependencies.closure import closure
from pipeline.dependencies.plumbing import is_plumbing

SUPPORT = Path(__file__).parent
SITE = SUPPORT / "import_site"


def noting(project: Project, notes: Path) -> Project:
    """The same project, whose processes note in a file what they import."""
    path = f"{SITE}:{project.path}"
    env = {**project.env, "HAPO_TEST_IMPORTS": str(notes), "PYTHONPATH": path}
    return Project(project.path, env, project.forks)


def past_the_lock(project: Project, kind: str, loaded: set[str]) -> set[str]:
    """What was loaded and is neither locked for this kind of stage nor plumbing.

    The schema and the question for a teacher load every method to ask it about its options: what
    they find is in the lock by value.
    """
    params = load_params(project.path / "params.yaml")
    asked = loaded_by(project, "pipeline.config", "pipeline.build.teacher")
    known = set(closure(f"pipeline.{kind}.__main__", REPO)) | asked
    return {m for m in loaded - known if not is_plumbing(m, kind, params)}


def loaded_by(project: Project, *modules: str) -> set[str]:
    """Modules of ours that importing some loads, by a fork that has imported none of them."""
    done = subprocess.run(
        [warm.python(project.forks), "-m", "loads", *modules],
        cwd=REPO,
        env={**os.environ, **project.forks, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {m for m in done.stdout.split() if m.split(".")[0] in ("pipeline", "hapo_core")}
