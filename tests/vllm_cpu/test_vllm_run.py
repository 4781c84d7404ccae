"""Stages with `rollout.engine: vllm`: the same run, and an exact resume after kill -9 (float32).

What the sampler reports as log-probs depends in the last digits on what else is in its batch, so
those are compared with a tolerance; tokens, verdicts, policy and optimizer are compared exactly.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project
from loaded import noting, past_the_lock
from small import PARAMS, clone, hashes
from vllm_support import ENVIRONMENT, needs_engine

from pipeline.artifacts import read_json
from pipeline.artifacts.tables import GENERATIONS, GROUPS, ROLLOUTS, ROUNDS, read_frame

pytestmark = needs_engine
REPORTED = ["logprobs"]
"""Columns of ROLLOUTS that carry the sampler's own arithmetic."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project after its first two stages, with vLLM as the engine of both uses."""
    path = tmp_path_factory.mktemp("vllm") / "project"
    clone(path)
    project = Project(path, {"HF_HUB_OFFLINE": "1", "HAPO_PROGRESS_SECONDS": "0"})
    text = PARAMS.replace("hidden_size: 32", "hidden_size: 64")
    engine = f"engine: vllm, vllm: {{environment: {ENVIRONMENT}}}"
    text = text.replace("rollout: {", f"rollout: {{{engine}, ")
    text = text.replace(
        "evaluate:\n", f"evaluate:\n  {engine.replace(', vllm', chr(10) + '  vllm')}\n"
    )
    (path / "params.yaml").write_text(text)
    for stage in ("curate", "base"):
        project.call(f"pipeline.{stage}")
    return project


def _stage(project: Project, name: str, *words: str) -> None:
    """Run a stage to its end; a server takes its time to start."""
    done = subprocess.run(
        [sys.executable, "-m", f"pipeline.{name}", *words],
        cwd=project.path,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _rollouts(folder: Path) -> pd.DataFrame:
    return pd.concat(
        read_frame(folder / f"rollouts/round-{k:05d}.parquet", ROLLOUTS) for k in range(1, 5)
    )


@pytest.mark.timeout(1800)  # three starts of a server: 449 s on a loaded machine
def test_a_killed_segment_resumes_to_the_same_policy(prepared: Project, tmp_path: Path) -> None:
    whole = Project(tmp_path / "whole", prepared.env)
    broken = Project(tmp_path / "broken", prepared.env)
    for project in (whole, broken):
        shutil.copytree(prepared.path, project.path, symlinks=True)
    notes = tmp_path / "imports.txt"
    _stage(noting(whole, notes), "train", "--segment", "1")
    loaded = set(notes.read_text().split())
    assert "hapo_core.rollout.vllm.engine" in loaded
    assert past_the_lock(whole, "train", loaded) == set()

    stage = broken.start("pipeline.train", "--segment", "1")
    assert stage.stdout is not None
    for line in stage.stdout:
        if "round 2/4" in line:
            os.kill(stage.pid, signal.SIGKILL)
            break
    else:
        pytest.fail("the stage ended before it could be killed")
    stage.wait()
    _stage(broken, "train", "--segment", "1")

    one, other = (p.path / "artifacts/policy/1" for p in (whole, broken))
    for part in ("model", "state"):
        assert hashes(one / part) == hashes(other / part)
    assert (one / "posteriors.parquet").read_bytes() == (other / "posteriors.parquet").read_bytes()
    a, b = _rollouts(one), _rollouts(other)
    pd.testing.assert_frame_equal(a.drop(columns=REPORTED), b.drop(columns=REPORTED))
    for x, y in zip(a.logprobs, b.logprobs, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_allclose(x, y, atol=2e-5)
    for k in range(1, 5):
        name = f"groups/round-{k:05d}.parquet"
        pd.testing.assert_frame_equal(
            read_frame(one / name, GROUPS), read_frame(other / name, GROUPS)
        )
    rounds = read_frame(one / "rounds.parquet", ROUNDS)
    assert rounds.mismatch_max.max() < 1e-3 and rounds.mismatch_mean.min() >= 0
    logs = (whole.path / ".hapo/engine/train@1/server-0.log").read_text()
    assert "vLLM" in logs or "vllm" in logs
    assert not list((whole.path / ".hapo/engine/train@1").glob("weights-*"))


def test_an_evaluation_runs_on_servers_too(prepared: Project) -> None:
    _stage(prepared, "evaluate", "--target", "base")
    folder = prepared.path / "artifacts/evaluation/base"
    frame = read_frame(folder / "heldout.parquet", GENERATIONS)
    assert len(frame) == 16 and frame.token_ids.map(len).max() <= 48
    assert read_json(folder / "metrics.json")["benchmarks"]["heldout"]["n"] == 8
