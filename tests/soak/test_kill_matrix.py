"""The kill matrix: SIGKILL for the stage, dvc, the run, the server, a worker, and all at once.

`make soak` (HAPO_SOAK=1) goes through all points: the same command again and again in five
projects, killed every time, until it ends; then the bytes of the uninterrupted run must be there.
Five more projects have deaths that a run survives. The engine's death: test_vllm_engine.py.
The short form, three kills in a row, is in test_end_to_end.py.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from conftest import long
from kills import ALL, MATRIX, Outcome, Range, chains, check, record, stop_server

SEED = int(os.environ.get("HAPO_SOAK_SEED", "0"))
OUT = Path(os.environ.get("HAPO_SOAK_OUT", "build/soak.jsonl"))


@long
@pytest.mark.timeout(10800)
def test_every_kill_point(tmp_path: Path) -> None:
    """Every victim at every point of MATRIX, at least 30 kills; none loses more than the round that
    it interrupts, nor changes a byte."""
    shots = Range.made(tmp_path)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for number, chain in enumerate(chains(random.Random(SEED), shots.counts, shots.wall)):
        project = shots.copy(f"chain{number}")
        try:
            for k, point in enumerate(chain):
                began = time.monotonic()
                outcome = shots.kill_once(project, point, f"plan{k}")
                outcome.seconds = round(time.monotonic() - began, 1)
                outcomes.append(outcome)
                record(outcomes, OUT)
                print(f"chain {number}: {outcome}", flush=True)
                check(outcome, point)
                if outcome.status == 0 and point.target == "train@2":
                    break
        finally:
            stop_server(project)
        assert outcome.status == 0
        assert shots.hashes(project, "train@2") == shots.whole["train@2"]
    kills = [o for o in outcomes if o.victims and o.where != "not reached"]
    assert len(kills) >= 30
    assert {v for o in kills for v in o.victims} == set(ALL)
    assert MATRIX - {(o.victims, o.name) for o in kills} == set()
