"""The gate's promises (METHOD 3.2, 4): exact values, bounds, and the real gate in simulation."""

from __future__ import annotations

import importlib.util
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    Statistic,
    check_reachable,
)
from hapo_core.theory.injection_probability import (
    always_open,
    effective_count,
    injectable_range,
    injection_probability,
    never_open,
    open_probability,
    visit_bound,
    visit_injection_probability,
)

N = 8
GAMMAS = st.floats(0.01, 0.99)
PRIORS = st.floats(0.25, 20.0)
STATISTICS = st.sampled_from(list(Statistic))


def gate_of(
    a: float = 1.0,
    b: float = 1.0,
    statistic: Statistic = Statistic.MEAN,
    quantile: float = 0.5,
    forgetting: float = 1.0,
) -> GateSpec:
    """A gate whose threshold nobody reads."""
    return GateSpec(
        ConstantThreshold(0.5),
        statistic=statistic,
        quantile=quantile,
        prior_a=a,
        prior_b=b,
        forgetting=forgetting,
    )


# --- one group ---


@pytest.mark.parametrize(
    ("mu", "probability"),
    [
        *((0.3, 0.999), (0.5, 0.965), (0.7, 0.745), (0.8, 0.497), (0.9, 0.187)),
        *((0.95, 0.057), (0.98, 0.010), (0.99, 0.003), (1.0, 0.0)),
    ],
)
def test_table_of_method_3_2(mu: float, probability: float) -> None:
    assert injection_probability(mu, N, 0.8) == pytest.approx(probability, abs=5e-4)


@pytest.mark.parametrize(
    ("gamma", "probability"), [(0.8, 0.965), (0.6, 0.637), (0.5, 0.363), (0.3, 0.035), (0.2, 0.004)]
)
def test_half_solved_prompt_by_gamma(gamma: float, probability: float) -> None:
    assert injection_probability(0.5, N, gamma) == pytest.approx(probability, abs=5e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(1, 99), st.integers(0, 100))
def test_mean_gate_equals_rational_arithmetic(n: int, hundredths: int, percent: int) -> None:
    """Against the sum in exact fractions, gamma as written in decimals."""
    gamma, mu = Fraction(hundredths, 100), Fraction(percent, 100)
    exact = sum(
        (
            math.comb(n, s) * mu**s * (1 - mu) ** (n - s)
            for s in range(n)
            if Fraction(1 + s, n + 2) < gamma
        ),
        start=Fraction(0),
    )
    ours = injection_probability(percent / 100, n, hundredths / 100)
    assert float(ours) == pytest.approx(float(exact), rel=1e-12, abs=1e-15)


def test_boundary_is_closed() -> None:
    """N = 8, S = 7, gamma = .8: c = .8 exactly; and every other hit of the boundary."""
    assert open_probability(7, 8, 0.8) == 0
    for n in range(1, 65):
        for s in range(n):
            for hundredths in range(1, 100):
                if Fraction(1 + s, n + 2) == Fraction(hundredths, 100):
                    assert open_probability(s, n, hundredths / 100) == 0


def test_solved_group_never_opens() -> None:
    for statistic in Statistic:
        assert open_probability(8, 8, 0.999, gate_of(statistic=statistic)) == 0


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 16), st.integers(0, 16), GAMMAS, PRIORS, PRIORS, st.floats(0.05, 0.95))
def test_open_probability_is_what_the_gate_does(
    n: int, s: int, gamma: float, a: float, b: float, q: float
) -> None:
    s = min(s, n)
    for statistic in (Statistic.MEAN, Statistic.QUANTILE):
        spec = GateSpec(
            ConstantThreshold(gamma), statistic=statistic, quantile=q, prior_a=a, prior_b=b
        )
        gate = Gate(spec, seed=0)
        gate.begin_round(0, None)
        opens = gate.observe("p", s, n, 0).open and s < n
        assert open_probability(s, n, gamma, spec) == float(opens)


