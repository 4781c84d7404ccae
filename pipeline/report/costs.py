"""Time, tokens and memory per stage, and the hashes that identify the artifacts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST, read_manifest, read_timings, sha256_file
from pipeline.config import Params


@dataclass(frozen=True)
class StageCost:
    """Wall time and tokens of one stage; None where nothing was recorded."""

    stage: str
    wall_s: float | None
    parts: dict[str, float]
    generated: int | None
    trained: int | None
    peak_rss_mb: float | None


@dataclass(frozen=True)
class Fingerprint:
    """What identifies an artifact: the sha256 of its manifest, and of its main files."""

    artifact: str
    files: int
    size: int
    sha256: str
    main: tuple[tuple[str, str], ...]


def stage_names(params: Params) -> list[str]:
    """The stages before the report, in the order of the pipeline."""
    train = [f"train@{name}" for name in params.segments]
    cold = [f"cold_start@{name}" for name in params.cold_start]
    return ["curate", "base", *cold, *train, *(f"evaluate@{name}" for name in params.targets)]


def read_costs(params: Params, timings: Path) -> tuple[StageCost, ...]:
    found = read_timings(timings)
    return tuple(_cost(stage, found.get(stage, {})) for stage in stage_names(params))


def _cost(stage: str, facts: dict[str, Any]) -> StageCost:
    tokens = facts.get("tokens") or {}
    parts = {k: float(v) for k, v in (facts.get("parts") or {}).items() if _number(v) is not None}
    return StageCost(
        stage=stage,
        wall_s=_number(facts.get("wall_s")),
        parts=parts,
        generated=_whole(tokens.get("generated")),
        trained=_whole(tokens.get("trained")),
        peak_rss_mb=_number(facts.get("peak_rss_mb")),
    )


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def read_fingerprints(params: Params, artifacts: Path) -> tuple[Fingerprint, ...]:
    policies = ["base", *params.segments]
    folders = [("data", artifacts / "data")]
    folders += [(f"policy/{name}", artifacts / "policy" / name) for name in policies]
    folders += [(f"evaluation/{t}", artifacts / "evaluation" / t) for t in params.targets]
    return tuple(_fingerprint(name, folder) for name, folder in folders if _has(folder))


def _has(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _fingerprint(name: str, folder: Path) -> Fingerprint:
    files: dict[str, dict[str, Any]] = read_manifest(folder)["files"]
    return Fingerprint(
        artifact=name,
        files=len(files),
        size=sum(int(f.get("bytes", 0)) for f in files.values()),
        sha256=sha256_file(folder / MANIFEST),
        main=tuple((f, str(v.get("sha256", ""))) for f, v in files.items() if _is_main(f)),
    )


def _is_main(file: str) -> bool:
    weights = file.startswith("model/") and file.endswith(".safetensors")
    return weights or file in ("problems.parquet", "traces.parquet") or "benchmarks/" in file
