"""What a finished cell found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.compare.cells import Cell
from pipeline.places import EVALUATIONS, POLICIES, TIMINGS
from pipeline.store import check_manifest, read_json
from pipeline.tables import GENERATIONS, ROUNDS, read_frame

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


def files_of(cell: Cell) -> list[Path]:
    """What a page needs of a cell, by its place in the project."""
    evaluations = [EVALUATIONS / target for target in TARGETS]
    rounds = [POLICIES / name / "rounds.parquet" for name in cell.params.segments]
    timings = [_timing(name) for name in cell.params.segments]
    return [*evaluations, *rounds, *timings]


def _timing(segment: str) -> Path:
    return TIMINGS / f"train@{segment}.json"


def read_result(cell: Cell, folder: Path) -> Result:
    """A finished cell.

    Args:
        folder: of `fetched.fetch`, with the cell's `files_of`.

    Raises:
        DataError: a table is damaged.
    """
    scores: dict[tuple[str, str], Scores] = {}
    problems: dict[tuple[str, str], str] = {}
    protocols: dict[str, dict[str, Any]] = {}
    for target in TARGETS:
        home = folder / EVALUATIONS / target
        check_manifest(home, "evaluation")
        for name, entry in read_json(home / "metrics.json")["benchmarks"].items():
            frame = read_frame(home / f"{name}.parquet", GENERATIONS)
            means = (frame.verdict == "correct").groupby(frame.problem_id).mean()
            scores[target, name] = {str(k): float(v) for k, v in means.items()}
            problems[target, name] = str(entry["problems_sha256"])
            protocols[name] = {k: entry[k] for k in ("k", "n", "temperature", "max_tokens")}
    segments = list(cell.params.segments)
    walls = [read_json(folder / _timing(k)).get("wall_s") for k in segments]
    return Result(
        label=cell.label,
        seed=cell.seed,
        experiment=cell.name,
        rounds=pd.concat(
            [read_frame(folder / POLICIES / k / "rounds.parquet", ROUNDS) for k in segments],
            ignore_index=True,
        ),
        scores=scores,
        problems=problems,
        protocols=protocols,
        wall_s=None if None in walls else float(sum(walls)),
    )