def test_thompson_probability_is_measured() -> None:
    gate = Gate(GateSpec(ConstantThreshold(0.4), statistic=Statistic.THOMPSON), seed=3)
    gate.begin_round(0, None)
    opened = np.mean([gate.observe(str(i), 2, N, 0).open for i in range(4000)])
    exact = float(open_probability(2, N, 0.4, gate.spec))
    assert opened == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4000))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 16), GAMMAS, GAMMAS, st.floats(0, 1), st.floats(0, 1), PRIORS, PRIORS, STATISTICS
)
def test_injection_probability_is_monotone(
    n: int, g1: float, g2: float, m1: float, m2: float, a: float, b: float, statistic: Statistic
) -> None:
    """Falls with mu, rises with gamma, lies in [0, 1]."""
    spec = gate_of(a, b, statistic, 0.3)
    low, high = sorted((m1, m2))
    p_low, p_high = injection_probability([low, high], n, g1, spec)
    assert 0 <= p_high <= p_low + 1e-12 <= 1 + 1e-9
    small, large = sorted((g1, g2))
    at_small = injection_probability(m1, n, small, spec)
    assert at_small <= injection_probability(m1, n, large, spec) + 1e-12


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 16), GAMMAS, PRIORS, PRIORS, STATISTICS)
def test_never_and_always_mean_what_they_say(
    n: int, gamma: float, a: float, b: float, statistic: Statistic
) -> None:
    spec = gate_of(a, b, statistic, 0.4)
    opens = open_probability(np.arange(n), n, gamma, spec)
    if statistic is Statistic.THOMPSON:  # never certain, though the float may round to 0 or 1
        assert not never_open(gamma, n, spec) and not always_open(gamma, n, spec)
        return
    assert never_open(gamma, n, spec) == bool((opens == 0).all())
    assert always_open(gamma, n, spec) == bool((opens == 1).all())


def test_a_tie_of_gamma_and_the_mean_is_decided_as_the_gate_decides_it() -> None:
    """Found by hypothesis: two orders of the same sum differed in the last bit."""
    a, b = 7.520934998269003, 6.520934998269003
    opens = open_probability(0, 1, 0.5, gate_of(a, b))
    assert always_open(0.5, 1, gate_of(a, b)) == bool(opens == 1)


def test_injectable_range_of_the_paper_gate() -> None:
    assert injectable_range(N) == (0.1, 0.8)
    assert never_open(0.1, N) and not never_open(0.11, N)
    assert always_open(0.81, N) and not always_open(0.8, N)
    # A gamma between the c of S = N - 1 and of S = N opens always, yet METHOD 3.1 accepts it.
    check_reachable(GateSpec(ConstantThreshold(0.85)), N)


def test_injection_probability_does_not_vanish_above_gamma() -> None:
    """The paper's claim is false for group evidence: mu > gamma, and still 5.7 % of all visits."""
    assert injection_probability(0.95, N, 0.8) > 0.05
    assert injection_probability(0.999, N, 0.8) > 0


def test_measured_rate_agrees_with_the_exact_probability() -> None:
    """Fact 3 of METHOD 4: the real gate on simulated groups, every statistic and several mu."""
    rng = np.random.default_rng(11)
    for statistic in Statistic:
        for mu in (0.1, 0.5, 0.75, 0.95):
            gate = Gate(GateSpec(ConstantThreshold(0.6), statistic=statistic, quantile=0.3), seed=1)
            gate.begin_round(0, None)
            counts = rng.binomial(N, mu, 3000)
            hits = [gate.observe(str(i), int(s), N, 0).open and s < N for i, s in enumerate(counts)]
            exact = float(injection_probability(mu, N, 0.6, gate.spec))
            error = 4.5 * math.sqrt(max(exact * (1 - exact), 1e-4) / 3000)
            assert np.mean(hits) == pytest.approx(exact, abs=error), (statistic, mu)


# --- prompt evidence: fact 4 ---


