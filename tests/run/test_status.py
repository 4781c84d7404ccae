"""`hapo status`: what ran, what would run and why, while nothing or something goes on."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Project, eventually

from pipeline.checks.status import _changed_params, _progress
from pipeline.config import load_params
from pipeline.dependencies.lock import differences
from pipeline.system.disk_use import DiskSizes
from pipeline.system.locks import run_holder, run_lock


def status(project: Project) -> dict[str, Any]:
    return dict(json.loads(project.hapo("status", "--json").stdout))


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage["name"]: stage for stage in found["stages"]}


def test_a_finished_project_has_nothing_to_do(finished_project: Project) -> None:
    found = status(finished_project)
    assert found["run"] is None and found["free"] > 0
    assert [s["state"] for s in found["stages"]] == ["up to date"] * 7
    assert found["stages"][-1]["name"] == "report"
    assert by_name(found)["train@1"]["bytes"] > 0
    assert {"artifacts", "DVC's cache", "reports"} <= set(found["disk"])
    assert "`hapo run` has nothing to do" in finished_project.hapo("status").stdout


def test_reasons_name_what_changed(finished_project: Project) -> None:
    finished_project.edit("{k: 4, max_tokens: 32}", "{k: 8, max_tokens: 32}")
    code = finished_project.path / "hapo_core/methods/hapo.py"
    code.write_text(code.read_text() + "\nMORE = 1\n")
    stages = by_name(status(finished_project))
    assert stages["evaluate@base"]["state"] == "changed"
    assert stages["evaluate@base"]["reasons"] == ["evaluate.benchmarks.held_out.k: 4 -> 8"]
    assert stages["train@1"]["reasons"] == ["hapo_core.methods.hapo was edited"]
    assert stages["train@2"]["state"] == "changed" and stages["curate"]["state"] == "up to date"
    text = finished_project.hapo("status").stdout
    assert "evaluate.benchmarks.held_out.k: 4 -> 8" in text
    finished_project.dvc("repro", "deps")  # the locks say it to DVC
    planned = finished_project.dvc("repro", "--dry").stdout
    for name, stage in stages.items():  # DVC agrees on what is sure to run
        if stage["state"] == "changed":
            assert f"Running stage '{name}'" in planned
        elif stage["state"] == "up to date":
            assert f"Stage '{name}' didn't change" in planned


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 -> 2"]),
        ({"a": None}, {"a": 1}, ["a: null -> 1"]),
        ({"a": None}, {"a": None}, []),
        ({}, {"a": None}, ["a: (none) -> null"]),  # null switches off what is on without it
        ({"a": {"b": None}}, {"a": {}}, ["a: (none) -> {}", "a.b: null -> (none)"]),
        ({"a": (1, 2)}, {"a": [1, 2]}, []),  # YAML and pydantic read the same
        ({"a": ""}, {"a": None}, ["a:  -> null"]),
    ],
)
def test_a_lock_and_status_see_the_same(before: Any, now: Any, said: list[str]) -> None:
    assert differences({"parameters": before}, {"parameters": now}) == said
    asked = SimpleNamespace(hash_info=SimpleNamespace(value=before), read_params=lambda: now)
    if before:
        assert list(_changed_params(asked)) == said


def test_what_follows_waits(finished_project: Project) -> None:
    finished_project.hapo("segments", "3")
    stages = by_name(status(finished_project))
    assert stages["train@3"]["state"] == "new" and stages["train@2"]["state"] == "up to date"
    assert stages["evaluate@base"]["state"] == "up to date"
    assert "output" not in " ".join(stages["report"]["reasons"])
    assert "train@3" in finished_project.hapo("status").stdout


def test_in_the_middle_of_a_run(finished_project: Project) -> None:
    project = finished_project
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    project.env["TOY_SECONDS"] = "60"
    run = project.start("pipeline.cli", "run", "--no-server")
    log = project.path / "ran.log"
    try:
        eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=60)
        found = status(project)
        assert found["run"] == run.pid
        stages = by_name(found)
        assert stages["train@2"]["state"] == "running" and stages["train@2"]["process"]
        assert stages["report"]["state"] in ("waits", "changed")
        assert stages["train@1"]["state"] == "up to date"
        assert run.poll() is None, "asking must not disturb the run"
        assert "running  train@2" in project.hapo("status").stdout
    finally:
        run.kill()
        run.communicate(timeout=30)


def test_holder_of_the_run_lock(tmp_path: Path) -> None:
    assert run_holder(tmp_path) is None
    with run_lock(tmp_path):
        assert run_holder(tmp_path) == os.getpid()
    assert run_holder(tmp_path) is None


def test_progress_counts_what_a_kill_would_leave(project: Project) -> None:
    params = load_params(project.path / "params.yaml")
    folder = project.path / ".hapo/scratch/train@2-0123"
    assert _progress("train@2", params, project.path) is None
    for number in (3, 4):  # rounds are counted over all segments; segment 2 starts after 2
        table = folder / f"rounds/round-{number:05d}.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("x")
        os.utime(table, (time.time(), 1000.0 + 10 * number))
    (folder / "states/round-00003").mkdir(parents=True)
    (folder / "states/round-00003/manifest.json").write_text("{}")
    (folder / "states/.round-00004.partial").mkdir()
    found = _progress("train@2", params, project.path)
    assert found is not None and (found.kept, found.total) == (1, 2)
    assert found.seconds_each == pytest.approx(10.0)
    assert str(found) == "1/2 rounds kept, 10 s each, left 10s"


def test_a_clock_that_was_set_back_gives_no_negative_pace(project: Project) -> None:
    folder = project.path / ".hapo/scratch/train@2-0123/rounds"
    folder.mkdir(parents=True)
    for number, written in enumerate((5000.0, 5010.0, 0.0, 10.0, 4e9), start=3):
        (folder / f"round-{number:05d}.parquet").write_text("x")
        os.utime(folder / f"round-{number:05d}.parquet", (0, written))
    found = _progress("train@2", load_params(project.path / "params.yaml"), project.path)
    assert found is not None and found.seconds_each == pytest.approx(10.0)


def test_rounds_of_other_values_are_not_shown_as_those_of_now(finished_project: Project) -> None:
    states = finished_project.path / ".hapo/scratch/train@1-0123/states/round-00001"
    states.mkdir(parents=True)
    (states / "manifest.json").write_text("{}")
    finished_project.edit("update: {learning_rate: 0.001}", "update: {learning_rate: 0.01}")
    progress = by_name(status(finished_project))["train@1"]["progress"]
    assert (progress["kept"], progress["goes_on"]) == (1, False)
    assert "1/2 rounds kept, made with other values" in finished_project.hapo("status").stdout


def test_a_shared_file_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "a", tmp_path / "b" / "same")
    sizes = DiskSizes()
    assert sizes.of(tmp_path) >= 10_000 and sizes.of(tmp_path / "b") == 0
