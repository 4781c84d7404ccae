"""The speed benchmark compares like with like: both sides compute one loss and one gradient."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hapo_core.objective import PAPER, Aggregation

pytest.importorskip("accelerate", reason="accelerate is not installed (extra `dev`)")
pytest.importorskip("trl", reason="TRL is not installed (extra `dev`)")
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import flops
import speed
import speed_sides
import speed_work

WORK = speed_work.Workload("0.7M", 4, 4, 4, 64, 1, 1)


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
    lengths = sorted(speed_work.lengths_of(replace(WORK, groups=8, median=32)))
    assert max(lengths) == 320
    assert lengths[len(lengths) // 2] == pytest.approx(32, rel=0.1)


def test_flops_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = speed_work.make_model("0.7M", 1)
    model.set_attn_implementation("eager")  # torch counts no fused kernels on a CPU
    shape = flops.Shape.of(model)
    ids = torch.arange(4, 36)[None]
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(input_ids=ids, use_cache=False)
    # torch computes attention over all 32 x 32 pairs, of which 33 x 16 are needed.
    whole = 4 * shape.layers * shape.width * 32 * 32
    masked = whole - 4 * shape.layers * shape.width * 33 * 16
    assert shape.forward(0, 32, 32) == pytest.approx(forward.get_total_flops() - masked, rel=0.01)
    with FlopCounterMode(display=False) as both:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    unasked = 6 * shape.head * 19  # torch's count has the head after every token of the prompt
    row = both.get_total_flops() - 3 * masked - unasked
    assert shape.trained(20, 13) == pytest.approx(row, rel=0.03)
    parts = shape.forward(0, 20, 1) + shape.forward(20, 32, 12)
    assert parts == pytest.approx(shape.forward(0, 32, 13))
    assert shape.generated(20, [13, 1]) == pytest.approx(parts)


def test_dead_groups_and_padding_need_nothing() -> None:
    shape = flops.Shape(10, 100, 0, 0)
    groups = [flops.Lengths.of(5, (4, 2), (0.0, 0.0)), flops.Lengths.of(3, (4, 2), (1.0, 0.0))]
    trained = 6 * (10 * (6 + 4) + 100 * (4 + 2))
    assert flops.needed(shape, groups, generate=False, train=True) == trained
    # A prefill a group; the last tokens are fed to nobody.
    made = 2 * (10 * (5 + 3 + 1 + 3 + 3 + 1) + 100 * 2 * (1 + 3 + 1))
    assert flops.needed(shape, groups, generate=True, train=False) == made
    assert flops.peak("cpu", None) is None and flops.peak("cpu", 0.5) == 0.5e12
