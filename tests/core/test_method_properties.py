"""Properties of gate, SSI, advantages and plans that must hold for any group."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hapo_core.advantage import AdvantageKind, group_advantages
from hapo_core.errors import ConfigError
from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Decision,
    Evidence,
    Gate,
    GateSpec,
    ScheduledThreshold,
    Shape,
    Statistic,
    check_reachable,
    reachable_range,
)
from hapo_core.graded import graded
from hapo_core.groups import Group, Trace
from hapo_core.injection import injected_rewards, worst_rollout
from hapo_core.methods import GRPO, HAPO, LUFFY
from hapo_core.objective import PAPER, RowKind
from hapo_core.rollout.protocol import Finish, Prompt, Rollout

SETTINGS = settings(max_examples=100, deadline=None)
REWARDS = st.lists(st.sampled_from([0.0, 1.0, None]), min_size=2, max_size=16)
KNOWN = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=16)
KINDS = st.sampled_from(list(AdvantageKind))
RATES = st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30)
VISITS = st.lists(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    min_size=1,
    max_size=15,
)
SPECS = st.builds(
    GateSpec,
    threshold=st.one_of(
        st.builds(ConstantThreshold, st.floats(0.05, 0.95)),
        st.builds(
            ScheduledThreshold,
            st.sampled_from(list(Shape)),
            st.floats(0.05, 0.95),
            st.floats(0.05, 0.95),
            st.integers(1, 20),
        ),
        st.builds(AdaptiveThreshold, st.floats(0.05, 0.95), st.floats(0.3, 3), st.floats(0, 0.99)),
    ),
    evidence=st.sampled_from(list(Evidence)),
    statistic=st.sampled_from(list(Statistic)),
    quantile=st.floats(0.05, 0.95),
    prior_a=st.floats(0.5, 5),
    prior_b=st.floats(0.5, 5),
    forgetting=st.floats(0.1, 1),
)


# --- gate ---


@SETTINGS
@given(st.floats(0.1, 1), VISITS)
def test_prompt_posterior_is_the_discounted_sum(delta: float, visits: list) -> None:
    gate = Gate(GateSpec(ConstantThreshold(0.5), Evidence.PROMPT, forgetting=delta), seed=0)
    gate.begin_round(0, None)
    for t, (s, n) in enumerate(visits):
        gate.observe("p", s, n, t)
    weights = [delta ** (len(visits) - 1 - i) for i in range(len(visits))]
    held = gate.state.posteriors["p"]
    a = 1 + math.fsum(w * s for w, (s, _) in zip(weights, visits, strict=True))
    b = 1 + math.fsum(w * (n - s) for w, (s, n) in zip(weights, visits, strict=True))
    assert (held.a, held.b) == (pytest.approx(a), pytest.approx(b))
    assert (held.visits, held.last_round) == (len(visits), len(visits) - 1)


@SETTINGS
@given(SPECS, VISITS)
def test_confidence_lies_between_0_and_1(spec: GateSpec, visits: list) -> None:
    gate = Gate(spec, seed=0)
    for t, (s, n) in enumerate(visits):
        gamma = gate.begin_round(t, s / n)
        reading = gate.observe("p", s, n, t)
        assert 0 <= reading.confidence <= 1 and reading.gamma == gamma
        assert reading.open == (reading.confidence < gamma)


@SETTINGS
@given(SPECS, VISITS, VISITS)
def test_group_evidence_has_no_past(spec: GateSpec, past: list, now: list) -> None:
    spec = replace(spec, evidence=Evidence.GROUP, threshold=ConstantThreshold(0.5))
    fresh, used = Gate(spec, seed=0), Gate(spec, seed=0)
    for gate in (fresh, used):
        gate.begin_round(0, None)
    for s, n in past:
        used.observe("p", s, n, 0)
    for t, (s, n) in enumerate(now):
        assert used.observe("p", s, n, t) == fresh.observe("p", s, n, t)


@SETTINGS
@given(SPECS, VISITS, st.randoms())
def test_reading_order_within_a_round_does_not_matter(
    spec: GateSpec, visits: list, random: object
) -> None:
    """Thompson draws are keyed by prompt and round, not by how many came before."""
    groups = [(f"p{i}", s, n) for i, (s, n) in enumerate(visits)]
    shuffled = list(groups)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for order in (groups, shuffled):
        gate = Gate(spec, seed=1)
        gate.begin_round(4, 0.3)
        results.append({p: gate.observe(p, s, n, 4) for p, s, n in order})
    assert results[0] == results[1]


@SETTINGS
@given(SPECS, VISITS, st.integers(0, 14))
def test_restored_gate_goes_on_as_if_nothing_happened(
    spec: GateSpec, visits: list, cut: int
) -> None:
    whole, resumed, readings = Gate(spec, seed=2), Gate(spec, seed=2), ([], [])
    for t, (s, n) in enumerate(visits):
        if t == cut:
            resumed = Gate(spec, seed=2, state=copy.deepcopy(resumed.state))
        for gate, seen in zip((whole, resumed), readings, strict=True):
            gate.begin_round(t, s / n)
            seen.append(gate.observe("p", s, n, t))
    assert readings[0] == readings[1] and whole.state == resumed.state


@SETTINGS
@given(st.floats(0.05, 0.95), st.floats(0.3, 3), st.floats(0, 0.99), RATES)
def test_adaptive_threshold_never_rises(
    start: float, kappa: float, smoothing: float, rates: list
) -> None:
    gate = Gate(GateSpec(AdaptiveThreshold(start, kappa, smoothing)), seed=0)
    gammas = [gate.begin_round(t, rate) for t, rate in enumerate(rates)]
    assert gammas == sorted(gammas, reverse=True)
    assert all(0 <= g <= start for g in gammas)


@SETTINGS
@given(st.sampled_from(list(Shape)), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_schedules_go_monotonically_from_start_to_end(
    shape: Shape, start: float, end: float
) -> None:
    schedule = ScheduledThreshold(shape, start, end, horizon=20)
    gammas = [schedule.at(t) for t in range(40)]
    assert gammas[0] == pytest.approx(start) and gammas[20:] == [pytest.approx(end)] * 20
    steps = np.diff(gammas) * (1 if end >= start else -1)
    assert (steps >= -1e-12).all()


@SETTINGS
@given(st.floats(0.001, 0.999), st.integers(2, 32), st.floats(0.5, 5), st.floats(0.5, 5))
def test_reachable_check_rejects_exactly_the_gammas_outside(
    gamma: float, size: int, a: float, b: float
) -> None:
    """Accepted iff some S opens the gate and some S (S = N counted) leaves it shut."""
    spec = GateSpec(ConstantThreshold(gamma), prior_a=a, prior_b=b)
    gate = Gate(spec, seed=0)
    gate.begin_round(0, None)
    opens = [gate.observe("p", s, size, 0).open for s in range(size + 1)]
    if any(opens) and not all(opens):
        check_reachable(spec, size)
    else:
        with pytest.raises(ConfigError, match="always" if all(opens) else "never"):
            check_reachable(spec, size)


def test_reachable_range_of_the_paper_gate() -> None:
    assert reachable_range(GateSpec(ConstantThreshold(0.8)), 8) == (1 / 10, 9 / 10)


def test_thompson_draws_change_with_seed_round_and_prompt() -> None:
    def draw(seed: int, round_index: int, prompt: str) -> float:
        gate = Gate(GateSpec(ConstantThreshold(0.5), statistic=Statistic.THOMPSON), seed)
        gate.begin_round(round_index, None)
        return gate.observe(prompt, 2, 8, round_index).confidence

    keys = [(0, 0, "p"), (1, 0, "p"), (0, 1, "p"), (0, 0, "q")]
    draws = [draw(*key) for key in keys]
    assert len(set(draws)) == 4 and draws == [draw(*key) for key in keys]


# --- injection ---


@SETTINGS
@given(REWARDS, st.integers(0, 1000))
def test_worst_rollout_is_a_known_minimum(rewards: list, round_index: int) -> None:
    found = worst_rollout(rewards, 0, round_index, "p")
    known = [r for r in rewards if r is not None]
    if not known:
        assert found is None
        return
    assert found is not None and rewards[found] == min(known)
    assert found == worst_rollout(rewards, 0, round_index, "p")
    after = injected_rewards(rewards, found)
    assert len(after) == len(rewards) and after[found] == 1.0
    assert [r for j, r in enumerate(after) if j != found] == [
        r for j, r in enumerate(rewards) if j != found
    ]


def test_ties_are_broken_anew_by_seed_round_and_prompt() -> None:
    rewards: list[float | None] = [0.0] * 64
    picks = [
        [worst_rollout(rewards, s, 0, "p") for s in range(20)],
        [worst_rollout(rewards, 0, r, "p") for r in range(20)],
        [worst_rollout(rewards, 0, 0, f"p{i}") for i in range(20)],
    ]
    assert all(len(set(row)) > 10 for row in picks)


def test_ties_are_broken_uniformly() -> None:
    rewards: list[float | None] = [0.0, 1.0, 0.0, None, 0.0, 1.0, 0.0]
    counts = Counter(worst_rollout(rewards, 0, 0, f"p{i}") for i in range(8000))
    assert set(counts) == {0, 2, 4, 6}
    assert chisquare(list(counts.values())).pvalue > 1e-4


# --- advantages ---


@SETTINGS
@given(REWARDS, KINDS)
def test_advantages_sum_to_zero_and_unknown_ones_are_zero(
    rewards: list, kind: AdvantageKind
) -> None:
    advantages = group_advantages(rewards, kind)
    assert len(advantages) == len(rewards)
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-9)
    assert all(a == 0 for a, r in zip(advantages, rewards, strict=True) if r is None)


@SETTINGS
@given(REWARDS, KINDS)
def test_a_group_is_dead_iff_its_known_rewards_are_equal(rewards: list, kind: str) -> None:
    advantages = group_advantages(rewards, AdvantageKind(kind))
    distinct = {r for r in rewards if r is not None}
    assert all(a == 0.0 for a in advantages) == (len(distinct) < 2)
    if len(distinct) == 2:
        signs = {r: math.copysign(1, a) for a, r in zip(advantages, rewards, strict=True)}
        assert signs[1.0] == 1 and signs[0.0] == -1


@SETTINGS
@given(KNOWN, KINDS, st.randoms())
def test_advantages_follow_a_permutation(
    rewards: list, kind: AdvantageKind, random: object
) -> None:
    order = list(range(len(rewards)))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain = group_advantages(rewards, kind)
    assert group_advantages([rewards[i] for i in order], kind) == [plain[i] for i in order]


@SETTINGS
@given(KNOWN, KINDS)
def test_swapping_right_and_wrong_flips_the_signs(rewards: list, kind: AdvantageKind) -> None:
    flipped = group_advantages([1.0 - r for r in rewards], kind)
    assert flipped == pytest.approx([-a for a in group_advantages(rewards, kind)], abs=1e-12)


@SETTINGS
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=16), st.integers(-3, 3), st.integers(1, 4))
def test_shift_and_scale(levels: list[int], shift: int, scale: int) -> None:
    rewards = [float(x) for x in levels]
    moved = [scale * r + shift for r in rewards]
    std = group_advantages(rewards, AdvantageKind.STD)
    assert group_advantages(moved, AdvantageKind.STD) == pytest.approx(std, abs=1e-4)
    plain = group_advantages(rewards, AdvantageKind.MEAN_ONLY)
    expected = [scale * a for a in plain]
    assert group_advantages(moved, AdvantageKind.MEAN_ONLY) == pytest.approx(expected, abs=1e-9)


@SETTINGS
@given(REWARDS, KINDS)
def test_unknown_rewards_change_nothing_for_the_known(rewards: list, kind: AdvantageKind) -> None:
    known = [r for r in rewards if r is not None]
    kept = [
        a for a, r in zip(group_advantages(rewards, kind), rewards, strict=True) if r is not None
    ]
    assert kept == group_advantages(known, kind)


# --- plans ---


def group_of(index: int, rewards: list, with_trace: bool) -> Group:
    prompt = f"p{index}"
    rollouts = tuple(
        Rollout(prompt, j, (5, j + 6), (-1.0, -1.0), Finish.STOP, "") for j in range(len(rewards))
    )
    trace = Trace(f"t{index}", (9, 9, 9), "") if with_trace else None
    return Group(Prompt(prompt, (1, 2)), graded(rollouts, rewards), trace)


GROUPS = st.lists(st.tuples(REWARDS, st.booleans()), min_size=1, max_size=6).map(
    lambda items: [group_of(i, r, t) for i, (r, t) in enumerate(items)]
)


@SETTINGS
@given(SPECS, GROUPS, st.sampled_from([GRPO, HAPO, LUFFY]))
def test_plans_keep_the_group_and_say_why(spec: GateSpec, groups: list, kind: type) -> None:
    method = kind(Gate(spec, seed=0), PAPER, seed=0)
    for group, plan in zip(groups, method.plan(groups, 0), strict=True):
        assert plan.group is group and len(plan.rows) == len(group.rollouts)
        teachers = [j for j, row in enumerate(plan.rows) if row.kind is RowKind.TEACHER]
        injected = plan.decision is Decision.INJECTED
        assert teachers == ([plan.replaced] if injected else [])
        assert math.fsum(r.advantage for r in plan.rows) == pytest.approx(0, abs=1e-9)
        for j, row in enumerate(plan.rows):
            if j not in teachers:
                assert row.response_ids == group.rollouts[j].token_ids
        if injected:
            assert group.trace is not None
            assert plan.rows[teachers[0]].response_ids == group.trace.token_ids
        if group.known == 0:
            assert plan.decision is Decision.UNKNOWN
        if kind is GRPO:
            assert not injected


@SETTINGS
@given(SPECS, GROUPS)
def test_hapo_injects_iff_open_unsolved_and_with_a_trace(spec: GateSpec, groups: list) -> None:
    method = HAPO(Gate(spec, seed=0), PAPER, seed=0)
    for group, plan in zip(groups, method.plan(groups, 0), strict=True):
        assert plan.reading is not None
        unsolved = group.successes < group.known
        wanted = plan.reading.open and unsolved
        assert (plan.decision is Decision.INJECTED) == (wanted and group.trace is not None)
        assert (plan.decision is Decision.NO_TRACE) == (wanted and group.trace is None)
        assert (plan.decision is Decision.SOLVED) == (0 < group.known == group.successes)


@SETTINGS
@given(SPECS, GROUPS, st.randoms())
def test_plans_do_not_depend_on_the_order_of_groups(
    spec: GateSpec, groups: list, random: object
) -> None:
    shuffled = list(groups)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    plans = [
        {p.group.prompt.prompt_id: p for p in HAPO(Gate(spec, 0), PAPER, 0).plan(order, 3)}
        for order in (groups, shuffled)
    ]
    assert plans[0] == plans[1]
