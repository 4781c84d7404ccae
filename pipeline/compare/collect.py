"""What a finished cell found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hapo_core.errors import DataError
from pipeline.artifacts import check_manifest, read_json
from pipeline.artifacts.places import EVALUATIONS, POLICIES, TIMINGS
from pipeline.artifacts.tables import GENERATIONS, ROUNDS, read_frame
from pipeline.compare.cells import Cell
from pipeline.dependencies.belongs import foreign
from pipeline.dependencies.lock import differences
from pipeline.dependencies.provenance import PROVENANCE, stage_parameters

Scores = dict[str, float]
"""Mean correctness by problem id."""


@dataclass(frozen=True)
class Result:
    """One finished cell. `scores`, `problems`: by (target, benchmark); `problems` is the hash of
    the set of problems, `wall_s` the seconds of its training stages, `start` the policy that the
    first segment goes on from: `base`, or that of the cold start."""

    label: str
    seed: int
    experiment: str
    rounds: pd.DataFrame
    scores: dict[tuple[str, str], Scores]
    problems: dict[tuple[str, str], str]
    protocols: dict[str, dict[str, Any]]
    wall_s: float | None
    start: str = "base"


def targets_of(cell: Cell) -> tuple[str, str]:
    """What is measured of it: the policy before the first round, and the last one."""
    return cell.params.start, "final"


def files_of(cell: Cell) -> list[Path]:
    """What a page needs of a cell, by its place in the project."""
    evaluations = [EVALUATIONS / target for target in targets_of(cell)]
    rounds = [POLICIES / name / "rounds.parquet" for name in cell.params.segments]
    timings = [_timing(name) for name in cell.params.segments]
    return [*evaluations, *rounds, *timings, *(_recorded(stage) for stage in _stages(cell))]


def _stages(cell: Cell) -> list[str]:
    segments = [f"train@{name}" for name in cell.params.segments]
    return [*segments, *(f"evaluate@{target}" for target in targets_of(cell))]


def _recorded(stage: str) -> Path:
    return PROVENANCE / f"{stage}.json"


def _check_made(cell: Cell, folder: Path) -> None:
    """An experiment counts for its cell if it was made with the cell's values: params.yaml may
    have been edited between the plan and the moment at which DVC read it."""
    for stage in _stages(cell):
        made = {"parameters": read_json(folder / _recorded(stage)).get("parameters", {})}
        wanted = json.loads(json.dumps({"parameters": stage_parameters(stage, cell.params)}))
        changed = differences(wanted, made)
        if changed:
            raise DataError(
                f"the experiment was not made with the values of its cell: {'; '.join(changed)}",
                where=f"{cell.name}: {stage}",
                remedy=f"`dvc exp remove {cell.name}`, then the same command runs it again",
            )


def _timing(segment: str) -> Path:
    return TIMINGS / f"train@{segment}.json"


def read_result(cell: Cell, folder: Path) -> Result:
    """A finished cell.

    Args:
        folder: of `fetched.fetch`, with the cell's `files_of`.

    Raises:
        DataError: a table is damaged, or the experiment was made with other values.
    """
    _check_made(cell, folder)
    records = {stage: read_json(folder / _recorded(stage)) for stage in _stages(cell)}
    for other in foreign(records, folder):
        raise DataError(
            f"the experiment holds something of another run: {other.said}",
            where=f"{cell.name}: {other.stage}",
            remedy=f"`dvc exp remove {cell.name}`, then the same command runs it again",
        )
    scores: dict[tuple[str, str], Scores] = {}
    problems: dict[tuple[str, str], str] = {}
    protocols: dict[str, dict[str, Any]] = {}
    for target in targets_of(cell):
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
        start=cell.params.start,
    )
