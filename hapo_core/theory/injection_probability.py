"""What a gate promises, exactly, and what it did.

A group of N rollouts with S successes is injected iff the gate's confidence c is below gamma_t and
S < N (METHOD 4). Given the success probability mu, S is Binomial(N, mu), so the probability of an
injection is a finite sum; nothing here is simulated. The statements and proofs are in
docs/consistency.md.

All functions take plain numbers or arrays, the columns of the GROUPS table among them. Of a
`GateSpec` they read all but the threshold: gamma is given, as it may differ from round to round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import beta as beta_distribution

from hapo_core.gate import (
    ConstantThreshold,
    Decision,
    GateSpec,
    RuleSpec,
    Statistic,
    evidence_weight,
    opens,
)
from hapo_core.theory.population import Population, beta_binomial, binomial, fit_population

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
BetaCounts = tuple[npt.ArrayLike, npt.ArrayLike]
"""(a, b) before a group, scalars or one entry per group."""
PAPER_GATE = GateSpec(ConstantThreshold(0.8))
"""Group evidence, mean, a uniform prior."""


# --- one group ----------------------------------------------------------------------------------


def open_probability(
    successes: npt.ArrayLike,
    known: npt.ArrayLike,
    gamma: npt.ArrayLike,
    gate: GateSpec = PAPER_GATE,
    evidence: BetaCounts | None = None,
) -> FloatArray:
    """P(c < gamma and S < N | S), times 1 - holdout, broadcast over all arguments; for a
    `RuleSpec` P(S <= cutoff | S), times the same.

    0 or 1 for `mean` and `quantile`; for `thompson` the Beta distribution function at gamma. A tie
    is closed, as in the gate: N = 8, S = 7, gamma = .8 gives c = .8 and 0.

    Args:
        successes, known: S and N (rollouts with a known reward).
        evidence: before the group; None: the gate's prior.
    """
    prior_a, prior_b = _before(gate, evidence)
    s, n = np.asarray(successes, dtype=np.float64), np.asarray(known, dtype=np.float64)
    g = np.asarray(gamma, dtype=np.float64)
    if isinstance(gate, RuleSpec):
        s, n, *_ = np.broadcast_arrays(s, n, g, prior_a, prior_b)
        return np.where((s <= gate.cutoff) & (s <= n), 1.0 - gate.holdout, 0.0)
    weight = 1.0 / (1.0 + np.maximum(n - 1, 0) * gate.correlation)  # `evidence_weight`
    a = np.asarray(prior_a, dtype=np.float64) + weight * s
    b = np.asarray(prior_b, dtype=np.float64) + weight * n - weight * s
    match gate.statistic:
        case Statistic.MEAN:
            chance = opens(a / (a + b), g).astype(np.float64)
        case Statistic.THOMPSON:
            chance = np.asarray(beta_distribution.cdf(g, a, b), dtype=np.float64)
        case Statistic.QUANTILE:
            chance = opens(beta_distribution.ppf(gate.quantile, a, b), g).astype(np.float64)
    return np.where(s < n, chance * (1.0 - gate.holdout), 0.0)


def successes_that_open(n: int, gate: GateSpec) -> IntArray:
    """The S with which a group of N may open: 0 to N - 1, and N too under a method's own rule."""
    return np.arange(n + 1 if isinstance(gate, RuleSpec) else n)


def _before(gate: GateSpec, evidence: BetaCounts | None) -> BetaCounts:
    return (gate.prior_a, gate.prior_b) if evidence is None else evidence


def injectable_range(n: int, gate: GateSpec = PAPER_GATE) -> tuple[float, float]:
    """(lowest, highest) c of a group that may be injected: S = 0 and S = N - 1.

    gamma <= lowest never opens; gamma > highest opens on every group but the solved ones. This is
    narrower than the reachable range of METHOD 3.1, whose upper end is the c of S = N: a solved
    group is never injected, so a gamma between the two already opens always. Thompson draws reach
    all of (0, 1).
    """
    prior_a, prior_b, w = gate.prior_a, gate.prior_b, evidence_weight(n, gate.correlation)
    match gate.statistic:
        case Statistic.MEAN:
            # the additions of `open_probability`, in its order: a tie with gamma is decided alike
            low_b, high_a = prior_b + w * n, prior_a + w * (n - 1)
            high_b = prior_b + w * n - w * (n - 1)
            return prior_a / (prior_a + low_b), high_a / (high_a + high_b)
        case Statistic.THOMPSON:
            return 0.0, 1.0
        case Statistic.QUANTILE:
            return (
                float(beta_distribution.ppf(gate.quantile, prior_a, prior_b + w * n)),
                float(beta_distribution.ppf(gate.quantile, prior_a + w * (n - 1), prior_b + w)),
            )


def never_open(gamma: float, n: int, gate: GateSpec = PAPER_GATE) -> bool:
    """No group can be injected: the update is GRPO's."""
    lowest, _ = injectable_range(n, gate)
    return not opens(lowest, gamma)


