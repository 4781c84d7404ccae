"""Did help help? Injected against held-out groups at the prompts' next visits (METHOD 9).

Which groups are injected is decided by S, so injected and untouched groups differ before anything
was done to them. Held-out groups differ from injected ones by a draw alone: `gate.holdout`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from scipy import stats

from hapo_core.stats.visits import Visit, by_prompt

FEWEST = 2
"""Next visits on each side below which nothing is said."""


@dataclass(frozen=True)
class HelpEffect:
    """What an injection gave at the next visit of its prompt.

    `injected`, `held_out`: how many had a next visit with a known reward; `rates`: their mean
    success rates there; `effect`: the difference, a share; `ci`: its interval by Welch's t over
    visits, None where a side has fewer than `FEWEST` or neither side varies.
    """

    injected: int
    held_out: int
    rates: tuple[float, float]
    effect: float
    ci: tuple[float, float] | None


def help_effect(visits: Iterable[Visit], confidence: float = 0.95) -> HelpEffect | None:
    """Mean success rate at the next visit after an injection, less that after a held-out one.

    Args:
        visits: all of a run, in any order. Other decisions count as next visits only.
    Returns:
        None where one of the two sides has no next visit.
    """
    sides: dict[str, list[float]] = {"injected": [], "held_out": []}
    for ordered in by_prompt(visits):
        for now, then in pairwise(ordered):
            if now.decision in sides and then.known:
                sides[now.decision].append(then.successes / then.known)
    helped, left = sides["injected"], sides["held_out"]
    if not helped or not left:
        return None
    rates = (math.fsum(helped) / len(helped), math.fsum(left) / len(left))
    return HelpEffect(
        len(helped), len(left), rates, rates[0] - rates[1], _interval(helped, left, confidence)
    )


def _interval(
    helped: list[float], left: list[float], confidence: float
) -> tuple[float, float] | None:
    varies = len(set(helped)) > 1 or len(set(left)) > 1
    if min(len(helped), len(left)) < FEWEST or not varies:
        return None
    found = stats.ttest_ind(helped, left, equal_var=False).confidence_interval(confidence)
    return float(found.low), float(found.high)
