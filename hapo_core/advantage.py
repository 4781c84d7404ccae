"""Group-relative advantages (METHOD 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum

from hapo_core.errors import HapoError

STD_EPSILON = 1e-6


class AdvantageKind(StrEnum):
    """How rewards of a group become advantages."""

    STD = "std"
    """(R - mean) / (std + 1e-6), std with ddof 1 (GRPO)."""
    MEAN_ONLY = "mean_only"
    """R - mean (Dr.GRPO, LUFFY's release)."""


def group_advantages(rewards: Sequence[float | None], kind: AdvantageKind) -> list[float]:
    """Advantages of one group, in float64.

    An unknown reward (None) takes no part in mean and std, and its rollout gets advantage 0.
    If all known rewards are equal, every advantage is exactly 0 (a dead group).

    Raises:
        HapoError: a reward is not a finite number. It would make every advantage of its group NaN.
    """
    known = [r for r in rewards if r is not None]
    if not all(map(math.isfinite, known)):
        raise HapoError(
            f"a reward is not a finite number: {known}",
            remedy="the reward of a response of which nothing is known is None",
        )
    if len(known) < 2 or min(known) == max(known):
        return [0.0] * len(rewards)
    mean = math.fsum(known) / len(known)
    scale = 1.0
    if kind is AdvantageKind.STD:
        variance = math.fsum((r - mean) ** 2 for r in known) / (len(known) - 1)
        scale = math.sqrt(variance) + STD_EPSILON
    return [0.0 if r is None else (r - mean) / scale for r in rewards]


def negative_scale(advantages: Sequence[float], floor: float) -> float:
    """The adaptive weight of advantages below 0 (arXiv 2605.30201): rows above 0 over rows below 0
    of a whole optimizer batch, between `floor` and 1; 1 where none is below 0."""
    above, below = (sum(sign * a > 0 for a in advantages) for sign in (1, -1))
    return min(1.0, max(floor, above / below)) if below else 1.0
