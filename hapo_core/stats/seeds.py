"""Claims about methods: the run is the unit, not the problem.

Two runs of one method with other seeds differ by more than their problems explain. A test over
problems, seeds pooled, asks whether *these runs* differ; here are the tests that ask whether the
*methods* do. They need seeds: six for a sign-flip test that can reach 5 % at all (2/2^6 = .031;
2/2^5 = .0625), fewer for a t test that believes in normal deviations between runs, and from two
runs nothing is claimed. bench/seeds.py simulates what the tests promise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import brentq

ENOUGH = 3
"""Fewer paired seeds than this and nothing is said about the methods."""
SIGN_FLIPS_FROM = 6
"""From here on the exact sign-flip test; below it Student's t."""
_MOST_EXACT = 16
"""2^16 sign patterns are counted one by one; beyond that a fixed sample of them is."""

TestName = Literal["none", "t", "sign flip"]


@dataclass(frozen=True)
class SeedTest:
    """What paired runs say about two methods.

    `n`: seeds that both have; `difference`: mean over seeds of (ours - theirs), a share;
    `ci`: Student's interval of it; `p`: two-sided; `detectable`: the true difference that this many
    seeds of this spread would find with a probability of 80 % at the 5 % level. None where `n` is
    below `ENOUGH`.
    """

    n: int
    difference: float
    ci: tuple[float, float] | None
    p: float | None
    test: TestName
    detectable: float | None


def seed_test(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = 0.95
) -> SeedTest | None:
    """Test paired by seed: equal seeds have equal problems and an equal starting policy.

    Args:
        ours, theirs: score by seed, shares in [0, 1].
    Returns:
        None without a common seed.
    """
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    d = np.array([ours[s] - theirs[s] for s in common])
    n, mean = len(d), float(d.mean())
    if n < ENOUGH:
        return SeedTest(n, mean, None, None, "none", None)
    spread = float(d.std(ddof=1)) / math.sqrt(n)
    return SeedTest(
        n=n,
        difference=mean,
        ci=_interval(mean, spread, n, confidence),
        p=_sign_flip(d) if n >= SIGN_FLIPS_FROM else _student(mean, spread, n),
        test="sign flip" if n >= SIGN_FLIPS_FROM else "t",
        detectable=_detectable(spread, n),
    )


def seed_interval(scores: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean over runs, cut to [0, 1]; None below `ENOUGH` runs."""
    if len(scores) < ENOUGH:
        return None
    values = np.asarray(scores, dtype=float)
    spread = float(values.std(ddof=1)) / math.sqrt(len(values))
    low, high = _interval(float(values.mean()), spread, len(values), confidence)
    return max(0.0, low), min(1.0, high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: p values that hold for all settings of a table at once."""
    ordered = sorted(p_values, key=lambda name: p_values[name])
    corrected: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(ordered):
        running = max(running, min(1.0, p_values[name] * (len(ordered) - rank)))
        corrected[name] = running
    return {name: corrected[name] for name in p_values}


def _interval(mean: float, spread: float, n: int, confidence: float) -> tuple[float, float]:
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * spread
    return mean - half, mean + half


def _student(mean: float, spread: float, n: int) -> float:
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / spread, n - 1))


def _sign_flip(d: npt.NDArray[np.float64]) -> float:
    """Share of all sign patterns whose |mean| is at least the observed one."""
    n = len(d)
    if n <= _MOST_EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        rng = np.random.Generator(np.random.Philox(key=n))
        signs = np.concatenate([np.ones((1, n)), rng.choice((1.0, -1.0), (99_999, n))])
    # Ties count: sums in another order differ by rounding.
    sums = np.abs(signs @ d)
    return float(np.mean(sums >= abs(d.sum()) - 1e-12 * max(1.0, np.abs(d).sum())))


def _detectable(spread: float, n: int) -> float:
    """Difference at which the two-sided t test at 5 % has a power of 80 % (noncentral t)."""
    edge = float(stats.t.ppf(0.975, n - 1))

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(edge, n - 1, shift)) - 0.8  # the other tail is below 1e-4

    return float(brentq(lacking, 0.1, edge + 4)) * spread
