"""Stand-ins for the stages that write real tables of made-up runs (tests/support/report_run.py),
for tests of `hapo compare`. Copied into a test project as `pipeline/toy_stage.py`.

Environment: TOY_LOG (a file that gets a line per stage that runs), TOY_FAIL_FILE (while this file
is there, the stage that it names fails), TOY_SECONDS (how long a train stage works).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hapo_core.errors import HapoError
from pipeline import report_run as made
from pipeline.artifacts import (
    MANIFEST,
    atomic_write_json,
    atomic_write_text,
    read_json,
    record_timing,
    write_manifest,
)
from pipeline.config import Params, load_params
from pipeline.dependencies.provenance import begin

ARTIFACTS = Path("artifacts")
SKILL = {"grpo": 0.2, "hapo": 0.5, "luffy": 0.45}


def story_of(params: Params) -> made.Story:
    """The made-up run of a configuration."""
    threshold = params.gate.threshold
    skill = SKILL.get(params.method, 0.4)
    return replace(
        made.SMALL,
        method=params.method,
        seed=params.seed,
        threshold=threshold.kind,
        gamma=getattr(threshold, "gamma", 0.6),
        segments=tuple(s.rounds for s in params.segments.values()),
        held_out=(0.05, skill),
        problems=20,
        samples=2,
    )


def train(params: Params, name: str) -> None:
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    with tempfile.TemporaryDirectory() as aside:
        made._train(Path(aside), story_of(params))
        shutil.rmtree(ARTIFACTS / "policy" / name, ignore_errors=True)
        shutil.copytree(Path(aside) / "policy" / name, ARTIFACTS / "policy" / name)
    record_timing(f"train@{name}", 1.5)


def evaluate(params: Params, name: str) -> None:
    folder = ARTIFACTS / "evaluation" / name
    shutil.rmtree(folder, ignore_errors=True)
    share = story_of(params).held_out[name == "final"]
    with tempfile.TemporaryDirectory() as aside:
        made._evaluate(Path(aside) / "evaluation" / name, name, share, story_of(params))
        shutil.copytree(Path(aside) / "evaluation" / name, folder)
    metrics = read_json(folder / "metrics.json")
    for benchmark, entry in metrics["benchmarks"].items():
        entry["problems_sha256"] = f"{benchmark}-{params.seed}"
    (folder / MANIFEST).unlink()
    atomic_write_json(folder / "metrics.json", metrics)
    write_manifest(folder, "evaluation", {})
    record_timing(f"evaluate@{name}", 1.0)


def main(stage: str) -> None:
    """Called by each stand-in module with its own name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--segment")
    parser.add_argument("--target")
    options = parser.parse_args()
    name, params = options.segment or options.target, load_params()
    flag = Path(os.environ.get("TOY_FAIL_FILE", "/nonexistent"))
    full = f"{stage}@{name}" if name else stage
    with Path(os.environ["TOY_LOG"]).open("a") as log:
        log.write(f"{full} {params.method} {params.seed}\n")
    if flag.is_file() and flag.read_text() == f"{full} {params.method}":
        raise HapoError("this stage was told to fail")
    if stage != "report":
        begin(full, params).write()
    match stage:
        case "curate":
            atomic_write_text(ARTIFACTS / "probe" / "off", "off")
            made._data(ARTIFACTS / "data")
            for table in ("problems.parquet", "traces.parquet", "benchmarks/chains6.parquet"):
                atomic_write_text(ARTIFACTS / "data" / table, f"{table} {params.seed}")
            record_timing(stage, 1.0)
        case "base":
            made._base(ARTIFACTS / "policy" / "base")
            record_timing(stage, 1.0)
        case "train":
            train(params, name)
        case "evaluate":
            evaluate(params, name)
