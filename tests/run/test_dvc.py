"""dvc.yaml, with stand-in stages: what runs again after which change."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, STAGES, Project, copy_code, eventually, long
from loaded import loaded_by, past_the_lock
from ruamel.yaml import YAML

from hapo_core.methods.registry import methods
from pipeline.config import load_params
from pipeline.dependencies.lock import lock_of

GRAPH: dict[str, Any] = YAML(typ="safe").load((REPO / "dvc.yaml").read_text())["stages"]
TAIL = ["evaluate@final", "report"]
ALL_STAGES = (*STAGES, "cold_start")  # the stand-in project has no cold start


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


@pytest.mark.slow
def test_quoted_keys_name_the_stages(finished_project: Project) -> None:
    listed = finished_project.dvc("stage", "list", "--name-only").stdout.split()
    assert {"train@1", "train@2", "evaluate@base", "evaluate@final"} <= set(listed)
    lock = YAML(typ="safe").load((finished_project.path / "dvc.lock").read_text())["stages"]
    assert lock["train@2"]["params"]["params.yaml"]["segments.2"] == {"prev": "1", "rounds": 2}


def test_adding_a_segment_reruns_only_what_follows(finished_project: Project) -> None:
    finished_project.hapo("segments", "3")
    finished_project.dvc("repro")
    assert finished_project.ran() == ["train@3", *TAIL]


@long
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
        pytest.param("profile: toy", "profile: mine", {"report"}, marks=long),
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
        ("pipeline/report/words.py", ["report"]),
        ("hapo_core/methods/hapo.py", ["train@1", "train@2", "report"]),
        ("pipeline/flows/observer.py", []),
        pytest.param("pipeline/config/loggers.py", [], marks=long),
    ],
)
def test_code_reruns_its_stages(finished_project: Project, name: str, expected: list[str]) -> None:
    path = finished_project.path / name
    path.write_text(path.read_text() + "\nMORE = 1\n")
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


@pytest.mark.slow
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
    assert set(shown[1::2]) <= {
        "dvc.lock",
        "params.yaml",
        "ran.log",
        *(f"deps/{s}.json" for s in (*ALL_STAGES, "graph")),
    }
    del project.env["TOY_FAIL"]
    project.ran()
    project.dvc("repro")
    assert "train@1" not in project.ran()


@long
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
    for stage in ALL_STAGES:
        for out in [*body(stage)["outs"], *body(stage).get("metrics", [])]:
            assert f"/{out.split('/')[0]}/" in ignored


def test_every_stage_depends_on_its_lock() -> None:
    for stage in ALL_STAGES:
        assert f"deps/{stage}.json" in body(stage)["deps"]
        assert not [d for d in body(stage)["deps"] if d.startswith(("hapo_core", "pipeline"))]


# --- the lock -----------------------------------------------------------------------------------


def changed(project: Project, *kinds: str) -> None:
    """`dvc status` says that something changed; a dry `dvc repro` begins with the lock; and after
    it exactly these kinds of stages have another one."""
    assert "deps:" in project.dvc("status").stdout
    folder = project.path / "deps"
    before = {p.stem: p.read_bytes() for p in folder.glob("*.json")}
    project.dvc("repro", "deps")
    after = {p.stem: p.read_bytes() for p in folder.glob("*.json")}
    assert {k for k in after if before.get(k) != after[k]} == set(kinds)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("pipeline/grading/streaming.py", {"train", "evaluate"}),
        ("pipeline/evaluate/templates.py", {"evaluate"}),
        ("pipeline/train/trainset.py", {"train"}),
        ("pipeline/build/method.py", {"train"}),
        ("pipeline/models.py", {"curate", "base", "cold_start", "train", "evaluate"}),
        ("hapo_core/rollout/vllm/supervise.py", {"train", "evaluate"}),
        ("pipeline/show/charts.py", {"report"}),
        ("pipeline/show/loggers.py", set()),
        ("pipeline/commands/run.py", set()),
    ],
)
def test_an_edited_module(name: str, kinds: set[str], tmp_path: Path) -> None:
    """Seen by the lock of every kind that loads it, and by no other."""
    copy_code(tmp_path)
    params = load_params(REPO / "params.yaml")
    before = {kind: lock_of(kind, params, tmp_path) for kind in ALL_STAGES}
    path = tmp_path / name
    path.write_text(
        "MORE = 1\n" + path.read_text().replace("from __future__ import annotations", "")
    )
    found = {kind for kind in ALL_STAGES if lock_of(kind, params, tmp_path) != before[kind]}
    assert found == kinds


def test_a_method_of_a_file_of_its_own_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by its name: no import leads to it (docs/methods.md, "Add a method")."""
    copy_code(tmp_path)
    path = tmp_path / "hapo_core/methods/half.py"
    path.write_text("SHARE = 0.5\n")
    # The name is one of the schema's; the file is found by the lock alone.
    known = {**methods(), "half": methods()["grpo"]}
    monkeypatch.setattr("pipeline.config.params.methods", lambda: known)
    params = load_params(REPO / "params.yaml").model_copy(update={"method": "half"})
    before = {kind: lock_of(kind, params, tmp_path) for kind in ALL_STAGES}
    assert "hapo_core.methods.half" in before["train"]["modules"]
    path.write_text("SHARE = 0.6\n")
    found = {kind for kind in ALL_STAGES if lock_of(kind, params, tmp_path) != before[kind]}
    assert found == {"train", "report"}


