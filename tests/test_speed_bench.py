"""The speed benchmark compares like with like: both sides compute one loss and one gradient."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hapo_core.loss import PAPER, Aggregation

pytest.importorskip("accelerate", reason="accelerate is not installed (extra `dev`)")
pytest.importorskip("trl", reason="TRL is not installed (extra `dev`)")
sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import speed
import speed_sides

WORK = speed_sides.Workload("0.7M", 4, 4, 4, 64, 1, 1)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_both_sides_compute_the_same(tmp_path: Path) -> None:
    found = speed.equality(WORK, tmp_path)
    assert found["loss"] <= speed.LOSS_TOLERANCE
    assert found["gradient"] <= speed.GRADIENT_TOLERANCE
    sparse = speed.equality(WORK, tmp_path, dead_share=0.75)
    assert sparse["loss"] <= speed.LOSS_TOLERANCE
    assert sparse["gradient"] <= speed.GRADIENT_TOLERANCE


def test_the_comparison_sees_another_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(PAPER, aggregation=Aggregation.SEQ_MEAN)
    monkeypatch.setattr(speed_sides, "OBJECTIVE", other)
    assert speed.equality(WORK, tmp_path)["gradient"] > 10 * speed.GRADIENT_TOLERANCE


def test_lengths_spread_ten_times_from_the_median_to_the_longest() -> None:
    lengths = sorted(speed_sides.lengths_of(replace(WORK, groups=8, median=32)))
    assert max(lengths) == 320
    assert lengths[len(lengths) // 2] == pytest.approx(32, rel=0.1)
