"""What stages really load, in runs of several kinds, stands in their locks (or is plumbing)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Project, long
from loaded import loaded_by, noting, past_the_lock
from small import PARAMS, clone

KINDS = {
    "plain": ("", ""),
    "lora": ("update: {", "update: {lora: {rank: 4}, "),
    "processes": ("compute: {threads: 1}", "compute: {threads: 1, processes: 2}"),
    "own verifier": ("{verifier: math}", '{verifier: "mine:same"}'),
    "chord": ("method: hapo", "method: chord"),
}
OWN = """from hapo_core.verify import Verdict

def same(gold, answer):
    return (Verdict.CORRECT if gold == answer else Verdict.WRONG), "compared as text"
"""
STAGES = (
    ("curate", []),
    ("base", []),
    ("train", ["--segment", "1"]),
    ("evaluate", ["--target", "base"]),
)


QUICK = ("lora", "processes")
"""What `make test` runs; `make soak` runs all."""


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=long) for k in KINDS])
def test_what_a_run_loads(kind: str, tmp_path: Path, warmth: dict[str, str]) -> None:
    """What they fork from has imported nothing of ours. Adapters decide nothing before training
    and nothing of the base's evaluation, which the other kinds note."""
    path = tmp_path / "project"
    clone(path)
    old, new = KINDS[kind]
    (path / "params.yaml").write_text(PARAMS.replace("rounds: 4", "rounds: 1").replace(old, new))
    (path / "mine.py").write_text(OWN)
    project = Project(path, {"HF_HUB_OFFLINE": "1"}, warmth)
    prepared = STAGES[:2] if kind == "lora" else ()
    for stage, words in prepared:
        project.call(f"pipeline.{stage}", *words)
    for stage, words in STAGES[2:3] if prepared else STAGES:
        notes = tmp_path / f"{stage}.txt"
        noting(project, notes).call(f"pipeline.{stage}", *words)
        loaded = set(notes.read_text().split())
        assert {"pipeline.config", f"pipeline.{stage}"} <= loaded
        if stage == "train":
            ours = {"lora": "hapo_core.lora", "chord": "hapo_core.methods.chord"}
            assert ours.get(kind, "hapo_core.update") in loaded
            assert kind == "own verifier" or "hapo_core.verify.workers.worker" in loaded
        assert past_the_lock(project, stage, loaded) == set()


def test_what_is_not_locked_is_seen(tmp_path: Path, warmth: dict[str, str]) -> None:
    """A module that a stage loads by a way that the closure cannot see."""
    clone(tmp_path / "project")
    project = Project(tmp_path / "project", forks=warmth)
    loaded = loaded_by(project, "pipeline.curate.__main__") | {"hapo_core.update"}
    assert past_the_lock(project, "curate", loaded) == {"hapo_core.update"}
    shutil.rmtree(project.path)
