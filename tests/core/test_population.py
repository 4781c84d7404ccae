"""The population of success rates, and injection as predicted from it against the measured one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapo_core.errors import DataError
from hapo_core.gate import (
    ConstantThreshold,
    Decision,
    Evidence,
    Gate,
    GateSpec,
    Statistic,
)
from hapo_core.theory.injection_probability import (
    GroupColumns,
    check_rounds,
    injection_probability,
    predicted_injection_rate,
    residual_injection_probability,
    retired_from,
)
from hapo_core.theory.population import Population, beta_binomial, fit_population

N = 8
THOMPSON = GateSpec(ConstantThreshold(0.5), statistic=Statistic.THOMPSON)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 20), st.floats(0.01, 50), st.floats(0.01, 50))
def test_beta_binomial_is_a_distribution(n: int, alpha: float, beta: float) -> None:
    p = beta_binomial(np.arange(n + 1), n, alpha, beta)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p * np.arange(n + 1)).sum() == pytest.approx(n * alpha / (alpha + beta), rel=1e-6)
    assert beta_binomial(n + 1, n, alpha, beta) == 0


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0.2, 2), (5, 5), (0.3, 0.1)])
def test_fit_recovers_a_population(alpha: float, beta: float) -> None:
    rng = np.random.default_rng(4)
    n = rng.integers(4, 17, 4000)
    found = fit_population(rng.binomial(n, rng.beta(alpha, beta, 4000)), n)
    assert found.mean == pytest.approx(alpha / (alpha + beta), abs=0.02)
    assert found.alpha + found.beta == pytest.approx(alpha + beta, rel=0.15)
    assert found.groups == 4000


def test_fit_survives_degenerate_counts() -> None:
    none, every = fit_population([0] * 80, [N] * 80), fit_population([N] * 80, [N] * 80)
    assert 0 < none.mean < 0.02 and 0.98 < every.mean < 1
    assert fit_population([4] * 80, [N] * 80).mean == pytest.approx(0.5, abs=1e-3)
    one = fit_population([3], [N])
    assert 0.2 < one.mean < 0.5
    with pytest.raises(DataError):
        fit_population([0], [0])
    with pytest.raises(DataError):
        fit_population([9], [8])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=1, max_size=30))
def test_fit_is_finite_and_ignores_order(pairs: list[tuple[int, int]]) -> None:
    s, n = [min(x, y) for x, y in pairs], [y for _, y in pairs]
    found = fit_population(s, n)
    assert math.isfinite(found.alpha) and found.alpha > 0 and found.beta > 0
    again = fit_population(s[::-1], n[::-1])
    assert (again.alpha, again.beta) == (found.alpha, found.beta)


def test_prediction_is_the_residual_probability_under_group_evidence() -> None:
    population = Population(0.7, 1.9, 100)
    prediction = predicted_injection_rate(population, [N] * 40, 0.6)
    assert prediction is not None and prediction.groups == 40
    exact = residual_injection_probability(population, N, 0.6)
    assert prediction.rate == pytest.approx(exact)
    assert prediction.low < exact < prediction.high
    mus = np.random.default_rng(0).beta(0.7, 1.9, 200_000)
    assert injection_probability(mus, N, 0.6).mean() == pytest.approx(exact, abs=0.003)


def test_prediction_leaves_unusable_groups_out() -> None:
    population = Population(1.0, 1.0, 10)
    both = predicted_injection_rate(
        population, [N, N], 0.5, evidence=(1.0, [1.0, 90.0]), usable=[True, False]
    )
    alone = predicted_injection_rate(population, [N], 0.5)
    assert both == alone
    assert predicted_injection_rate(population, [N], 0.5, usable=[False]) is None
    assert predicted_injection_rate(population, [0], 0.5) is None


def test_residual_probability_is_zero_iff_the_gate_is_shut() -> None:
    population = Population(0.1, 5.0, 10)
    assert residual_injection_probability(population, N, 0.1) == 0
    assert residual_injection_probability(population, N, 0.11) > 0.5


def simulated_columns(
    spec: GateSpec, rounds: int, prompts: int, seed: int, gain: float
) -> GroupColumns:
    """The GROUPS columns of a run of the real gate; `gain` 0: the prompts do not improve."""
    gate, rng = Gate(spec, seed=seed), np.random.default_rng(seed)
    ease = rng.beta(0.6, 2.5, 4 * prompts)
    rows: list[tuple[float, ...]] = []
    decisions: list[str] = []
    for t in range(rounds):
        chosen = rng.choice(ease.size, prompts, replace=False)
        mu = 1 - (1 - ease[chosen]) ** (1 + gain * t / rounds)
        counts = rng.binomial(N, mu)
        gate.begin_round(t, counts.sum() / (prompts * N))
        for i, s in zip(chosen, counts, strict=True):
            reading = gate.observe(str(i), int(s), N, t)
            rows.append((t, s, N, reading.prior_a, reading.prior_b, reading.gamma))
            solved = Decision.SOLVED if s == N else Decision.CLOSED
            decisions.append(str(Decision.INJECTED if reading.open and s < N else solved))
    table = np.array(rows)
    whole = table[:, :3].astype(np.int64)
    return GroupColumns(
        whole[:, 0],
        whole[:, 1],
        whole[:, 2],
        *table[:, 3:].T,
        np.array(decisions, dtype=np.object_),
    )


def prediction_errors(spec: GateSpec, gain: float, window: int) -> tuple[float, float]:
    """(share of rounds inside the predicted range, mean of measured - predicted), three runs."""
    inside, errors = [], []
    for seed in range(3):
        columns = simulated_columns(spec, rounds=30, prompts=64, seed=seed, gain=gain)
        checks = check_rounds(columns, spec, window)
        assert [c.round for c in checks] == list(range(30)) and checks[0].predicted is None
        if spec.statistic is not Statistic.THOMPSON:
            assert all(c.implied == c.measured for c in checks), "the gate did what it says"
        for check in checks[window:]:
            assert check.predicted is not None
            inside.append(check.predicted.low <= check.measured <= check.predicted.high)
            errors.append(check.measured - check.predicted.rate)
    return float(np.mean(inside)), float(np.mean(errors))


@pytest.mark.parametrize("evidence", list(Evidence))
@pytest.mark.parametrize("statistic", list(Statistic))
def test_predicted_against_measured(evidence: Evidence, statistic: Statistic) -> None:
    forgetting = 0.8 if evidence is Evidence.PROMPT else 1.0
    spec = GateSpec(
        ConstantThreshold(0.5), evidence, statistic, quantile=0.4, forgetting=forgetting
    )
    inside, bias = prediction_errors(spec, gain=0, window=5)
    assert inside >= 0.9 and abs(bias) < 0.02


def test_prediction_lags_behind_an_improving_policy() -> None:
    """It knows only earlier rounds, so it is high while the policy improves; a shorter window lags
    less."""
    spec = GateSpec(ConstantThreshold(0.5))
    short, long = (prediction_errors(spec, gain=8, window=w)[1] for w in (1, 10))
    assert long < short < 0.01
    assert long > -0.15


def test_check_rounds_counts_only_usable_groups() -> None:
    columns = GroupColumns(
        round=np.array([0, 0, 0, 1]),
        successes=np.array([0, 0, 0, 0]),
        known=np.array([8, 8, 0, 0]),
        prior_a=np.ones(4),
        prior_b=np.ones(4),
        gamma=np.full(4, 0.5),
        decision=np.array(["injected", "no_trace", "unknown", "unknown"], dtype=np.object_),
    )
    (only,) = check_rounds(columns)
    assert (only.round, only.groups, only.measured, only.implied) == (0, 1, 1.0, 1.0)


def test_retired_from() -> None:
    def columns(gammas: list[float]) -> GroupColumns:
        m = len(gammas)
        return GroupColumns(
            np.arange(m),
            np.zeros(m, np.int64),
            np.full(m, N),
            np.ones(m),
            np.ones(m),
            np.array(gammas),
            np.array(["closed"] * m, dtype=np.object_),
        )

    assert retired_from(columns([0.8, 0.3, 0.1, 0.05])) == 2
    assert retired_from(columns([0.8, 0.1, 0.3])) is None
    assert retired_from(columns([0.1, 0.1])) == 0
    assert retired_from(columns([0.8, float("nan")])) == 1, "a round without a gate"
    assert retired_from(columns([0.8, 0.05]), THOMPSON) is None