def test_docstrings_and_comments_decide_nothing(finished_project: Project) -> None:
    path = finished_project.path / "hapo_core/methods/hapo.py"
    path.write_text(path.read_text() + '\n# an edit\n"""A text that stands alone."""\n')
    finished_project.dvc("repro")
    assert finished_project.ran() == []


def test_a_changed_default(finished_project: Project) -> None:
    old = "weight_decay: NotNegative = 0.0"
    finished_project.edit(old, old.replace("0.0", "0.1"), "hapo_core/update_spec.py")
    # The default stands in a module of the core: whatever imports that is other code as well.
    changed(finished_project, "base", "cold_start", "train", "evaluate", "report")
    said = finished_project.hapo("status").stdout
    assert "update.weight_decay: 0.0 -> 0.1" in said
    finished_project.dvc("repro")
    assert {"train@1", "train@2"} <= set(finished_project.ran())


def test_user_code_and_sources_are_watched(finished_project: Project, tmp_path: Path) -> None:
    """A verifier of the user's, what it imports, and a file outside data/."""
    project, rows = finished_project, tmp_path / "rows.jsonl"
    (project.path / "mine.py").write_text("from helper import same as grade\n")
    (project.path / "helper.py").write_text("def same(gold, answer):\n    return gold\n")
    rows.write_text('{"problem": "1+1", "answer": "2"}\n')
    project.edit("{verifier: exact}", '{verifier: "mine:grade"}')
    project.edit(
        "  benchmarks:\n    held_out: {kind: chains",
        f"    rows: {{kind: table, "
        f"adapter: generic, path: {rows}}}\n  benchmarks:\n    held_out: {{kind: chains",
    )
    project.dvc("repro")
    project.dvc("repro")
    listed = (project.path / "dvc.yaml").read_text()
    assert "helper.py" in listed and str(rows) in listed
    assert "up to date" in project.dvc("status").stdout
    project.edit("return gold", "return answer", "helper.py")
    changed(project, "curate", "train", "evaluate")
    rows.write_text('{"problem": "1+2", "answer": "3"}\n')
    changed(project, "curate")


@long  # test_provenance.py has the same, and what may be served afterwards
def test_an_edit_in_the_middle_is_refused(project: Project) -> None:
    project.env["TOY_SECONDS"] = "20"
    run = project.start("dvc", "repro", "train@1")
    log = project.path / "ran.log"
    eventually(lambda: log.exists() and "train@1" in log.read_text(), seconds=120)
    time.sleep(3)
    project.edit("learning_rate: 0.001}\ntrain", "learning_rate: 0.01}\ntrain")
    text = run.communicate(timeout=120)[0]
    assert run.returncode != 0 and "update.learning_rate: 0.001 -> 0.01" in text
    lock = (project.path / "dvc.lock").read_text()
    assert "train@1" not in lock


def test_a_stage_started_past_its_lock_is_refused(finished_project: Project) -> None:
    project = finished_project
    project.edit("learning_rate: 0.001}\ntrain", "learning_rate: 0.01}\ntrain")
    done = project.dvc("repro", "--single-item", "train@2", check=False)
    assert (
        done.returncode != 0 and "update.learning_rate: 0.001 -> 0.01" in done.stderr + done.stdout
    )
    made = json.loads((project.path / "artifacts/provenance/train@1.json").read_text())
    assert made["parameters"]["update"]["learning_rate"] == 0.001


@long
def test_the_installed_package_is_watched(project: Project, tmp_path: Path) -> None:
    """No pipeline/ beside dvc.yaml: `hapo run` links the code, and an upgrade is seen."""
    site = project.path / ".venv" / "site-packages"
    site.mkdir(parents=True)
    for package in ("pipeline", "hapo_core"):
        shutil.move(project.path / package, site / package)
    project.env["PYTHONPATH"] = str(site)
    project.hapo("run", "--no-server")
    project.ran()
    assert "up to date" in project.dvc("status").stdout
    path = site / "pipeline/grading/streaming.py"
    path.write_text(path.read_text() + "\nMORE = 1\n")
    changed(project, "train", "evaluate")
    project.dvc("repro")
    assert {"train@1", "train@2", "evaluate@base"} <= set(project.ran())


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_loaded_modules_are_locked_or_plumbing(stage: str, warmth: dict[str, str]) -> None:
    """What an entry loads at once is in the closure, or plumbing; test_locked_modules.py asks it of
    whole runs."""
    project = Project(REPO, forks=warmth)
    loaded = loaded_by(project, f"pipeline.{stage}.__main__")
    assert loaded and past_the_lock(project, stage, loaded) == set()
