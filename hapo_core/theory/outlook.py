"""Has the teacher left? What a gate can still do to a policy, exactly (METHOD 3.2 and 4).

`hapo_core.theory.injection_probability` says how often a gate opens; here is what follows for a run
that is over or goes on: what is left on average and by difficulty, whether it can ever end, and a
gate that repeats a round's decisions from the tables. The statements behind it are in
docs/consistency.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import betainc
from scipy.stats import beta as beta_distribution

from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    GateState,
    Posterior,
    ScheduledThreshold,
    Statistic,
    opens,
)
from hapo_core.theory.injection_probability import (
    PAPER_GATE,
    GroupColumns,
    Prediction,
    effective_count,
    injectable_range,
    open_probability,
    rate_as_in,
    successes_that_open,
)
from hapo_core.theory.population import Population, beta_binomial

FloatArray = npt.NDArray[np.float64]
EDGES = (0.0, 0.125, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Bands of the success probability, hardest first."""


# --- what is left -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Band:
    """Prompts whose success probability lies in low..high, as the fitted population has them."""

    low: float
    high: float
    share: float
    """Of all prompts, those in the band."""
    probability: float | None
    """P(inject) at the next visit of such a prompt; None where the band is empty."""


@dataclass(frozen=True)
class Residual:
    """What a gate would still inject, in the mean over prompts with a usable trace."""

    probability: float
    bands: tuple[Band, ...]
    population: Population


def residual(
    population: Population,
    n: int,
    gamma: float,
    gate: GateSpec = PAPER_GATE,
    evidence: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    edges: Sequence[float] = EDGES,
) -> Residual:
    """P(inject) at the next visit, overall and by success probability.

    With mu from Beta(alpha, beta), the part of a band is
    sum_s BetaBinomial(s; N, alpha, beta) P(open | s) [I_high - I_low](alpha + s, beta + N - s),
    I the regularised incomplete beta function: what the band adds to the sum of
    `consistency.residual_injection_probability`. Nothing is simulated.

    Args:
        evidence: before the next visit, one entry per prompt (prompt evidence, after forgetting);
            None: the gate's prior. What a prompt has shown beyond that prior is added to the
            population, as in `predicted_injection_rate`.
        edges: ascending, from 0 to 1.
    """
    prior_a, prior_b = (gate.prior_a, gate.prior_b) if evidence is None else evidence
    a, b = np.broadcast_arrays(
        np.atleast_1d(np.asarray(prior_a, dtype=np.float64)),
        np.atleast_1d(np.asarray(prior_b, dtype=np.float64)),
    )
    alpha = population.alpha + np.maximum(a - gate.prior_a, 0.0)
    beta = population.beta + np.maximum(b - gate.prior_b, 0.0)
    s = successes_that_open(n, gate)[:, None]
    weight = beta_binomial(s, n, alpha, beta) * open_probability(s, n, gamma, gate, (a, b))
    bands = []
    for low, high in pairwise(edges):
        share = float((betainc(alpha, beta, high) - betainc(alpha, beta, low)).mean())
        inside = betainc(alpha + s, beta + n - s, high) - betainc(alpha + s, beta + n - s, low)
        part = float((weight * inside).sum(axis=0).mean())
        chance = min(1.0, part / share) if share > 1e-12 else None
        bands.append(Band(low, high, share, chance))
    return Residual(float(weight.sum(axis=0).mean()), tuple(bands), population)


@dataclass(frozen=True)
class ObservedRound:
    """The gate's exact rate for the success rates that the round itself showed.

    `exact` comes from a Beta population fitted to the round's own counts, so it is no prediction:
    it says what rate a gate of this kind gives for groups like these. None without usable groups.
    """

    round: int
    exact: Prediction | None


def observed_rounds(columns: GroupColumns, gate: GateSpec = PAPER_GATE) -> list[ObservedRound]:
    """`ObservedRound` of every round in the columns, in order."""
    found = []
    usable = columns.usable & (columns.known > 0)
    for r in np.unique(columns.round):
        here = (columns.round == r) & usable
        exact = rate_as_in(columns, here, here, gate)
        found.append(ObservedRound(int(r), exact))
    return found


