"""`gate.correlation` (METHOD 9): S and N - S count 1/(1 + (N-1) rho) each.

The values are derived by hand. N = 8 and rho = 1/7 give a weight of 1/2, so with the prior (1, 1)
c = (1 + S/2) / (2 + 8/2) = (2 + S) / 12; rho = 1 gives 1/8 and c = (8 + S) / 24; rho = .1 gives
10/17 and c = (17 + 10 S) / 114.
"""

from __future__ import annotations

import numpy as np
import pytest

from hapo_core.errors import ConfigError
from hapo_core.gate import (
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    Statistic,
    check_reachable,
    evidence_weight,
    reachable_range,
)
from hapo_core.theory.injection_probability import (
    always_open,
    effective_count,
    injection_probability,
    never_open,
    open_probability,
    visit_bound,
    visit_injection_probability,
)
from hapo_core.theory.outlook import Future, closing_gamma, outlook

N = 8


def gate(rho: float, gamma: float = 0.5, **more: object) -> Gate:
    made = Gate(GateSpec(ConstantThreshold(gamma), correlation=rho, **more), seed=3)  # type: ignore[arg-type]
    made.begin_round(0, 0.5)
    return made


@pytest.mark.parametrize(
    ("rho", "confidence"),
    [
        (0.0, lambda s: (1 + s) / 10),
        (1 / 7, lambda s: (2 + s) / 12),
        (1.0, lambda s: (8 + s) / 24),
        (0.1, lambda s: (17 + 10 * s) / 114),
    ],
)
def test_confidence_by_hand(rho: float, confidence) -> None:  # type: ignore[no-untyped-def]
    for s in range(N + 1):
        assert gate(rho).observe("p", s, N, 0).confidence == pytest.approx(confidence(s), abs=1e-15)


def test_zero_is_the_gate_of_before_bit_for_bit() -> None:
    for a, b in ((1.0, 1.0), (0.3, 1.7)):
        for s in range(N + 1):
            read = gate(0.0, prior_a=a, prior_b=b).observe("p", s, N, 0)
            assert read.confidence == (a + s) / ((a + s) + (b + N - s))
    assert evidence_weight(N, 0.0) == evidence_weight(1, 0.9) == evidence_weight(0, 0.9) == 1.0
    assert evidence_weight(N, 1.0) == 1 / 8


def test_what_it_does_to_the_gate() -> None:
    """c is drawn to the prior's mean: above it more groups open, below it fewer."""
    opens = [[s for s in range(N) if gate(r, 0.8).observe("p", s, N, 0).open] for r in (0, 0.1)]
    assert opens == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7]]  # .8 and 87/114 = .763
    opens = [[s for s in range(N) if gate(r, 0.3).observe("p", s, N, 0).open] for r in (0, 1 / 7)]
    assert opens == [[0, 1], [0, 1]]  # 2: .3 and 4/12
    opens = [[s for s in range(N) if gate(r, 0.35).observe("p", s, N, 0).open] for r in (0, 1 / 7)]
    assert opens == [[0, 1, 2], [0, 1, 2]]
    low = [[s for s in range(N) if gate(r, 0.2).observe("p", s, N, 0).open] for r in (0, 1 / 7, 1)]
    assert low == [[0], [0], []]


def test_range_and_refusal() -> None:
    spec = GateSpec(ConstantThreshold(0.3), correlation=1.0)
    assert reachable_range(spec, N) == pytest.approx((1 / 3, 2 / 3))
    with pytest.raises(ConfigError, match="never open"):
        check_reachable(spec, N)
    assert closing_gamma(spec, N) == pytest.approx(1 / 3)
    assert outlook(spec, N, 0.3).future is Future.CLOSED
    assert never_open(0.3, N, spec) and not never_open(0.3, N)
    assert always_open(
        0.8, N, GateSpec(ConstantThreshold(0.8), correlation=0.1)
    ) and not always_open(0.8, N)


@pytest.mark.parametrize("statistic", list(Statistic))
@pytest.mark.parametrize("rho", [0.0, 0.05, 1 / 7, 1.0])
def test_the_exact_probability_is_that_of_the_gate(statistic: Statistic, rho: float) -> None:
    opened = np.array(
        [
            np.mean([gate(rho, 0.45, statistic=statistic).observe(f"p{i}", s, N, 0).open
                     for i in range(400 if statistic is Statistic.THOMPSON else 1)])
            for s in range(N)
        ]
    )  # fmt: skip
    spec = GateSpec(ConstantThreshold(0.45), statistic=statistic, correlation=rho)
    exact = open_probability(np.arange(N), N, 0.45, spec)
    tolerance = 0.08 if statistic is Statistic.THOMPSON else 0.0
    assert np.abs(opened - exact).max() <= tolerance
    chance = injection_probability(0.4, N, 0.45, spec)
    assert 0 <= float(chance) <= 1


def test_prompt_evidence_holds_less() -> None:
    """Two visits of 8 of 8 with weight 1/2: a = 1 + 4 + 4, b = 1, c = .9; without it 17/18."""
    for rho, c in ((0.0, 17 / 18), (1 / 7, 0.9)):
        made = gate(rho, evidence=Evidence.PROMPT)
        made.observe("p", N, N, 0)
        assert made.observe("p", N, N, 1).confidence == pytest.approx(c)
    assert effective_count(N, 0.5) == 16 and effective_count(N, 0.5, 1 / 7) == 8
    spec = GateSpec(ConstantThreshold(0.5), Evidence.PROMPT, correlation=1 / 7)
    for visit in (1, 2, 5):
        exact = visit_injection_probability(0.8, N, 0.5, visit, spec)
        assert exact <= visit_bound(0.8, N, 0.5, visit, spec) + 1e-12
    one = visit_injection_probability(0.6, N, 0.5, 1, spec)
    assert one == pytest.approx(float(injection_probability(0.6, N, 0.5, spec)))
