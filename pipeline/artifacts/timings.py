"""Wall times and tokens of stages, apart from what is reproducible."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import atomic_write_json, read_json
from pipeline.artifacts.places import TIMINGS

EARLIER = Path(".hapo/timings")
"""Timings of earlier runs: for estimates, no part of a result."""
MEASURED = "measured"


def record_timing(
    stage: str,
    wall_s: float,
    *,
    generated: int = 0,
    trained: int = 0,
    rows: int | None = None,
    parts: Mapping[str, float] | None = None,
    root: Path = TIMINGS,
) -> None:
    """Write `artifacts/timings/STAGE.json`; wall times live apart from reproducible artifacts.

    Args:
        wall_s: seconds of the stage, over all its attempts.
        generated: tokens sampled.
        trained: tokens that went through forward and backward.
        rows: input rows, where the stage's speed is counted in them.
        parts: seconds by name.
    """
    facts: dict[str, object] = {
        "stage": stage,
        "wall_s": round(wall_s, 3),
        "tokens": {"generated": generated, "trained": trained},
        "parts": {name: round(seconds, 3) for name, seconds in sorted((parts or {}).items())},
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if rows is not None:
        facts["rows_per_second"] = round(rows / wall_s, 1)
    atomic_write_json(root / f"{stage}.json", facts)
    if root == TIMINGS:  # DVC removes what a stage wrote before it runs it again
        atomic_write_json(EARLIER / f"{stage}.json", facts)


def read_timings(root: Path = TIMINGS) -> dict[str, dict[str, Any]]:
    """All recorded timings by stage; an empty dict where there are none."""
    return {path.stem: read_json(path) for path in sorted(root.glob("*.json"))}


def record_pace(
    round_s: float | None = None,
    evaluation_s: float | None = None,
    project: Path = Path(),
    *,
    parts: Mapping[str, float] | None = None,
) -> None:
    """Keep seconds that were measured and not run: of a round (and its parts), of an evaluation."""
    place = project / EARLIER / f"{MEASURED}.json"
    known = read_json(place) if place.is_file() else {}
    now = {"round_s": round_s, "evaluation_s": evaluation_s, "parts": parts}
    atomic_write_json(place, known | {k: v for k, v in now.items() if v is not None})


def known_timings() -> dict[str, dict[str, Any]]:
    """The timings of this result, and of earlier runs in this folder where it has none; under
    MEASURED what was measured without a run."""
    return read_timings(EARLIER) | read_timings()
