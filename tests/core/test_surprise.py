"""Surprise of a trace, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hapo_core.surprise import surprise, trimmed_mean


def test_by_hand() -> None:
    found = surprise([math.log(p) for p in (0.5, 0.25, 0.0009, 0.001)], p_min=0.001)
    assert found.impossible == 0.25  # at p_min it is not below
    mean = -(math.log(0.5) + math.log(0.25) + math.log(0.0009) + math.log(0.001)) / 4
    assert found.nll == pytest.approx(mean)  # of four tokens none is trimmed


def test_the_trim() -> None:
    """Of 50: five of the lowest and one of the highest go."""
    values = np.arange(50.0)
    assert trimmed_mean(values[::-1]) == np.arange(5.0, 49.0).mean()
    assert trimmed_mean(np.array([3.0])) == 3.0
    one_blind_spot = np.array([0.1] * 49 + [25.0])
    assert trimmed_mean(one_blind_spot) == pytest.approx(0.1)


def test_nothing_has_no_surprise() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        surprise([], 0.001)
