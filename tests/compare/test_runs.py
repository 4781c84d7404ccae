"""The table of finished runs."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from made_results import made_result

from pipeline.compare.runs import runs_csv


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