def always_open(gamma: float, n: int, gate: GateSpec = PAPER_GATE) -> bool:
    """Every group with S < N is injected: the update is LUFFY-by-replacement's."""
    _, highest = injectable_range(n, gate)
    return gamma >= 1 if gate.statistic is Statistic.THOMPSON else bool(opens(highest, gamma))


def injection_probability(
    mu: npt.ArrayLike, n: int, gamma: float, gate: GateSpec = PAPER_GATE
) -> FloatArray:
    """P(inject | mu) = sum over S < N of Binomial(S; N, mu) P(open | S), per entry of mu.

    With group evidence this is the probability in every round. With prompt evidence it is the one
    of the next visit, given the evidence before it as the gate's prior.
    """
    rates = np.asarray(mu, dtype=np.float64)
    s = successes_that_open(n, gate)
    chance = open_probability(s, n, gamma, gate)
    return np.asarray(binomial(s, n, rates[..., None]) @ chance, dtype=np.float64)


# --- prompt evidence over visits ----------------------------------------------------------------


def visit_injection_probability(
    mu: float, n: int, gamma: float, visit: int, gate: GateSpec = PAPER_GATE
) -> float:
    """P(inject at a visit), prompt evidence without forgetting, mu the same at all visits.

    Exact: the successes of the visits before are Binomial((visit-1) N, mu).

    Args:
        visit: counted from 1; the first visit equals group evidence.
    """
    before = (visit - 1) * n
    t = np.arange(before + 1)[:, None]
    s = np.arange(n)
    w = evidence_weight(n, gate.correlation)
    held = (gate.prior_a + w * t, gate.prior_b + w * before - w * t)
    chance = open_probability(s, n, gamma, gate, held)
    weight = binomial(t, before, mu) * binomial(s, n, mu)
    return float((weight * chance).sum())


def visit_bound(mu: float, n: int, gamma: float, visit: int, gate: GateSpec = PAPER_GATE) -> float:
    """Hoeffding's upper bound of P(inject at a visit), prompt evidence, statistic `mean`.

    With W = sum of delta^i and Q = sum of delta^(2i) over the visits, c < gamma needs the weighted
    successes to fall short of their mean by t = (mu - gamma) N W - (gamma (a0 + b0) - a0); for
    t > 0 that has probability at most exp(-2 t^2 / (N Q)). 1 where t <= 0.

    With `correlation` every rollout counts w = 1 / (1 + (N - 1) rho), as if the prior were 1/w of
    what it is.

    Returns:
        For delta = 1 a bound that tends to 0 with visits, for delta < 1 one that does not.
    """
    powers = gate.forgetting ** np.arange(visit, dtype=np.float64)
    prior = gamma * (gate.prior_a + gate.prior_b) - gate.prior_a
    shortfall = (mu - gamma) * n * powers.sum() - prior / evidence_weight(n, gate.correlation)
    if shortfall <= 0:
        return 1.0
    return float(np.exp(-2 * shortfall**2 / (n * (powers**2).sum())))


def effective_count(n: int, forgetting: float, correlation: float = 0.0) -> float:
    """Most rollouts that a prompt posterior can ever hold: N w / (1 - delta), w of
    `evidence_weight`; inf for delta = 1."""
    held = evidence_weight(n, correlation) * n
    return math.inf if forgetting == 1 else held / (1 - forgetting)


def residual_injection_probability(
    population: Population, n: int, gamma: float, gate: GateSpec = PAPER_GATE
) -> float:
    """P(inject) of a prompt from `population` under group evidence: what a gate still spends on a
    policy, e.g. the final one. Exactly 0 iff the gate never opens."""
    s = successes_that_open(n, gate)
    chance = open_probability(s, n, gamma, gate)
    return float((beta_binomial(s, n, population.alpha, population.beta) * chance).sum())


