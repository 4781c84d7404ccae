"""The confidence gate: evidence x statistic x threshold (METHOD 4; HAPO's own gate is one of them).

A gate reads one group, gives the confidence c that the policy can solve the prompt, and opens
iff c < gamma_t. The boundary (N = 8, S = 7, gamma = .8: c = .8, closed) is that of the numbers that
were configured: what differs by rounding alone is equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hapo_core.alarm import AlarmState
from hapo_core.errors import ConfigError
from hapo_core.rng import Purpose, generator, uniforms
from hapo_core.surprise import too_surprising

_ROUNDING = 1e-12
"""Share of gamma by which c must lie below it. Both are sums and products of decimals and counts:
where they are equal, float64 tells them apart by 1e-15 or less (.8 x .75 is above .6); where they
are not, they differ by 1 / (the product of two denominators), more than 1e-9 for any such gate."""


def opens(confidence: npt.ArrayLike, gamma: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """c < gamma, strictly, and by more than rounding explains; of numbers or arrays."""
    c, g = np.asarray(confidence, dtype=np.float64), np.asarray(gamma, dtype=np.float64)
    return np.asarray(g - c > _ROUNDING * g)


class Evidence(StrEnum):
    """What the posterior is made of."""

    GROUP = "group"
    """This group alone (the paper's gate)."""
    PROMPT = "prompt"
    """All visits of the prompt, with exponential forgetting."""


class Statistic(StrEnum):
    """How the posterior becomes one number c."""

    MEAN = "mean"
    THOMPSON = "thompson"
    QUANTILE = "quantile"


class Shape(StrEnum):
    """How a scheduled threshold goes from its start to its end."""

    LINEAR = "linear"
    COSINE = "cosine"
    SIGMOID = "sigmoid"
    STEP = "step"


class Decision(StrEnum):
    """What became of the teacher in one group."""

    INJECTED = "injected"
    CLOSED = "closed"
    """The gate (or the method) kept the group on-policy."""
    SOLVED = "solved"
    """Every known rollout was right: never injected, whatever gamma is."""
    HELD_OUT = "held_out"
    """The gate was open, there was a trace, and a draw left it out, to measure what help does."""
    REFUSED = "refused"
    """The gate was open, but the trace surprises the policy more than `max_surprise` allows."""
    NO_TRACE = "no_trace"
    """The gate was open, but the prompt has no usable trace."""
    UNKNOWN = "unknown"
    """No rollout of the group has a known reward."""
    DISCARDED = "discarded"
    """All rewards are equal and the group has no rows: with dynamic sampling another prompt was
    drawn in its place, REAL just drops it."""


@dataclass(frozen=True)
class ConstantThreshold:
    """gamma_t = gamma."""

    gamma: float


@dataclass(frozen=True)
class ScheduledThreshold:
    """gamma_t = end + (start - end) w(t / horizon), w falling from 1 to 0 in the given shape."""

    shape: Shape
    start: float
    end: float
    horizon: int
    step_at: float = 0.5

    def at(self, round_index: int) -> float:
        """gamma of a round (counted from 0); after the horizon it stays at `end`.

        Exact: where the decimals that were configured give a fraction, gamma is the float64 next
        to it, as c is, so that c = gamma is seen as equal and the gate stays closed.
        """
        start, end = Fraction(str(self.start)), Fraction(str(self.end))
        return float(end + (start - end) * self._weight(round_index))

    def _weight(self, round_index: int) -> Fraction:
        x = min(1.0, round_index / self.horizon)
        match self.shape:
            case Shape.LINEAR:
                return 1 - min(Fraction(1), Fraction(round_index, self.horizon))
            case Shape.COSINE:
                w = 0.5 * (1.0 + math.cos(math.pi * x))
            case Shape.SIGMOID:
                # Logistic of slope 12 around the middle, stretched to hit 1 and 0 at the ends.
                low, high = _logistic(-6.0), _logistic(6.0)
                w = (_logistic(6.0 - 12.0 * x) - low) / (high - low)
            case Shape.STEP:
                before = Fraction(round_index, self.horizon) < Fraction(str(self.step_at))
                return Fraction(int(before))
        # All rational values of the two curves (at rational x) are quarters.
        quarters = round(4 * w)
        return Fraction(quarters, 4) if abs(4 * w - quarters) < 1e-12 else Fraction(w)


@dataclass(frozen=True)
class AdaptiveThreshold:
    """gamma_t = min(gamma_{t-1}, start (1 - m_t)^kappa), m_t the exponential mean of the on-policy
    success rate (the first round's rate starts it): support falls with competence and never
    comes back."""

    start: float
    kappa: float = 1.0
    smoothing: float = 0.9


Threshold = ConstantThreshold | ScheduledThreshold | AdaptiveThreshold


@dataclass(frozen=True)
class GateSpec:
    """One member of the gate family. `prior_a`, `prior_b`: the Beta prior (a0, b0) of METHOD 4;
    `correlation`: rho of METHOD 9, by which the rollouts of a group count for less."""

    threshold: Threshold
    evidence: Evidence = Evidence.GROUP
    statistic: Statistic = Statistic.MEAN
    quantile: float = 0.5
    prior_a: float = 1.0
    prior_b: float = 1.0
    forgetting: float = 1.0
    correlation: float = 0.0
    holdout: float = 0.0
    """Probability that an open gate stays shut (METHOD 9): all of METHOD 4's probabilities are
    multiplied by 1 - holdout."""
    max_surprise: float = math.inf
    """Nats a token by which a trace may surprise the policy more than its own rollouts do; above
    it the gate stays shut (METHOD 9)."""


@dataclass(frozen=True)
class RuleSpec(GateSpec):
    """A method's own rule, written as a gate for those who predict with it: the teacher enters iff
    S <= `cutoff`, whatever the number of known rollouts is, and also where all of them are right.
    `threshold` is the same rule on the mean of a whole group; `Gate` itself is never made of it."""

    cutoff: float = math.inf


def evidence_weight(known: float, correlation: float) -> float:
    """What one rollout of a group of `known` counts for: 1 / (1 + (N - 1) rho); 1 for rho = 0."""
    return 1.0 / (1.0 + max(known - 1, 0) * correlation)


@dataclass(frozen=True)
class Posterior:
    """Beta(a, b) of one prompt after its last visit."""

    a: float
    b: float
    visits: int
    last_round: int


@dataclass(frozen=True)
class Reading:
    """What the gate saw in one group. `prior_a/b`: evidence before the group, after forgetting."""

    prior_a: float
    prior_b: float
    confidence: float
    gamma: float

    @property
    def open(self) -> bool:
        """c < gamma (`opens`)."""
        return bool(opens(self.confidence, self.gamma))


@dataclass
class GateState:
    """All that a gate remembers; saved after every round and restored on resume."""

    posteriors: dict[str, Posterior] = field(default_factory=dict)
    gamma: float | None = None
    """gamma of the last round (only `adaptive` reads it back)."""
    mean_success: float | None = None
    """m_t, the exponential mean of the on-policy success rate."""
    alarm: AlarmState | None = None
    """What `gate.stop_loss` remembers, where it is set."""

    @property
    def shut(self) -> bool:
        """Whether the alarm has shut the gate for good."""
        return self.alarm is not None and self.alarm.shut


class Gate:
    """A gate with its state. Call `begin_round` once, then `observe` for every group of the round.

    Args:
        spec: which gate.
        seed: keys the Thompson draws.
        state: what an earlier process left, or None to start afresh.
    """

    def __init__(self, spec: GateSpec, seed: int, state: GateState | None = None) -> None:
        self.spec, self.state = spec, state or GateState()
        self._seed = seed

    def begin_round(self, round_index: int, success_rate: float | None) -> float:
        """Set and return gamma_t. `success_rate`: this round's share of successes among known
        rollouts, before any injection; None if nothing is known. 0 once the alarm has shut it."""
        state, threshold = self.state, self.spec.threshold
        match threshold:
            case ConstantThreshold():
                gamma = threshold.gamma
            case ScheduledThreshold():
                gamma = threshold.at(round_index)
            case AdaptiveThreshold():
                if success_rate is not None:
                    past = state.mean_success
                    s = threshold.smoothing if past is not None else 0.0
                    state.mean_success = s * (past or 0.0) + (1.0 - s) * success_rate
                wanted = threshold.start * (1.0 - (state.mean_success or 0.0)) ** threshold.kappa
                gamma = wanted if state.gamma is None else min(state.gamma, wanted)
        state.gamma = 0.0 if state.shut else gamma
        return state.gamma

    def observe(self, prompt_id: str, successes: int, known: int, round_index: int) -> Reading:
        """Take S successes among `known` rollouts into the posterior and give c against gamma_t.

        Raises:
            RuntimeError: if `begin_round` was not called.
        """
        if self.state.gamma is None:
            raise RuntimeError("Gate.observe before Gate.begin_round")
        old = self.state.posteriors.get(prompt_id)
        a, b = self._before(old)
        weight = evidence_weight(known, self.spec.correlation)
        after_a, after_b = a + weight * successes, b + weight * known - weight * successes
        self.state.posteriors[prompt_id] = Posterior(
            after_a, after_b, (old.visits if old else 0) + 1, round_index
        )
        confidence = self._statistic(after_a, after_b, prompt_id, round_index)
        return Reading(a, b, confidence, self.state.gamma)

    def holds_out(self, prompt_id: str, round_index: int) -> bool:
        """Whether the draw of this visit leaves an open gate shut; it depends on nothing else."""
        if not self.spec.holdout:
            return False
        draw = uniforms(1, self._seed, Purpose.HOLDOUT, round_index, prompt_id)
        return bool(draw[0] < self.spec.holdout)

    def refuses(self, excess: float | None) -> bool:
        """Whether a trace is too surprising to enter; `excess`: `Group.excess_surprise`."""
        return too_surprising(excess, self.spec.max_surprise)

    def _before(self, old: Posterior | None) -> tuple[float, float]:
        spec = self.spec
        if old is None or spec.evidence is Evidence.GROUP:
            return spec.prior_a, spec.prior_b
        d = spec.forgetting
        return (
            spec.prior_a + d * (old.a - spec.prior_a),
            spec.prior_b + d * (old.b - spec.prior_b),
        )

    def _statistic(self, a: float, b: float, prompt_id: str, round_index: int) -> float:
        match self.spec.statistic:
            case Statistic.MEAN:
                return a / (a + b)
            case Statistic.THOMPSON:
                rng = generator(self._seed, Purpose.THOMPSON, round_index, prompt_id)
                return float(rng.beta(a, b))
            case Statistic.QUANTILE:
                return _beta_quantile(self.spec.quantile, a, b)


def reachable_range(spec: GateSpec, group_size: int) -> tuple[float, float]:
    """(low, high) such that the gate can both open and close iff low < gamma <= high.

    For the paper's gate: (1/(N+2), (N+1)/(N+2)); with `correlation` N counts for less. A gate with
    gamma <= low never opens. Prompt evidence and Thompson draws reach all of (0, 1).
    """
    if spec.evidence is Evidence.PROMPT or spec.statistic is Statistic.THOMPSON:
        return 0.0, 1.0
    a, b = spec.prior_a, spec.prior_b
    n = evidence_weight(group_size, spec.correlation) * group_size
    if spec.statistic is Statistic.MEAN:
        return a / (a + b + n), (a + n) / (a + b + n)
    q = spec.quantile
    return _beta_quantile(q, a, b + n), _beta_quantile(q, a + n, b)


def check_reachable(spec: GateSpec, group_size: int) -> None:
    """Reject a gate whose first gamma can never open or never close it.

    Only where a schedule starts is checked: annealing to a threshold that never opens is how a
    teacher leaves.

    Raises:
        ConfigError: saying which side, and what it would mean.
    """
    threshold = spec.threshold
    gamma = threshold.gamma if isinstance(threshold, ConstantThreshold) else threshold.start
    low, high = reachable_range(spec, group_size)
    never = not opens(low, gamma)
    if not never and not opens(high, gamma):
        return
    raise ConfigError(
        f"gamma {gamma:g} is {'at or below' if never else 'above'} the reachable range "
        f"({low:.4g}, {high:.4g}] of the confidence with groups of {group_size}: the gate would "
        f"{'never' if never else 'always'} open",
        remedy=f"choose a gamma in the range, or method {'grpo' if never else 'luffy'}",
        topic="gate:unreachable",
    )


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _beta_quantile(q: float, a: float, b: float) -> float:
    from scipy.stats import beta  # a second to import: not before a command's help

    return float(beta.ppf(q, a, b))
