"""The effect of help, by hand and by simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hapo_core.gate import ConstantThreshold, Decision, Gate, GateSpec
from hapo_core.stats.help_effect import help_effect
from hapo_core.stats.visits import Visit
from hapo_core.theory.injection_probability import (
    GroupColumns,
    check_rounds,
    injection_probability,
    open_probability,
)


def visit(prompt: str, index: int, successes: int, decision: str, known: int = 8) -> Visit:
    return Visit(prompt, index, successes, known, decision)


def test_by_hand() -> None:
    """Only the next visit of the same prompt counts, in the order of rounds."""
    visits = [
        visit("a", 9, 6, "closed"),
        visit("a", 1, 0, "injected"),  # -> 6/8
        visit("b", 1, 0, "injected"),
        visit("b", 4, 2, "held_out"),  # the injection's next visit: 2/8; its own next: 4/8
        visit("b", 8, 4, "closed"),
        visit("c", 2, 0, "held_out"),  # -> 0/8
        visit("c", 3, 0, "no_trace"),
        visit("d", 5, 0, "injected"),  # never seen again
        visit("e", 1, 1, "injected"),
        visit("e", 2, 0, "unknown", known=0),  # nothing is known there
    ]
    found = help_effect(visits)
    assert found is not None and (found.injected, found.held_out) == (2, 2)
    assert found.rates == (0.5, 0.25) and found.effect == 0.25
    assert found.ci is not None and found.ci[0] < 0.25 < found.ci[1]
    assert help_effect(v for v in visits if v.decision != "held_out") is None
    same = [visit(p, r, 4, d) for p, d in (("a", "injected"), ("b", "held_out")) for r in (1, 2)]
    alone = help_effect(same)
    assert alone is not None and alone.effect == 0.0 and alone.ci is None


def test_the_interval_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        visits = []
        for i in range(80):
            helped = rng.random() < 0.7
            truth = rng.beta(2, 6) + (0.2 if helped else 0.0)
            decision = "injected" if helped else "held_out"
            visits += [
                visit(str(i), 1, 0, decision),
                visit(str(i), 2, int(rng.binomial(8, min(1.0, truth))), "closed"),
            ]
        found = help_effect(visits)
        assert found is not None and found.ci is not None
        covered += found.ci[0] < 0.2 < found.ci[1]
    assert covered / 400 > 0.92  # a little is cut off at 1


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_the_draw(share: float) -> None:
    """Its share, its own stream, and no dependence on the order of calls."""
    gate = Gate(GateSpec(ConstantThreshold(0.5), holdout=share), seed=3)
    cases = [(f"p{i}", r) for i in range(400) for r in range(5)]
    drawn = {case: gate.holds_out(*case) for case in cases}
    assert {case: gate.holds_out(*case) for case in reversed(cases)} == drawn
    mean = sum(drawn.values()) / len(drawn)
    assert mean == share == 0.0 or abs(mean - share) < 4 * (share * (1 - share) / 2000) ** 0.5


def test_a_held_out_group_is_its_own() -> None:
    """The rows of GRPO, whatever the trace; a closed gate is never held out."""
    from test_golden_hapo import group

    from hapo_core.methods import GRPO, HAPO
    from hapo_core.objective import PAPER

    never = Gate(GateSpec(ConstantThreshold(0.5), holdout=1 - 1e-12), seed=3)
    groups = [group(k, [0.0] * 6 + [float(k % 2)] * 2, 1, 5) for k in range(6)]
    groups += [group(9, [1.0] * 8, 1, 5), group(10, [1.0] * 7 + [0.0], 1, 5)]
    held = HAPO(never, PAPER, 3).plan(groups, 1)
    plain = GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 3), PAPER, 3).plan(groups, 1)
    assert [p.decision for p in held] == [Decision.HELD_OUT] * 6 + [
        Decision.SOLVED,
        Decision.CLOSED,
    ]
    assert [p.rows for p in held] == [p.rows for p in plain]


def test_theory_knows_of_the_hold_out() -> None:
    """METHOD 4's probabilities times 1 - h, and a round's deeds are no contradiction."""
    spec = GateSpec(ConstantThreshold(0.5), holdout=0.25)
    plain = replace(spec, holdout=0.0)
    for s in range(9):
        wanted = 0.75 * float(open_probability(s, 8, 0.5, plain))
        assert float(open_probability(s, 8, 0.5, spec)) == wanted
    assert injection_probability(0.3, 8, 0.5, spec) == pytest.approx(
        0.75 * injection_probability(0.3, 8, 0.5, plain), rel=1e-12
    )
    rng, gate = np.random.default_rng(1), Gate(spec, seed=5)
    rows: list[tuple[int, int, str]] = []
    for index in range(6):
        gate.begin_round(index, None)
        for i in range(400):
            s = int(rng.binomial(8, 0.3))
            reading = gate.observe(f"p{i}", s, 8, index)
            decision = "injected" if reading.open else "closed"
            if reading.open and gate.holds_out(f"p{i}", index):
                decision = "held_out"
            rows.append((index + 1, s, decision))
    rounds, successes, decisions = (np.array(x) for x in zip(*rows, strict=True))
    ones = np.ones(len(rows))
    columns = GroupColumns(
        rounds, successes, 8 * np.ones(len(rows), int), ones, ones, 0.5 * ones, decisions
    )
    for check in check_rounds(columns, spec):
        assert check.implied == pytest.approx(check.measured, abs=1e-12)
        if check.predicted is not None:
            assert check.predicted.low <= check.measured <= check.predicted.high
