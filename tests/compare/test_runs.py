"""The table of finished runs."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_results import made_result

from pipeline.artifacts import revisions
from pipeline.compare.runs import runs_csv
from pipeline.system.locks import compare_lock


def test_a_line_for_every_finished_run() -> None:
    results = [
        made_result("hapo", 3, 0.5, [8] * 10 + [0] * 9 + [4]),
        made_result("grpo", 3, 0.2, [0]),
    ]
    frame = pd.read_csv(io.StringIO(runs_csv(results)))
    hapo, grpo = frame.to_dict("records")
    mean = 100 * np.mean(list(results[0].scores["final", "held"].values()))
    assert hapo["held"] == pytest.approx(mean, abs=1e-3) and hapo["held_base"] < hapo["held"]
    assert (hapo["rounds"], hapo["last_injection"], hapo["generated"]) == (20, 20, 2000)
    assert hapo["injected"] == pytest.approx(100 * 84 / results[0].rounds.prompts.sum(), abs=0.01)
    assert (grpo["setting"], grpo["seed"], grpo["injected"]) == ("grpo", 3, 0)
    assert pd.isna(grpo["last_injection"]) and pd.isna(grpo["alarm"])


def test_the_second_comparison_waits_for_the_first(tmp_path: Path) -> None:
    told: list[str] = []
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(10)
        with compare_lock(tmp_path, told.append):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with compare_lock(tmp_path, told.append):
        inside.set()
        time.sleep(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and "another `hapo compare`" in told[0]


class Slow:
    """DVC's file system; while it copies, another process ends with the same copy."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def isdir(self, path: str) -> bool:
        return True

    def get(self, path: str, aside: str, recursive: bool) -> None:
        for folder in (Path(aside), self.target):
            folder.mkdir()
            (folder / "metrics.json").write_text("{}")


def test_two_copies_of_one_revision(tmp_path: Path) -> None:
    target = tmp_path / "final"
    revisions._copy(Slow(target), Path("final"), target, "main")  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["final"] and (target / "metrics.json").is_file()
