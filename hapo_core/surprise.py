"""Can a trace be learnt? How surprised the policy is by it (METHOD 9).

Two measures, because two things go wrong: a few tokens that the policy holds for impossible (a
blind spot: that is what a teacher is for), and a style that is foreign throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hapo_core.rng import Purpose, generator

P_MIN = 0.001
"""A token of a lower probability counts as impossible."""
DIGITS = 6
"""Decimals of nats in which surprises are compared: how a batch was split, padded or ordered moves
a log-prob by about 1e-7, and must decide nothing."""

LOWEST, HIGHEST = 0.1, 0.02
"""Shares of a trace's tokens that the trimmed mean leaves out: the most and the least expected."""


@dataclass(frozen=True)
class Surprise:
    """`impossible`: share of tokens with p < p_min; `nll`: nats per token, trimmed mean."""

    impossible: float
    nll: float


def surprise(logprobs: Sequence[float] | npt.NDArray[np.floating], p_min: float) -> Surprise:
    """Of one sequence under one policy.

    Args:
        logprobs: natural, one per token, at least one.
        p_min: below this a token counts as impossible.
    Raises:
        ValueError: no token.
    """
    nats = -np.asarray(logprobs, dtype=np.float64)
    if not nats.size:
        raise ValueError("a sequence without tokens has no surprise")
    return Surprise(float((nats > -math.log(p_min)).mean()), trimmed_mean(nats))


def trimmed_mean(values: npt.NDArray[np.float64]) -> float:
    """Mean without the lowest tenth and the highest fiftieth of the values, counts rounded down."""
    ordered = np.sort(values)
    low, high = math.floor(LOWEST * len(ordered)), math.floor(HIGHEST * len(ordered))
    return float(ordered[low : len(ordered) - high].mean())


def likeliest(found: Sequence[Surprise], seed: int, round_index: int, prompt_id: str) -> int:
    """Index of the trace that the policy is least surprised by: the lowest trimmed mean; equal
    ones by chance, keyed by prompt and round (METHOD 8)."""
    nats = [round(one.nll, DIGITS) for one in found]
    lowest = [i for i, value in enumerate(nats) if value == min(nats)]
    if len(lowest) == 1:
        return lowest[0]
    draw = generator(seed, Purpose.TRACE_TIE, round_index, prompt_id)
    return lowest[int(draw.integers(len(lowest)))]


def too_surprising(excess: float | None, limit: float) -> bool:
    """Whether a trace lies above `limit` nats a token; what is not known is not refused."""
    return excess is not None and round(excess, DIGITS) > limit
