"""Stand-ins for the stages: real files at the real places, no learning. Copied into a test project.

Environment: TOY_SECONDS (how long a train stage works), TOY_FAIL (the stage that fails),
TOY_LEAK (the stage that tells its credentials), TOY_EDIT (JSON: `stage`, `when` (middle,
end), and a shell command `do`: what somebody does to the project while it runs; once).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hapo_core.errors import HapoError
from pipeline.artifacts import (
    Scratch,
    atomic_write_json,
    atomic_write_text,
    record_timing,
    write_manifest,
)
from pipeline.artifacts.tables import ROUNDS
from pipeline.config import load_params
from pipeline.dependencies.provenance import begin
from pipeline.flows.observer import Observer
from pipeline.flows.stage import run_stage, stage_main
from pipeline.show.rounds_page import RoundsPage

POLICY = Path("artifacts/policy")


def publish(stage: str, target: Path, kind: str, files: dict[str, str]) -> None:
    """Write an artifact the way the real stages do."""
    scratch = Scratch(stage, "toy")
    for name, text in files.items():
        atomic_write_text(scratch.path / name, text)
    write_manifest(scratch.path, kind, {"stage": stage})
    scratch.publish(target)
    record_timing(stage, time.time())  # differs from run to run, as a time does


def curate(observer: Observer) -> None:
    seed = load_params().seed
    files = {"problems.parquet": f"problems {seed}", "traces.parquet": "traces"}
    files["benchmarks/held_out.parquet"] = "benchmark"
    atomic_write_text(Path("artifacts/probe/off"), "off")
    publish("curate", Path("artifacts/data"), "data", files)


def base(observer: Observer) -> None:
    publish("base", POLICY / "base", "policy", {"model/weights": "base"})


def toy_round(number: int, segment: str, success: float) -> dict[str, object]:
    """A row of the ROUNDS table."""
    row: dict[str, object] = {field.name: 0 for field in ROUNDS}
    row |= {"round": number, "segment": segment, "phase": "rl", "prompts": 2, "rollouts": 16}
    row |= {"success_rate": success, "generated_tokens": 640, "dead_groups": 1, "probe_avg": None}
    right = round(16 * success)
    return row | {"verdict_correct": right, "verdict_wrong": 16 - right, "loss": 0.5}


def train(observer: Observer, name: str) -> None:
    params = load_params()
    segment = params.segments[name]
    seconds = float(os.environ.get("TOY_SECONDS", "0"))
    board = RoundsPage(observer, name)
    for done in range(segment.rounds):
        observer.part = str(done + 1)
        for task in ("rollout", "verify", "gate", "update"):
            observer.task(task, time.sleep, seconds / segment.rounds / 4)
        observer.progress(done + 1, segment.rounds, success=done / segment.rounds)
        board.add(toy_round(done + 1, name, done / segment.rounds), 2.0)
    board.close()
    before = (POLICY / segment.prev / "model" / "weights").read_text()
    weights = f"{before}\n{name}: {segment.rounds} rounds of {params.method}"
    files = {"model/weights": weights, "rounds.parquet": f"rounds of {name}"}
    files["state/optimizer.safetensors"] = f"moments of {name}\n" * 1000
    publish(f"train@{name}", POLICY / name, "segment", files)


def evaluate(observer: Observer, name: str) -> None:
    params = load_params()
    weights = (POLICY / params.targets[name].policy / "model" / "weights").read_text()
    k = next(iter(params.evaluate.benchmarks.values())).k
    metrics = {"policy": name, "k": k, "length": len(weights)}
    files = {"metrics.json": json.dumps(metrics)}
    publish(f"evaluate@{name}", Path("artifacts/evaluation") / name, "evaluation", files)


def report(observer: Observer) -> None:
    for name in ("report.html", "report.md", "plots/success.csv", "plots/injection.csv"):
        atomic_write_text(Path("reports") / name, "round,training,held_out,predicted,measured\n")
    number = {"avg": 0.25, "n": 8, "k": 4, "ci": [0.125, 0.375]}
    rounds = sum(segment.rounds for segment in load_params().segments.values())
    summary = {"method": "hapo", "profile": "toy", "seed": 0, "rounds": rounds}
    both = {"base": {"held_out": number}, "final": {"held_out": number}}
    atomic_write_json(Path("reports/summary.json"), {**summary, **both})


def _leak() -> None:
    raise ValueError(f"401 for {os.environ['HF_TOKEN']}: {Path('.dvc/config.local').read_text()}")


def _edit(stage: str, when: str) -> None:
    wanted, done = json.loads(os.environ.get("TOY_EDIT", "{}")), Path("edited.flag")
    if wanted.get("stage") == stage and wanted["when"] == when and not done.exists():
        done.touch()
        subprocess.run(wanted["do"], shell=True, check=True)


def main(stage: str) -> None:
    """Called by each stand-in module with its own name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--segment")
    parser.add_argument("--target")
    options = parser.parse_args()
    name = options.segment or options.target
    full = f"{stage}@{name}" if name else stage

    def work(observer: Observer) -> None:
        with Path("ran.log").open("a") as log:
            log.write(full + "\n")
        if os.environ.get("TOY_FAIL") == full:
            raise HapoError("this stage was told to fail", where=full, remedy="tell it not to")
        if os.environ.get("TOY_LEAK") == full:  # as a careless library would
            observer.log(f"token {os.environ['HF_TOKEN']}")
            print("https://somebody:" + Path(".dvc/config.local").read_text())
            observer.markdown_artifact("report", f"`{os.environ['AWS_SECRET_ACCESS_KEY']}`")
            observer.task("collect", _leak)
        function: Callable[..., None] = globals()[stage]
        made = begin(full, load_params())
        function(observer, *([name] if name else []))
        _edit(full, "middle")
        made.check()
        if stage != "report":
            made.write()
        _edit(full, "end")

    stage_main(lambda: run_stage(full, work))
