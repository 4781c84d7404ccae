"""What a finished cell found: fetched once from DVC's cache into `.hapo/compare/NAME/`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.compare.cells import Cell
from pipeline.store import atomic_write_json, check_manifest, read_json
from pipeline.tables import GENERATIONS, ROUNDS, read_frame

CELLS = Path(".hapo/compare")
FETCHED = "fetched.json"
TARGETS = ("base", "final")
Scores = dict[str, float]
"""Mean correctness by problem id."""


@dataclass(frozen=True)
class Result:
    """One finished cell. `scores`, `problems`: by (target, benchmark); `problems` is the hash of
    the set of problems, `wall_s` the seconds of its training stages."""

    label: str
    seed: int
    experiment: str
    rounds: pd.DataFrame
    scores: dict[tuple[str, str], Scores]
    problems: dict[tuple[str, str], str]
    protocols: dict[str, dict[str, Any]]
    wall_s: float | None


def fetch(root: Path, cell: Cell, commit: str) -> Path:
    """The cell's tables as files; from DVC's cache unless they are there already."""
    folder = root / CELLS / cell.name
    if (folder / FETCHED).is_file() and read_json(folder / FETCHED)["commit"] == commit:
        return folder
    from dvc.api import DVCFileSystem

    shutil.rmtree(folder, ignore_errors=True)
    files = DVCFileSystem(str(root), rev=commit)
    for target in TARGETS:
        home = folder / "evaluation" / target
        home.parent.mkdir(parents=True, exist_ok=True)
        files.get(f"artifacts/evaluation/{target}", str(home), recursive=True)
    for name in cell.params.segments:
        home = folder / "policy" / name
        home.mkdir(parents=True)
        files.get_file(f"artifacts/policy/{name}/rounds.parquet", str(home / "rounds.parquet"))
        files.get_file(f"artifacts/timings/train@{name}.json", str(home / "timing.json"))
    atomic_write_json(folder / FETCHED, {"commit": commit, "experiment": cell.name})
    return folder


def read_result(cell: Cell, folder: Path) -> Result:
    """A fetched cell.

    Raises:
        DataError: a table is damaged.
    """
    scores: dict[tuple[str, str], Scores] = {}
    problems: dict[tuple[str, str], str] = {}
    protocols: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        home = folder / "evaluation" / target
        check_manifest(home, "evaluation")
        for name, entry in read_json(home / "metrics.json")["benchmarks"].items():
            frame = read_frame(home / f"{name}.parquet", GENERATIONS)
            means = (frame.verdict == "correct").groupby(frame.problem_id).mean()
            scores[target, name] = {str(k): float(v) for k, v in means.items()}
            problems[target, name] = str(entry["problems_sha256"])
            protocols[name] = {k: entry[k] for k in ("k", "n", "temperature", "max_tokens")}
    segments = [folder / "policy" / name for name in cell.params.segments]
    walls = [read_json(home / "timing.json").get("wall_s") for home in segments]
    return Result(
        label=cell.label,
        seed=cell.seed,
        experiment=cell.name,
        rounds=pd.concat(
            [read_frame(home / "rounds.parquet", ROUNDS) for home in segments], ignore_index=True
        ),
        scores=scores,
        problems=problems,
        protocols=protocols,
        wall_s=None if None in walls else float(sum(walls)),
    )