# --- whether it can end -------------------------------------------------------------------------


class Future(StrEnum):
    """What can still become of the injections under a gate."""

    CLOSED = "closed"
    """No group can be injected any more, and no later round changes that."""
    WILL_CLOSE = "will_close"
    """The schedule closes the gate at a known round, whatever the policy does."""
    MAY_CLOSE = "may_close"
    """The adaptive threshold closes it for good once the policy is competent enough."""
    FADES = "fades"
    """The probability tends to 0 with visits of a mastered prompt, and is never exactly 0."""
    CANNOT = "cannot"
    """A residue stays for every success probability below 1, for ever."""


@dataclass(frozen=True)
class Outlook:
    """`closing_gamma`: at or below it no group can be injected (0: there is no such threshold).
    `round`: first round, counted from 1, of a gate that is or will be closed by its schedule;
    `competence`: the m_t at which an adaptive threshold closes it."""

    future: Future
    closing_gamma: float
    round: int | None = None
    competence: float | None = None


def closing_gamma(spec: GateSpec, n: int) -> float:
    """The largest gamma at which no group of N can ever be injected.

    Group evidence: the c of S = 0. Prompt evidence: its limit over visits without a success,
    a0 / (a0 + b0 + N / (1 - delta)) for the mean, which is 0 for delta = 1 (docs/consistency.md,
    4 and 7). Thompson draws reach below any gamma: 0.
    """
    if spec.statistic is Statistic.THOMPSON:
        return 0.0
    if spec.evidence is Evidence.GROUP:
        return injectable_range(n, spec)[0]
    if spec.forgetting == 1.0:
        return 0.0
    failures = effective_count(n, spec.forgetting, spec.correlation)
    if spec.statistic is Statistic.MEAN:
        return spec.prior_a / (spec.prior_a + (spec.prior_b + failures))
    return float(beta_distribution.ppf(spec.quantile, spec.prior_a, spec.prior_b + failures))


def outlook(spec: GateSpec, n: int, gamma: float) -> Outlook:
    """Whether the teacher can leave.

    Args:
        n: group size.
        gamma: the threshold of the last round.
    """
    floor, threshold = closing_gamma(spec, n), spec.threshold
    fading = spec.evidence is Evidence.PROMPT and spec.forgetting == 1.0
    rest = Outlook(Future.FADES if fading else Future.CANNOT, floor)
    match threshold:
        case ConstantThreshold():
            return Outlook(Future.CLOSED, floor) if not opens(floor, threshold.gamma) else rest
        case ScheduledThreshold():
            if opens(floor, threshold.end):
                return rest
            last_open = max(
                (t for t in range(threshold.horizon + 1) if opens(floor, threshold.at(t))),
                default=-1,
            )
            # gamma <= floor now may still rise again under a schedule that goes up.
            left = not opens(floor, gamma) and threshold.start >= threshold.end
            return Outlook(Future.CLOSED if left else Future.WILL_CLOSE, floor, last_open + 2)
        case AdaptiveThreshold():
            if floor == 0.0:
                return rest
            competence = max(0.0, 1.0 - (floor / threshold.start) ** (1.0 / threshold.kappa))
            future = Future.CLOSED if not opens(floor, gamma) else Future.MAY_CLOSE
            return Outlook(future, floor, None, competence)


# --- the same decisions again -------------------------------------------------------------------


def replaying_gate(
    spec: GateSpec, seed: int, gamma: float, before: Mapping[str, tuple[float, float]]
) -> Gate:
    """A gate that reads the groups of one past round as the run's gate did.

    Args:
        gamma: of that round.
        before: evidence before the round's groups by prompt id (`prior_a`, `prior_b` of the GROUPS
            table); it is taken as it is, nothing is forgotten again.
    """
    state = GateState({i: Posterior(a, b, 1, 0) for i, (a, b) in before.items()})
    same = replace(
        spec,
        threshold=ConstantThreshold(gamma),
        evidence=Evidence.PROMPT,
        forgetting=1.0,
        prior_a=0.0,  # 0 + 1 (a - 0) is a to the bit, whatever the run's prior is
        prior_b=0.0,
    )
    return Gate(same, seed, state)