# --- rounds: predicted against measured ---------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """Injection rate of a round over its groups with a usable trace.

    `low`, `high`: central range of the rate that the predicted probabilities give by themselves
    (groups independent); the error of the fitted population is not in it.
    """

    rate: float
    low: float
    high: float
    groups: int


def predicted_injection_rate(
    population: Population,
    known: npt.ArrayLike,
    gamma: npt.ArrayLike,
    gate: GateSpec = PAPER_GATE,
    evidence: BetaCounts | None = None,
    usable: npt.ArrayLike = True,
    level: float = 0.95,
) -> Prediction | None:
    """Predict a round's injection rate from a population fitted to earlier rounds.

    Exact sum per group over s of BetaBinomial(s; N, alpha', beta') P(open | s, the group's own
    prior and gamma). What the prompt itself has shown, the evidence beyond the gate's prior, is
    added to the population's (alpha, beta): with group evidence nothing, with prompt evidence its
    (discounted) successes and failures.

    Args:
        known, gamma, evidence, usable: per group of the round, or scalars; evidence None: the
            gate's prior.
        level: probability of the range `low`..`high`.
    Returns:
        None if no group has a usable trace and a known reward.
    """
    before = _before(gate, evidence)
    n, g, a, b, use = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (known, gamma, *before)),
        np.atleast_1d(np.asarray(usable, dtype=np.bool_)),
    )
    keep = use.astype(np.bool_) & (n > 0)
    if not keep.any():
        return None
    n, g, a, b = n[keep], g[keep], a[keep], b[keep]
    s = successes_that_open(int(n.max()), gate)[:, None]
    alpha = population.alpha + np.maximum(a - gate.prior_a, 0.0)
    beta = population.beta + np.maximum(b - gate.prior_b, 0.0)
    weight = beta_binomial(s, n, alpha, beta)
    chance = open_probability(s, n, g, gate, (a, b))
    p = np.clip((weight * chance).sum(axis=0), 0.0, 1.0)
    low, high = _count_range(p, level)
    return Prediction(float(p.mean()), low / n.size, high / n.size, int(n.size))


def _count_range(p: FloatArray, level: float) -> tuple[int, int]:
    """Central range of a sum of independent Bernoulli(p_i), from its exact distribution."""
    mass = np.ones(1)
    for q in p:
        mass = np.append(mass, 0.0) * (1 - q) + np.append(0.0, mass) * q
    below = np.cumsum(mass)
    tail = (1 - level) / 2
    last = p.size
    return (
        min(last, int(np.searchsorted(below, tail))),
        min(last, int(np.searchsorted(below, 1 - tail))),
    )


@dataclass(frozen=True)
class GroupColumns:
    """The columns of the GROUPS table that matter here, arrays of one length.

    `gamma`, `prior_a` and `prior_b` hold NaN where the method has no gate.
    """

    round: IntArray
    successes: IntArray
    known: IntArray
    prior_a: FloatArray
    prior_b: FloatArray
    gamma: FloatArray
    decision: npt.NDArray[np.object_]
    has_trace: BoolArray | None = None
    """Whether the prompt has a usable trace. None: every prompt without a `no_trace` decision has
    one; `decision` alone cannot tell for a group whose gate stayed closed."""

    @property
    def evidence(self) -> BetaCounts:
        """(prior_a, prior_b)."""
        return self.prior_a, self.prior_b

    @property
    def usable(self) -> BoolArray:
        """Groups on which an open gate injects."""
        lacking = (Decision.NO_TRACE.value, Decision.UNKNOWN.value)
        usable = ~np.isin(self.decision.astype(str), lacking) & ~np.isnan(self.gamma)
        return usable if self.has_trace is None else usable & self.has_trace


@dataclass(frozen=True)
class RoundCheck:
    """One round: what was predicted before it, what its counts imply, and what happened."""

    round: int
    groups: int
    """Usable ones; all rates are over these."""
    predicted: Prediction | None
    """From the rounds before; None in the first one."""
    implied: float
    """Mean of P(open | S, evidence): for `mean` and `quantile` it must equal `measured`."""
    measured: float


def check_rounds(
    columns: GroupColumns, gate: GateSpec = PAPER_GATE, window: int = 5
) -> list[RoundCheck]:
    """Predicted, implied and measured injection rate of every round that has a usable group.

    The prediction of a round uses the counts of the `window` rounds before it, never its own.
    """
    checks = []
    usable = columns.usable
    drawn = replace(gate, holdout=0.0)  # which open gates were left shut is known: no chance of it
    chance = open_probability(
        columns.successes, columns.known, columns.gamma, drawn, columns.evidence
    )
    chance = np.where(columns.decision.astype(str) == Decision.HELD_OUT.value, 0.0, chance)
    injected = columns.decision.astype(str) == Decision.INJECTED.value
    for r in np.unique(columns.round):
        here = (columns.round == r) & usable
        past = (columns.round < r) & (columns.round >= r - window) & (columns.known > 0)
        if not here.any():
            continue
        predicted = rate_as_in(columns, past, here, gate)
        checks.append(
            RoundCheck(
                round=int(r),
                groups=int(here.sum()),
                predicted=predicted,
                implied=float(chance[here].mean()),
                measured=float(injected[here].mean()),
            )
        )
    return checks


def rate_as_in(
    columns: GroupColumns, like: BoolArray, here: BoolArray, gate: GateSpec
) -> Prediction | None:
    """The gate's exact rate on the groups `here`, for success rates as the groups `like` showed
    them (a Beta population fitted to their counts); None where `like` is empty.

    Args:
        like, here: masks over the columns, bool [groups].
    """
    if not like.any():
        return None
    return predicted_injection_rate(
        fit_population(columns.successes[like], columns.known[like]),
        columns.known[here],
        columns.gamma[here],
        gate,
        (columns.prior_a[here], columns.prior_b[here]),
    )


def retired_from(columns: GroupColumns, gate: GateSpec = PAPER_GATE) -> int | None:
    """First round from which on no visited group could have been injected, had all its rollouts
    failed. None if an injection was possible up to the last round (`thompson`: always)."""
    possible = open_probability(
        np.zeros_like(columns.known), columns.known, columns.gamma, gate, columns.evidence
    )
    rounds = np.unique(columns.round)
    if rounds.size == 0:
        return None
    open_rounds = columns.round[(possible > 0) & ~np.isnan(columns.gamma)]
    if open_rounds.size == 0:
        return int(rounds[0])
    after = rounds[rounds > open_rounds.max()]
    return int(after[0]) if after.size else None
