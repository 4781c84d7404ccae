"""The bytes of everything that small runs write, so that a refactor can show that it changed none.

    python bench/bytes.py record.json                    # run and write the hashes
    python bench/bytes.py --against record.json          # run and compare; exit 1 where they differ
    python bench/bytes.py record.json --only quickstart  # the profile at seed 0 (five minutes)

Stages are run as `python -m pipeline.STAGE` in a copy of this checkout. The report is made on fixed
timings (wall times differ from run to run). Hashes belong to one machine: another processor or
another torch rounds differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPO = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "profile": "bytes",
    "seed": 3,
    "method": "hapo",
    "curate": {
        "sources": {"chains": {"kind": "chains", "count": 24, "min_steps": 2, "max_steps": 3}},
        "benchmarks": {"heldout": {"kind": "chains", "count": 8, "min_steps": 2, "max_steps": 3}},
        "max_prompt_tokens": 40,
        "max_trace_tokens": 48,
        "decontaminate_ngram": 0,
    },
    "base": {
        "kind": "tiny",
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "steps": 30,
        "batch_size": 8,
        "learning_rate": 0.003,
        "slip_probability": 0.5,
    },
    "gate": {
        "evidence": "prompt",
        "statistic": "thompson",
        "threshold": {"kind": "adaptive", "gamma_start": 0.5},
    },
    "teacher": {"shape": "log", "relift": {"buffer": 4}},
    "objective": {"preset": "paper"},
    "sft": {"rounds": 2},
    "rewards": {"verifier": "math"},
    "rollout": {"group_size": 4, "max_tokens": 48},
    "update": {"learning_rate": 0.001},
    "train": {
        "prompts_per_round": 6,
        "probe_benchmark": "heldout",
        "probe_every": 2,
        "probe_problems": 4,
    },
    "segments": {"1": {"prev": "base", "rounds": 3}, "2": {"prev": "1", "rounds": 1}},
    "evaluate": {"benchmarks": {"heldout": {"k": 2, "max_tokens": 48}}},
    "targets": {"base": {"policy": "base"}, "final": {"policy": "2"}},
    "compute": {"threads": 1},
}
PROJECTS: dict[str, dict[str, Any]] = {
    "hapo": {},
    "chord": {"method": "chord"},
    "relift": {"method": "relift"},
    "prefix_rft": {"method": "prefix_rft"},
    "lora": {"update": {"lora": {"rank": 4}}},
    "two_processes": {"compute": {"processes": 2}},
}
"""What each project sets on top of SMALL."""


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` over `base`, sections merged."""
    result = deepcopy(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def run_project(root: Path, params: dict[str, Any] | None) -> dict[str, str]:
    """All stages of one project in a copy of the code; None: params.yaml as it is."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("pipeline", "hapo_core", "data", "dvc.yaml", "params.yaml"):
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=skip)
        else:
            shutil.copy(source, root / name)
    yaml = YAML()
    if params is None:
        params = yaml.load(root / "params.yaml")
    else:
        with (root / "params.yaml").open("w") as file:
            yaml.dump(params, file)
    stages = [["curate"], ["base"]]
    stages += [["train", "--segment", str(key)] for key in params["segments"]]
    stages += [["evaluate", "--target", str(key)] for key in params["targets"]]
    for words in stages:
        run_stage(root, words)
    fix_timings(root / "artifacts" / "timings")
    run_stage(root, ["report"])
    return hashes(root, ("artifacts", "reports"))


def run_stage(root: Path, words: list[str]) -> None:
    """One stage as DVC starts it, without a Prefect server."""
    environment = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", f"pipeline.{words[0]}", *words[1:]]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} in {root}:\n{done.stdout[-2000:]}\n{done.stderr}")


def fix_timings(folder: Path) -> None:
    """Every number of seconds and megabytes becomes 1; counts of tokens stay."""

    def fixed(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {k: fixed(v, k) for k, v in value.items()}
        return 1.0 if isinstance(value, float) else value

    for path in folder.glob("*.json"):
        path.write_text(json.dumps(fixed(json.loads(path.read_text()), "")))


def hashes(root: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """sha256 by path; timings and what names the code are left out."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and not {"timings", "provenance", "probe"} & set(path.parts)
    }


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is new, gone or changed."""
    return [
        f"{'new' if path not in before else 'gone' if path not in after else 'changed'}: {path}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("record", type=Path, nargs="?", help="JSON file to write")
    parser.add_argument("--against", type=Path, help="a record of before")
    parser.add_argument("--only", nargs="+", choices=[*PROJECTS, "quickstart"])
    parser.add_argument("--keep", type=Path, help="leave the projects in this folder")
    options = parser.parse_args()
    before = json.loads(options.against.read_text()) if options.against else {}
    found: dict[str, dict[str, str]] = {}
    wrong = 0
    for name in options.only or [n for n in PROJECTS if not before or n in before]:
        with tempfile.TemporaryDirectory() as scratch:
            root = (options.keep / name) if options.keep else Path(scratch) / "project"
            root.mkdir(parents=True)
            params = None if name == "quickstart" else merged(SMALL, PROJECTS[name])
            found[name] = run_project(root, params)
        print(f"{name}: {len(found[name])} files", flush=True)
        if name in before:
            lines = differences(before[name], found[name])
            wrong += len(lines)
            print("\n".join(f"  {line}" for line in lines) or "  the same bytes", flush=True)
    if options.record:
        old = json.loads(options.record.read_text()) if options.record.is_file() else {}
        options.record.write_text(json.dumps(old | found, indent=1, sort_keys=True) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
