"""The population of success probabilities behind the groups of a few rounds: a Beta distribution
fitted to their counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, xlog1py, xlogy

from hapo_core.errors import DataError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Success probabilities of the training prompts as Beta(alpha, beta)."""

    alpha: float
    beta: float
    groups: int
    """Groups that it was fitted to."""

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)


def fit_population(successes: npt.ArrayLike, known: npt.ArrayLike) -> Population:
    """Beta(alpha, beta) that best explains the counts of groups, by penalised maximum likelihood.

    Counts are BetaBinomial(N, alpha, beta). The weak penalty (half a success and half a failure on
    the mean, a wide log-normal around 2 on alpha + beta) decides only where the likelihood has no
    interior maximum: all S = 0, all S = N, a single group, or no more spread than a binomial's.

    Args:
        successes, known: int [groups]; groups with known = 0 say nothing and are left out.
    Raises:
        DataError: if no group is left, or a count is outside 0..known.
    """
    s, n = np.asarray(successes, dtype=np.int64), np.asarray(known, dtype=np.int64)
    if s.shape != n.shape or s.ndim != 1 or bool(((s < 0) | (s > n)).any()):
        raise DataError(f"counts must be vectors with 0 <= S <= N, got {s.shape} and {n.shape}")
    s, n = s[n > 0], n[n > 0]
    if s.size == 0:
        raise DataError("no group with a known reward to fit a population to")
    pairs, counts = np.unique(np.stack([s, n]), axis=1, return_counts=True)
    ds, dn = pairs.astype(np.float64)

    def objective(point: FloatArray) -> float:
        alpha, beta = _alpha_beta(point)
        fit = (counts * (betaln(ds + alpha, dn - ds + beta) - betaln(alpha, beta))).sum()
        mean = alpha / (alpha + beta)
        prior = 0.5 * (math.log(mean) + math.log1p(-mean)) - ((point[1] - math.log(2)) / 4) ** 2 / 2
        return -float(fit + prior)

    start_mean = (s.sum() + 0.5) / (n.sum() + 1.0)
    start = np.array([math.log(start_mean / (1 - start_mean)), math.log(2.0)])
    bounds = [(-14.0, 14.0), (math.log(1e-2), math.log(1e4))]
    best = minimize(objective, start, method="L-BFGS-B", bounds=bounds)
    alpha, beta = _alpha_beta(np.asarray(best.x, dtype=np.float64))
    return Population(alpha, beta, int(s.size))


def _alpha_beta(point: FloatArray) -> tuple[float, float]:
    """From (logit of the mean, log of alpha + beta)."""
    total = math.exp(float(point[1]))
    mean = 1 / (1 + math.exp(-float(point[0])))
    return mean * total, (1 - mean) * total


def binomial(successes: npt.ArrayLike, n: npt.ArrayLike, mu: npt.ArrayLike) -> FloatArray:
    """P(S = s) of Binomial(n, mu), broadcast, 0 <= s <= n; any mu in [0, 1], 1e-320 too (there
    scipy's own raises OverflowError)."""
    s, m = np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    rate = np.asarray(mu, dtype=np.float64)
    choose = gammaln(m + 1) - gammaln(s + 1) - gammaln(m - s + 1)
    return np.asarray(np.exp(choose + xlogy(s, rate) + xlog1py(m - s, -rate)), dtype=np.float64)


def beta_binomial(
    successes: npt.ArrayLike, n: npt.ArrayLike, alpha: npt.ArrayLike, beta: npt.ArrayLike
) -> FloatArray:
    """P(S = s) of BetaBinomial(n, alpha, beta), broadcast; 0 for s > n."""
    s, m = np.broadcast_arrays(
        np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64)
    )
    inside = s <= m
    k = np.where(inside, s, 0.0)
    choose = gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
    a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    p = np.exp(choose + betaln(k + a, m - k + b) - betaln(a, b))
    return np.where(inside, p, 0.0)
