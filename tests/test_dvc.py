"""dvc.yaml, with stand-in stages: what runs again after which change."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, STAGES, Project
from ruamel.yaml import YAML

GRAPH: dict[str, Any] = YAML(typ="safe").load((REPO / "dvc.yaml").read_text())["stages"]
TAIL = ["evaluate@final", "report"]


def test_everything_runs_once_then_nothing(project: Project) -> None:
    project.dvc("repro")
    order = project.ran()
    assert order[-1] == "report"
    assert sorted(order[:-1]) == sorted(
        ["curate", "base", "train@1", "train@2", "evaluate@base", "evaluate@final"]
    )
    assert order.index("train@1") < order.index("train@2") < order.index("evaluate@final")
    project.dvc("repro")
    assert project.ran() == []


def test_quoted_keys_name_the_stages(finished_project: Project) -> None:
    listed = finished_project.dvc("stage", "list", "--name-only").stdout.split()
    assert {"train@1", "train@2", "evaluate@base", "evaluate@final"} <= set(listed)
    lock = YAML(typ="safe").load((finished_project.path / "dvc.lock").read_text())["stages"]
    assert lock["train@2"]["params"]["params.yaml"]["segments.2"] == {"prev": "1", "rounds": 2}


def test_adding_a_segment_reruns_only_what_follows(finished_project: Project) -> None:
    finished_project.hapo("segments", "3")
    finished_project.dvc("repro")
    assert finished_project.ran() == ["train@3", *TAIL]


def test_more_rounds_in_the_last_segment(finished_project: Project) -> None:
    finished_project.hapo("segments", "2", "--rounds", "3", "--force")
    finished_project.dvc("repro")
    assert finished_project.ran() == ["train@1", "train@2", *TAIL]
    finished_project.edit('{prev: "1", rounds: 3}', '{prev: "1", rounds: 4}')
    finished_project.dvc("repro")
    assert finished_project.ran() == ["train@2", *TAIL]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{k: 4, max", "{k: 8, max", {"evaluate@base", "evaluate@final", "report"}),
        ("profile: toy", "profile: mine", {"report"}),
        ("gamma: 0.3", "gamma: 0.2", {"train@1", "train@2", "report"}),
    ],
)
def test_a_parameter_reruns_its_readers(
    finished_project: Project, old: str, new: str, expected: set[str]
) -> None:
    """The toy policy does not depend on gamma: equal bytes, so evaluation is up to date."""
    finished_project.edit(old, new)
    finished_project.dvc("repro")
    assert sorted(finished_project.ran()) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pipeline/report_text.py", ["report"]),
        ("hapo_core/methods/hapo.py", ["train@1", "train@2", "report"]),
        ("pipeline/observe.py", []),
    ],
)
def test_code_reruns_its_stages(finished_project: Project, name: str, expected: list[str]) -> None:
    path = finished_project.path / name
    path.write_text(path.read_text() + "\n# an edit\n")
    finished_project.dvc("repro")
    assert finished_project.ran() == expected


def test_deleted_artifacts_come_back_from_the_cache(finished_project: Project) -> None:
    artifacts = finished_project.path / "artifacts"
    before = {p.relative_to(artifacts): p.read_bytes() for p in files(artifacts)}
    shutil.rmtree(artifacts)
    finished_project.dvc("checkout")
    assert {p.relative_to(artifacts): p.read_bytes() for p in files(artifacts)} == before
    shutil.rmtree(artifacts)
    finished_project.dvc("repro")
    assert finished_project.ran() == []


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".gitignore")


def test_a_failed_stage_leaves_git_clean(finished_project: Project) -> None:
    """DVC takes its own ignore entries back after a failure: ours must be enough."""
    project = finished_project
    project.edit("seed: 0", "seed: 2")
    project.env["TOY_FAIL"] = "train@2"
    assert project.dvc("repro", check=False).returncode != 0
    shown = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=all"],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert set(shown[1::2]) <= {"dvc.lock", "params.yaml", "ran.log"}
    del project.env["TOY_FAIL"]
    project.ran()
    project.dvc("repro")
    assert "train@1" not in project.ran()


def test_experiments_and_metrics(finished_project: Project) -> None:
    project = finished_project
    project.env.update(GIT_AUTHOR_NAME="t", GIT_AUTHOR_EMAIL="t@localhost")
    project.env.update(GIT_COMMITTER_NAME="t", GIT_COMMITTER_EMAIL="t@localhost")
    done = project.dvc("exp", "run", "--name", "longer", "-S", "segments.2.rounds=5")
    assert project.ran() == ["train@2", *TAIL], done.stdout
    shown = project.dvc("exp", "show", "--csv", "--no-pager").stdout
    assert "longer" in shown and "base.held_out.avg" in shown
    assert "held_out" in project.dvc("metrics", "show", "--json").stdout
    assert "success rate" in project.dvc("plots", "show", "--json").stdout


# --- dvc.yaml itself ----------------------------------------------------------------------------


def body(stage: str) -> dict[str, Any]:
    entry = GRAPH[stage]
    return dict(entry.get("do", entry))


def test_no_persisted_outputs() -> None:
    assert "persist" not in (REPO / "dvc.yaml").read_text()


def test_every_output_is_ignored_by_git() -> None:
    ignored = (REPO / ".gitignore").read_text().split()
    for stage in STAGES:
        for out in [*body(stage)["outs"], *body(stage).get("metrics", [])]:
            assert f"/{out.split('/')[0]}/" in ignored


def test_code_dependencies_exist() -> None:
    for stage in STAGES:
        for dep in body(stage)["deps"]:
            if dep.startswith(("hapo_core", "pipeline")):
                assert (REPO / dep).exists(), f"{stage}: {dep}"


def test_all_of_the_report_s_code_is_listed() -> None:
    written = {f"pipeline/{path.name}" for path in (REPO / "pipeline").glob("report*.py")}
    assert written <= set(body("report")["deps"])


PLUMBING = {"errors.py", "laps.py", "__init__.py"}
# The statistics of the probe, which is only watched: new ones are no reason to train again.
WATCHED = {"train": {"hapo_core/evaluate.py", "hapo_core/intervals.py"}}


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_cover_the_imports(stage: str) -> None:
    """Whatever of hapo_core a stage imports, at any depth, reruns it."""
    module = REPO / "pipeline" / f"{stage}.py"
    if not module.is_file():
        pytest.skip(f"{module.name} is not written yet")
    listed = [REPO / dep for dep in body(stage)["deps"]]
    listed_pipeline = [d for d in listed if d.is_relative_to(REPO / "pipeline")]
    missing = {
        path.relative_to(REPO).as_posix()
        for path in reachable([module, *(p for d in listed_pipeline for p in sources(d))])
        if path.name not in PLUMBING and not any(path.is_relative_to(d) for d in listed)
    }
    assert missing == WATCHED.get(stage, set())


def reachable(start: list[Path]) -> set[Path]:
    """The files of hapo_core that `start` imports, and what those import."""
    seen: set[Path] = set()
    todo = list(start)
    while todo:
        for path in imported(todo.pop()) - seen:
            seen.add(path)
            todo.append(path)
    return seen


def sources(path: Path) -> list[Path]:
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported(path: Path) -> set[Path]:
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "hapo_core":
                place = REPO / Path(*name.split("."))
                for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                    if candidate.is_file():
                        found.add(candidate)
    return found


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_parameters_are_those_that_the_stage_hashes(stage: str) -> None:
    """The scratch folder's hash and DVC must agree on what a stage reads."""
    module = pytest.importorskip(f"pipeline.{stage}")
    listed = {name for name in body(stage)["params"] if not name.startswith("segments.")}
    assert listed == set(module.READS)
