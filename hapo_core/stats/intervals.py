"""Uncertainty over problems: intervals and paired tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, norm
from scipy.stats import t as student

from hapo_core.errors import DataError
from hapo_core.rng import Purpose, generator

FloatArray = npt.NDArray[np.float64]

_CHUNK = 1 << 22
"""Most random numbers held at once by a resampling loop (32 MiB)."""


_PSEUDO = 50.0
"""How many problems' worth of p (1 - p), the largest variance that scores in [0, 1] with this mean
can have, `mean_interval` blends into what is seen: a few problems that are solved rarely show less
spread than there is. Chosen by `bench/coverage.py`."""


def mean_interval(
    per_problem_scores: npt.ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean score over problems: Clopper and Pearson's for as many independent yes
    or no answers as would have the variance that the problems show (Korn and Graubard 1998).

    With one sample a problem that is the exact binomial interval or wider; a percentile bootstrap
    covers .85 and less at few problems and low scores, because it cannot draw what it has not seen
    (docs/evaluation.md has both tables). Where all scores are equal the bound is that of
    `_no_spread`.

    Args:
        per_problem_scores: float [n problems] in [0, 1].
    Raises:
        DataError: naming the problem whose score is missing (NaN) or outside [0, 1].
    """
    scores = _scores(per_problem_scores, "scores")
    if not 0 < confidence < 1:
        raise ValueError(f"need 0 < confidence < 1, got {confidence}")
    n, tail = scores.size, (1 - confidence) / 2
    if np.ptp(scores) == 0:
        return _no_spread(float(scores[0]), n, confidence, 0.0, 1.0)
    mean = float(scores.mean())
    largest = mean * (1 - mean)
    seen = float(((scores - mean) ** 2).sum())
    variance = (seen + _PSEUDO * largest) / (n - 1 + _PSEUDO)
    answers = n * largest / variance * float(norm.ppf(tail) / student.ppf(tail, n - 1)) ** 2
    right = mean * answers
    return (
        float(beta.ppf(tail, right, answers - right + 1)),
        float(beta.ppf(1 - tail, right + 1, answers - right)),
    )


@dataclass(frozen=True)
class PairedResult:
    """Policy b against policy a on the same n problems.

    `difference` is mean(b) - mean(a), `ci` its paired bootstrap interval, `p_value` the two-sided
    sign-flip permutation test of "the two are exchangeable on every problem".
    """

    difference: float
    ci: tuple[float, float]
    p_value: float
    n: int
    better: int
    worse: int
    exact: bool
    """All sign patterns were enumerated, not sampled."""

    def to_dict(self) -> dict[str, object]:
        return {
            "difference": self.difference,
            "ci": list(self.ci),
            "p_value": self.p_value,
            "n": self.n,
            "better": self.better,
            "worse": self.worse,
            "exact": self.exact,
        }


def paired_test(
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    label: str = "",
) -> PairedResult:
    """Compare two policies that answered the same problems in the same order.

    The p-value flips the sign of each problem's difference: exact where at most `draws` patterns
    exist, otherwise sampled as (1 + hits) / (1 + draws), which is valid at any number of draws.

    Args:
        scores_a, scores_b: float [n problems] in [0, 1], aligned (see `align`).
    Raises:
        DataError: if lengths differ, or naming the problem whose score is missing.
    """
    a, b = _scores(scores_a, "scores_a"), _scores(scores_b, "scores_b")
    if a.shape != b.shape:
        raise DataError(
            f"a paired test needs the same problems: {a.size} against {b.size}",
            remedy="evaluate both policies on the same benchmark, or align them by problem id",
        )
    delta = b - a
    p_value, exact = _sign_flip(delta[delta != 0], draws, seed, label)
    return PairedResult(
        difference=float(delta.mean()),
        ci=_bootstrap(delta, confidence, draws, seed, label, low=-1.0, high=1.0),
        p_value=p_value,
        n=int(delta.size),
        better=int((delta > 0).sum()),
        worse=int((delta < 0).sum()),
        exact=exact,
    )


def align(
    scores_a: Mapping[str, float], scores_b: Mapping[str, float]
) -> tuple[FloatArray, FloatArray]:
    """Two policies' scores by problem id, in one order, for `paired_test`.

    Raises:
        DataError: naming a problem that only one of them has.
    """
    lone = sorted(set(scores_a) ^ set(scores_b))
    if lone:
        raise DataError(
            f"{len(lone)} problems were answered by only one of the two policies",
            where=f"problem {lone[0]}",
            remedy="evaluate both on the same problems; a subset would be another comparison",
        )
    ids = sorted(scores_a)
    return (
        np.array([scores_a[i] for i in ids], dtype=np.float64),
        np.array([scores_b[i] for i in ids], dtype=np.float64),
    )


def _scores(values: npt.ArrayLike, name: str) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise DataError(f"{name} must be a non-empty vector, got shape {scores.shape}")
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if bad.size:
        raise DataError(
            f"{name} of problem {bad[0]} is {scores[bad[0]]}, not in [0, 1]",
            remedy="evaluate the missing samples; no average is taken over what is there",
        )
    return scores


def _bootstrap(
    values: FloatArray,
    confidence: float,
    draws: int,
    seed: int,
    label: str,
    low: float,
    high: float,
) -> tuple[float, float]:
    if not 0 < confidence < 1 or draws < 1:
        raise ValueError(f"need 0 < confidence < 1 and draws >= 1, got {confidence}, {draws}")
    n = values.size
    if np.ptp(values) == 0:
        return _no_spread(float(values[0]), n, confidence, low, high)
    rng = generator(seed, Purpose.BOOTSTRAP, prompt_id=label, sample=0)
    means = np.empty(draws)
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        stop = min(draws, start + rows)
        picks = (rng.random((stop - start, n)) * n).astype(np.int64)
        means[start:stop] = values[picks].mean(axis=1)
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(means, [tail, 1 - tail])
    return float(lower), float(upper)


def _no_spread(
    value: float, n: int, confidence: float, low: float, high: float
) -> tuple[float, float]:
    """Interval of the mean after n equal observations of a variable in [low, high].

    If the variable differs from `value` with probability q, n equal ones have probability
    (1-q)^n, so q <= 1 - (alpha/2)^(1/n) is the Clopper-Pearson bound, and the mean lies within
    q times the distance to either end.
    """
    q = 1 - ((1 - confidence) / 2) ** (1 / n)
    return value - q * (value - low), value + q * (high - value)


def _sign_flip(delta: FloatArray, draws: int, seed: int, label: str) -> tuple[float, bool]:
    """Two-sided p-value of the non-zero paired differences, and whether it is exact."""
    m = delta.size
    if m == 0:
        return 1.0, True
    observed = abs(delta.sum())
    tolerance = 1e-9 * np.abs(delta).sum()  # equal sums in another order of additions
    if m < 63 and 2**m <= max(draws, 1024):
        codes = np.arange(2**m)[:, None] >> np.arange(m)
        sums = np.where(codes & 1, -delta, delta).sum(axis=1)
        return float(np.mean(np.abs(sums) >= observed - tolerance)), True
    rng = generator(seed, Purpose.BOOTSTRAP, prompt_id=label, sample=1)
    hits, rows = 0, max(1, _CHUNK // m)
    for start in range(0, draws, rows):
        flips = rng.random((min(draws, start + rows) - start, m)) < 0.5
        sums = np.where(flips, -delta, delta).sum(axis=1)
        hits += int((np.abs(sums) >= observed - tolerance).sum())
    return (1 + hits) / (1 + draws), False
