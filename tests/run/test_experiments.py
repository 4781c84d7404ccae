"""DVC experiments on this pipeline: parameters by -S, the queue, and what DVC shows of them."""

from __future__ import annotations

import csv
import io
import json
import subprocess

import pytest
from conftest import Project, long

from hapo_core.errors import ConfigError
from pipeline.compare.two_runs import find_side
from pipeline.config import load_params

GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]


@pytest.fixture
def committed(finished_project: Project) -> Project:
    """A finished run in git: experiments start from a commit."""
    names = {"NAME": "test", "EMAIL": "test@localhost"}
    for key, value in names.items():
        finished_project.env |= {f"GIT_AUTHOR_{key}": value, f"GIT_COMMITTER_{key}": value}
    for words in (["add", "."], ["commit", "-qm", "a run"]):
        subprocess.run([*GIT, *words], cwd=finished_project.path, check=True)
    return finished_project


@long
def test_an_experiment_reruns_what_its_parameter_decides(committed: Project) -> None:
    project = committed
    project.dvc("exp", "run", "-n", "low", "-S", "gate.threshold.gamma=0.2")
    assert sorted(project.ran()) == ["report", "train@1", "train@2"]
    load_params(project.path / "params.yaml")  # DVC wrote it, with its keys still quoted
    changed = json.loads(project.dvc("params", "diff", "--json").stdout)
    gamma = changed["params.yaml"]["gate.threshold.gamma"]
    assert (gamma["old"], gamma["new"]) == (0.3, 0.2)
    side = find_side("low", project.path)
    assert side.params["gate.threshold.gamma"] == 0.2
    assert side.summary["profile"] == "toy" and (side.root / "artifacts/evaluation/final").is_dir()
    assert find_side("HEAD", project.path).params["gate.threshold.gamma"] == 0.3
    with pytest.raises(ConfigError, match="no run 'lwo'"):
        find_side("lwo", project.path)


@long
def test_the_queue_and_what_dvc_shows(committed: Project) -> None:
    project = committed
    project.dvc("exp", "run", "--queue", "-n", "longer", "-S", "segments.2.rounds=3")
    project.dvc("exp", "run", "--queue", "-n", "low", "-S", "gate.threshold.gamma=0.2")
    project.dvc("exp", "run", "--run-all")
    assert "rounds: 3" not in (project.path / "params.yaml").read_text()  # ran elsewhere
    rows = list(csv.DictReader(io.StringIO(project.dvc("exp", "show", "--csv").stdout)))
    found = {row["Experiment"]: row for row in rows}
    assert found["longer"]["segments.2.rounds"] == "3" and found["longer"]["rounds"] == "5"
    assert found["low"]["gate.threshold.gamma"] == "0.2"
    changed = json.loads(project.dvc("metrics", "diff", "HEAD", "longer", "--json").stdout)
    assert changed["reports/summary.json"]["rounds"] == {"old": 4, "new": 5, "diff": 1}
    plots = project.dvc("plots", "diff", "HEAD", "longer", "-o", "shown").stdout
    assert "index.html" in plots and (project.path / "shown/index.html").is_file()
