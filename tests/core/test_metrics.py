"""Metrics: how the parts of micro-batches, steps and ranks become one number."""

from __future__ import annotations

import pytest

from hapo_core.metrics import Metrics, together


def rank(parts: list[tuple[float, float]], steps: int) -> Metrics:
    """One rank that notes every part in every way."""
    metrics = Metrics(steps=steps)
    for value, weight in parts:
        one = Metrics(tokens=int(weight))
        one.sum("sum", value)
        one.mean("mean", value, weight)
        one.max("max", value)
        one.per_step("step", value)
        metrics.add(one)
    return metrics


def test_parts_of_all_ranks_become_one_number() -> None:
    """Two ranks that made the same 2 steps: 1 + 2 on one, 5 on the other."""
    done = together([rank([(1.0, 2.0), (2.0, 1.0)], 2), rank([(5.0, 5.0)], 2)])
    assert dict(done.values) == {"sum": 8.0, "mean": 1.0, "max": 5.0, "step": 4.0}
    assert (done.trained_tokens, done.optimizer_steps) == (8, 2)


def test_how_the_parts_are_split_does_not_matter() -> None:
    parts = [(1.0, 2.0), (-3.0, 1.0), (5.0, 4.0), (0.5, 1.0)]
    whole = together([rank(parts, 1)])
    for cut in range(5):
        assert together([rank(parts[:cut], 1), rank(parts[cut:], 1)]) == whole


def test_a_maximum_of_negative_parts_is_negative() -> None:
    assert together([rank([(-2.0, 1.0)], 1), rank([(-1.0, 1.0), (-4.0, 1.0)], 1)])["max"] == -1.0


def test_nothing_trained_is_none_and_not_zero() -> None:
    done = together([rank([(1.0, 0.0)], 0)])
    assert done["mean"] is None and done["step"] is None and done["never noted"] is None


def test_a_name_has_one_kind() -> None:
    metrics = Metrics()
    metrics.sum("a", 1.0)
    with pytest.raises(ValueError, match="'a' is a sum"):
        metrics.max("a", 1.0)
    with pytest.raises(ValueError, match="letters"):
        metrics.sum("no name", 1.0)
