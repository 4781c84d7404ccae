"""The kill matrix: SIGKILL for the stage, dvc, the run, the server, a worker, and all at once.

`make soak` goes through all points (HAPO_SOAK=1; about a quarter of an hour on idle cores); the
short form, three kills in a row, is in test_end_to_end.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from kills import Outcome, Range, check, named_points, random_points, record
from kills import stop_server as stop

SEED = int(os.environ.get("HAPO_SOAK_SEED", "0"))
OUT = Path(os.environ.get("HAPO_SOAK_OUT", "build/soak.jsonl"))
RANDOM_POINTS = int(os.environ.get("HAPO_SOAK_RANDOM", "9"))


@pytest.mark.skipif("HAPO_SOAK" not in os.environ, reason="takes a quarter of an hour: `make soak`")
@pytest.mark.timeout(7200)
def test_every_kill_point(tmp_path: Path) -> None:
    """Each point on a project of its own: killed once, continued once, the same bytes."""
    rng = random.Random(SEED)
    shots = Range.made(tmp_path)
    points = [
        *named_points(rng),
        *random_points(rng, shots.counts, shots.wall, RANDOM_POINTS),
    ]
    first, last = (int(x) for x in os.environ.get("HAPO_SOAK_POINTS", "0:999").split(":"))
    outcomes: list[Outcome] = []
    failures = []
    OUT.parent.mkdir(parents=True, exist_ok=True)
    for k, point in list(enumerate(points))[first:last]:
        project = shots.copy(f"point{k:02d}")
        began = time.monotonic()
        try:
            outcome = shots.kill_once(project, point, "plan")
            shots.resume(project, outcome, point)
        finally:
            if point.server:
                stop(project)
        outcome.seconds = round(time.monotonic() - began, 1)
        outcomes.append(outcome)
        record(outcomes, OUT)
        print(json.dumps({"point": k, "name": point.name, "where": outcome.where}), flush=True)
        try:
            check(outcome, point)
        except AssertionError as error:
            failures.append(str(error))
            OUT.with_suffix(".failures").write_text("\n\n=====\n".join(failures))
        else:
            shutil.rmtree(project.path)
    assert not failures, f"{len(failures)} of {len(outcomes)}: {failures[0]}"
    assert len({(o.name, o.where, o.victims) for o in outcomes}) >= min(30, last - first)
