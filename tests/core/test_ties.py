"""Where c equals gamma the gate is closed: compared with fractions, whatever both are made of."""

from __future__ import annotations

from fractions import Fraction

import pytest

from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    Reading,
    ScheduledThreshold,
    Shape,
    Statistic,
)
from hapo_core.theory.injection_probability import open_probability


@pytest.mark.parametrize("n", [4, 8, 16])
def test_scheduled_thresholds_are_exact_at_ties(n):
    ties = 0
    for horizon in (3, 5, 7, 10, 20):
        for start, end in ((90, 40), (80, 20), (95, 5), (70, 30), (60, 10)):
            threshold = ScheduledThreshold(Shape.LINEAR, start / 100, end / 100, horizon)
            for t in range(horizon + 2):
                w = 1 - min(Fraction(1), Fraction(t, horizon))
                exact = Fraction(end, 100) + Fraction(start - end, 100) * w
                for s in range(n + 1):
                    c = Fraction(s + 1, n + 2)
                    reading = Reading(1, 1, (s + 1) / (n + 2), threshold.at(t))
                    assert reading.open is (c < exact)
                    ties += c == exact
    assert ties > 5


def test_the_middle_and_the_thirds_of_curves_are_exact():
    cosine = ScheduledThreshold(Shape.COSINE, 0.9, 0.1, 6)
    assert [cosine.at(t) for t in (0, 2, 3, 4, 6, 9)] == [0.9, 0.7, 0.5, 0.3, 0.1, 0.1]
    sigmoid = ScheduledThreshold(Shape.SIGMOID, 0.9, 0.1, 6)
    assert [sigmoid.at(t) for t in (0, 3, 6)] == [0.9, 0.5, 0.1]


def test_a_closed_gate_stays_closed_where_the_schedule_ties():
    """S = 5 of 8 gives c = .6; linear from .9 to .4 over 5 rounds gives gamma = .6 at t = 3."""
    gate = Gate(GateSpec(ScheduledThreshold(Shape.LINEAR, 0.9, 0.4, 5)), seed=0)
    assert gate.begin_round(3, None) == 0.6
    assert not gate.observe("p", 5, 8, 3).open
    assert gate.observe("q", 4, 8, 3).open


def exact_confidence(rounds: list[int], n: int, prior, delta, rho):
    """c of the last visit as a fraction: successes of each, and what a rollout counts."""
    a, b = map(Fraction, prior)
    w = 1 / (1 + (n - 1) * Fraction(rho))
    for s in rounds:
        a = Fraction(prior[0]) + Fraction(delta) * (a - Fraction(prior[0])) + w * s
        b = Fraction(prior[1]) + Fraction(delta) * (b - Fraction(prior[1])) + w * (n - s)
    return a / (a + b)


def test_adaptive_thresholds_are_exact_at_ties():
    """.8 x (1 - 4/24) is above 2/3 in float64: S = 3 of 4 (c = 4/6) was injected."""
    ties = 0
    for n, total in ((4, 24), (8, 32), (8, 64), (16, 128)):
        for start, kappa in (("0.8", 1), ("0.9", 1), ("0.75", 2), ("0.5", 1)):
            for right in range(total):
                gate = Gate(GateSpec(AdaptiveThreshold(float(start), kappa)), seed=0)
                gate.begin_round(0, right / total)
                gamma = Fraction(start) * (1 - Fraction(right, total)) ** kappa
                for s in range(n):
                    c = Fraction(s + 1, n + 2)
                    if abs(c - gamma) < Fraction(1, 100):
                        assert gate.observe("p", s, n, 0).open is (c < gamma)
                        ties += c == gamma
    assert ties > 20


@pytest.mark.parametrize(
    ("rounds", "n", "gamma", "choices"),
    [
        ([2], 4, "0.55", {"prior": ("1.3", "0.7")}),
        ([1], 8, "0.23", {"prior": ("1.3", "0.7")}),
        ([2], 5, "0.4", {"prior": ("2", "3"), "rho": "0.05"}),
        ([4, 4], 8, "0.5", {"delta": "0.7"}),
    ],
)
def test_evidence_that_ties_leaves_the_gate_closed(rounds, n, gamma, choices):
    """Priors, correlation and forgetting are decimals: c was off by one digit of float64."""
    prior, delta = choices.get("prior", (1, 1)), choices.get("delta", 1)
    rho = choices.get("rho", 0)
    for below, opened in ((0, False), (1, True)):  # at the tie, and a hair above it
        spec = GateSpec(
            ConstantThreshold(float(gamma) + below * 1e-9),
            evidence=Evidence.PROMPT,
            prior_a=float(prior[0]),
            prior_b=float(prior[1]),
            forgetting=float(delta),
            correlation=float(rho),
        )
        assert exact_confidence(rounds, n, prior, delta, rho) == Fraction(gamma)
        gate = Gate(spec, seed=0)
        for t, s in enumerate(rounds):
            gate.begin_round(t, None)
            reading = gate.observe("p", s, n, t)
        assert reading.open is opened
        before = (reading.prior_a, reading.prior_b)
        assert open_probability(rounds[-1], n, spec.threshold.gamma, spec, before) == opened


def test_a_median_that_ties_leaves_the_gate_closed():
    spec = GateSpec(ConstantThreshold(0.5), statistic=Statistic.QUANTILE, prior_a=0.5, prior_b=0.5)
    gate = Gate(spec, seed=0)
    gate.begin_round(0, None)
    assert not gate.observe("p", 4, 8, 0).open
    assert open_probability(4, 8, 0.5, spec) == 0
