"""The part of the kit that runs the quickstart's stages on the device and on the CPU beside it."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPO = Path(__file__).resolve().parents[2]
STAGES = (
    ("pipeline.dependencies",),
    ("pipeline.curate",),
    ("pipeline.base",),
    ("pipeline.evaluate", "--target", "base"),
    ("pipeline.train", "--segment", "1"),
    ("pipeline.evaluate", "--target", "final"),
)
FAR = 0.25
"""Held-out success on the two devices may differ by this much: the draws soon part, and from then
on these are two runs (three seeds on a CPU lie between 94 and 97 % after 45 rounds)."""


def quickstart(device: str, small: bool) -> dict[str, Any]:
    """Stages one after another, without DVC and Prefect, on the CPU at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {"device": device} | ({} if device == "cpu" else {"beside": "cpu"})
        running = {
            side: _started(Path(folder) / side, where, small) for side, where in sides.items()
        }
        for side, process in running.items():
            if process.wait():
                raise RuntimeError(f"{side}: {(Path(folder) / side / 'log').read_text()[-2500:]}")
        lines = {sides[side]: _figures(Path(folder) / side) for side in running}
    wrong = []
    if device != "cpu" and not small:
        apart = abs(lines[device]["held out after"] - lines["cpu"]["held out after"])
        if apart > FAR:
            wrong.append(f"held-out success is {apart:.2f} from the CPU's")
    return {"lines": lines, "wrong": wrong}


def _started(root: Path, device: str, small: bool) -> subprocess.Popen[bytes]:
    """A copy of the project whose stages run one after another in a process."""
    root.mkdir()
    for name in ("hapo_core", "pipeline", "data", "params"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "dvc.yaml", root)
    yaml = YAML()
    params = yaml.load((REPO / "params/quickstart.yaml").read_text(encoding="utf-8"))
    params["compute"] = {"device": device, "threads": 1 if small else 4}
    params["segments"] = {"1": {"prev": "base", "rounds": 2 if small else 30}}
    params["targets"] = {"base": {"policy": "base"}, "final": {"policy": "1"}}
    if small:
        _shrink(params)
    yaml.dump(params, root / "params.yaml")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, __file__]
    with (root / "log").open("w") as log:
        return subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=subprocess.STDOUT)


def stages() -> int:
    """All stages in this process, as `python -m` runs each: imports cost more than small stages."""
    for module, *words in STAGES:
        sys.argv = [module, *words]
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            if end.code:
                print(f"{module} {' '.join(words)} ended with {end.code}", flush=True)
                return 1
    return 0


def _shrink(params: Any) -> None:
    params["curate"]["sources"]["chains"]["count"] = 16
    for benchmark in params["curate"]["benchmarks"].values():
        benchmark["count"] = 4
    params["base"].update({"steps": 3, "hidden_size": 32, "layers": 2, "heads": 2})
    params["rollout"].update({"group_size": 2, "max_tokens": 112})
    params["train"].update({"prompts_per_round": 2, "probe_every": 2, "probe_problems": 2})
    for protocol in params["evaluate"]["benchmarks"].values():
        protocol["k"] = 2


def _figures(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for target, word in (("base", "before"), ("final", "after")):
        metrics = json.loads((root / f"artifacts/evaluation/{target}/metrics.json").read_text())
        found[f"held out {word}"] = metrics["benchmarks"]["heldout"]["avg"]
    for name in ("base", "train@1", "evaluate@final"):
        timing = json.loads((root / f"artifacts/timings/{name}.json").read_text())
        found[f"{name} s"] = timing["wall_s"]
    return found


if __name__ == "__main__":
    raise SystemExit(stages())