def prompt_gate_rates(
    mu: float, gamma: float, forgetting: float, visits: int, prompts: int
) -> np.ndarray:
    """Measured injection rate per visit of the real gate, float64 [visits]."""
    spec = GateSpec(ConstantThreshold(gamma), Evidence.PROMPT, forgetting=forgetting)
    gate = Gate(spec, seed=0)
    rng = np.random.default_rng(17)
    rates = np.empty(visits)
    for visit in range(visits):
        gate.begin_round(visit, None)
        counts = rng.binomial(N, mu, prompts)
        rates[visit] = np.mean(
            [gate.observe(str(i), int(s), N, visit).open and s < N for i, s in enumerate(counts)]
        )
    return rates


def test_prompt_evidence_without_forgetting_stops_injecting() -> None:
    """Fact 4, delta = 1: measured = exact, both below Hoeffding's bound, which tends to 0."""
    mu, gamma, prompts = 0.9, 0.8, 1000
    rates = prompt_gate_rates(mu, gamma, 1.0, 25, prompts)
    exact = np.array([visit_injection_probability(mu, N, gamma, v) for v in range(1, 26)])
    error = 4.5 * np.sqrt(np.maximum(exact * (1 - exact), 1e-3) / prompts)
    assert (np.abs(rates - exact) < error).all()
    bounds = [visit_bound(mu, N, gamma, v) for v in range(1, 26)]
    assert (exact <= bounds).all()
    assert exact[0] == pytest.approx(float(injection_probability(mu, N, gamma)))
    assert visit_injection_probability(mu, N, gamma, 100) < 1e-12
    assert visit_bound(mu, N, gamma, 1000) < 1e-60


def test_prompt_evidence_with_forgetting_keeps_injecting() -> None:
    """Fact 4, delta < 1: the posterior never holds more than N / (1 - delta) rollouts, and the
    injection probability settles above 0."""
    mu, gamma, forgetting = 0.9, 0.8, 0.5
    spec = gate_of(forgetting=forgetting)
    rates = prompt_gate_rates(mu, gamma, forgetting, 40, 1500)
    assert rates[20:].mean() > 0.02
    assert rates[20:].mean() == pytest.approx(rates[30:].mean(), abs=0.01), "settled"
    assert rates.max() <= 1 and (rates[1:] <= visit_bound(mu, N, gamma, 200, spec) + 1).all()
    assert visit_bound(mu, N, gamma, 2000, spec) == pytest.approx(
        visit_bound(mu, N, gamma, 200, spec)
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 0.99), st.lists(st.integers(0, N), min_size=1, max_size=60))
def test_effective_count_bounds_the_posterior(forgetting: float, counts: list[int]) -> None:
    gate = Gate(GateSpec(ConstantThreshold(0.5), Evidence.PROMPT, forgetting=forgetting), seed=0)
    gate.begin_round(0, None)
    for visit, s in enumerate(counts):
        gate.observe("p", s, N, visit)
    held = gate.state.posteriors["p"]
    assert held.a + held.b - 2 <= effective_count(N, forgetting) * (1 + 1e-12)


def test_hoeffding_bound_holds_under_forgetting() -> None:
    for forgetting in (0.6, 0.9):
        rates = prompt_gate_rates(0.9, 0.6, forgetting, 20, 800)
        bounds = np.array(
            [visit_bound(0.9, N, 0.6, v, gate_of(forgetting=forgetting)) for v in range(1, 21)]
        )
        assert (rates <= bounds + 4 * np.sqrt(bounds * (1 - bounds) / 800 + 1e-6)).all()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 1.0), st.integers(1, 12), st.floats(0.1, 0.9))
def test_exact_visits_stay_below_hoeffding(mu: float, visit: int, gamma: float) -> None:
    exact = visit_injection_probability(mu, 4, gamma, visit)
    assert exact <= visit_bound(mu, 4, gamma, visit) + 1e-12


# --- adaptive threshold: fact 5 ---


def test_adaptive_threshold_retires_the_teacher() -> None:
    """Fact 5: exactly no injection once gamma_t <= a0 / (a0 + b0 + N), and none ever after, even
    if the policy forgets everything."""
    spec = GateSpec(AdaptiveThreshold(start=0.8, kappa=2.0, smoothing=0.5))
    gate = Gate(spec, seed=0)
    rng = np.random.default_rng(2)
    injected, gammas = [], []
    for t in range(40):
        mu = min(0.9, 0.05 + 0.05 * t) if t < 30 else 0.0
        counts = rng.binomial(N, mu, 64)
        gammas.append(gate.begin_round(t, counts.sum() / (64 * N)))
        reads = [gate.observe(str(i), int(s), N, t) for i, s in enumerate(counts)]
        injected.append(sum(r.open and s < N for r, s in zip(reads, counts, strict=True)))
    closed = next(t for t, g in enumerate(gammas) if never_open(g, N))
    assert 5 < closed < 30
    assert injected[0] > 0 and sum(injected[closed:]) == 0
    assert gammas == sorted(gammas, reverse=True)


# --- statements of docs/consistency.md that METHOD does not spell out ---


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 16), GAMMAS, PRIORS, PRIORS, st.floats(0.05, 0.95))
def test_deterministic_group_gates_are_cut_offs(
    n: int, gamma: float, a: float, b: float, q: float
) -> None:
    """With group evidence, `mean` and `quantile` inject iff S < s*, whatever else they are."""
    for statistic in (Statistic.MEAN, Statistic.QUANTILE):
        opens = open_probability(np.arange(n + 1), n, gamma, gate_of(a, b, statistic, q))
        assert (np.diff(opens) <= 0).all() and set(opens) <= {0.0, 1.0}


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 0.95), st.lists(st.integers(0, N), max_size=30), st.floats(0.02, 0.9))
def test_failures_reopen_a_forgetting_gate(
    forgetting: float, history: list[int], margin: float
) -> None:
    """delta < 1: after enough failed visits the gate opens again, however good the past was."""
    floor = 1 / (2 + effective_count(N, forgetting))
    gamma = floor + margin * (1 - floor)
    spec = GateSpec(ConstantThreshold(gamma), Evidence.PROMPT, forgetting=forgetting)
    gate = Gate(spec, seed=0)
    gate.begin_round(0, None)
    for s in history:
        gate.observe("p", s, N, 0)
    assert any(gate.observe("p", 0, N, 0).open for _ in range(400))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 0.95), st.lists(st.integers(0, N), min_size=1, max_size=60))
def test_prompt_gate_below_its_floor_never_opens(forgetting: float, counts: list[int]) -> None:
    floor = 1 / (2 + effective_count(N, forgetting))
    spec = GateSpec(ConstantThreshold(floor * (1 - 1e-9)), Evidence.PROMPT, forgetting=forgetting)
    gate = Gate(spec, seed=0)
    gate.begin_round(0, None)
    assert not any(gate.observe("p", s, N, 0).open for s in counts)


@pytest.mark.parametrize(
    ("start", "kappa", "competence"), [(0.8, 1.0, 0.875), (0.8, 2.0, 0.6464), (0.5, 1.0, 0.8)]
)
def test_competence_that_retires_the_teacher(start: float, kappa: float, competence: float) -> None:
    threshold = AdaptiveThreshold(start, kappa, smoothing=0.0)
    for shift, shut in ((-0.001, False), (0.001, True)):
        gate = Gate(GateSpec(threshold), seed=0)
        assert never_open(gate.begin_round(0, competence + shift), N) is shut


def test_vectorised_gates_of_the_bench_are_the_gate() -> None:
    path = Path(__file__).parents[2] / "bench" / "gates.py"
    spec = importlib.util.spec_from_file_location("bench_gates", path)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = bench
    spec.loader.exec_module(bench)
    visits = bench.visits_of(bench.WORLDS[1], seed=1, rounds=60)
    for name, gate_spec in bench.gates().items():
        if gate_spec.statistic is Statistic.THOMPSON:
            continue
        hit, gammas = bench.injected(gate_spec, visits)
        gate = Gate(gate_spec, seed=0)
        for t, (who, counts) in enumerate(zip(visits.prompt, visits.successes, strict=True)):
            assert gate.begin_round(t, float(counts.mean()) / N) == gammas[t]
            reads = [gate.observe(str(i), int(s), N, t) for i, s in zip(who, counts, strict=True)]
            opens = [r.open and s < N for r, s in zip(reads, counts, strict=True)]
            assert opens == hit[t].tolist(), (name, t)
