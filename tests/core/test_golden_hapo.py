"""The golden values of METHOD 7 (derived by hand) and the facts at the end of METHOD 4 that are
about updates: a shut gate is GRPO, an open gate is LUFFY, bit for bit.

The values of METHOD 7 for REAL and SRFT are in test_golden_comparators.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hapo_core.advantage import AdvantageKind, group_advantages
from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Decision,
    Evidence,
    Gate,
    GateSpec,
    Statistic,
    Threshold,
)
from hapo_core.graded import graded
from hapo_core.groups import Group, PlannedGroup, Trace
from hapo_core.injection import injected_rewards, worst_rollout
from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods import GRPO, HAPO, LUFFY, ReinforcementMethod
from hapo_core.objective import (
    LUFFY_RELEASE,
    PAPER,
    Aggregation,
    Objective,
    RatioLevel,
    RowKind,
    TeacherShape,
    TeacherWeight,
    TrainRow,
)
from hapo_core.rng import Purpose, generator
from hapo_core.rollout.protocol import Finish, Prompt, Rollout
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer
from hapo_core.update import Updater, UpdateSpec

N = 8
MAX_TOKENS = 8

# S: (c, mean after, A+ std, A- std, A+ mean-only), N = 8, one failure replaced by a correct trace.
INJECTED = {
    0: (0.1, 0.125, 2.4749, -0.3536, 0.875),
    1: (0.2, 0.25, 1.6202, -0.5401, 0.75),
    2: (0.3, 0.375, 1.2076, -0.7246, 0.625),
    3: (0.4, 0.5, 0.9354, -0.9354, 0.5),
    4: (0.5, 0.625, 0.7246, -1.2076, 0.375),
    5: (0.6, 0.75, 0.5401, -1.6202, 0.25),
    6: (0.7, 0.875, 0.3536, -2.4749, 0.125),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def rewards_of(successes: int, size: int = N) -> list[float | None]:
    return [1.0] * successes + [0.0] * (size - successes)


def injected(successes: int) -> list[float | None]:
    """Rewards after SSI of a group with S successes."""
    rewards = rewards_of(successes)
    replaced = worst_rollout(rewards, seed=0, round_index=0, prompt_id="p")
    assert replaced is not None and rewards[replaced] == 0.0
    return injected_rewards(rewards, replaced)


# --- gate, injection, advantage ---


@pytest.mark.parametrize("successes", INJECTED)
def test_confidence(successes: int) -> None:
    gate = Gate(GateSpec(ConstantThreshold(0.8)), seed=0)
    gate.begin_round(0, None)
    reading = gate.observe("p", successes, N, 0)
    assert reading.confidence == pytest.approx(INJECTED[successes][0], abs=1e-15)
    assert reading.open


def test_boundary_of_the_paper_gate_is_closed() -> None:
    gate = Gate(GateSpec(ConstantThreshold(0.8)), seed=0)
    gate.begin_round(0, None)
    reading = gate.observe("p", 7, N, 0)
    assert reading.confidence == 0.8 and not reading.open


@pytest.mark.parametrize("successes", INJECTED)
def test_advantages_after_injection(successes: int) -> None:
    _, mean, up, down, mean_only = INJECTED[successes]
    after = injected(successes)
    assert math.fsum(r for r in after if r is not None) / N == mean
    std = group_advantages(after, AdvantageKind.STD)
    assert max(std) == pytest.approx(up, abs=5e-5)
    assert min(std) == pytest.approx(down, abs=5e-5)
    plain = group_advantages(after, AdvantageKind.MEAN_ONLY)
    assert max(plain) == mean_only
    assert sum(a > 0 for a in plain) == successes + 1


def test_injection_into_seven_successes_kills_the_group() -> None:
    assert group_advantages(injected(7), AdvantageKind.STD) == [0.0] * N


# --- the teacher's term ---


def one_token(p: float, kind: RowKind, objective: Objective, advantage: float = 1.0):
    """(loss, d loss / d log p) of a batch of one token with probability p."""
    logp = torch.tensor([math.log(p)], requires_grad=True)
    row = TrainRow((1,), (2,), kind, advantage, confidence=0.25)
    parts = batch_loss([row], row_scales([row], objective.aggregation, 1), logp, objective)
    parts.loss.backward()
    return float(parts.loss.detach()), float(logp.grad)


@pytest.mark.parametrize(
    ("p", "f", "slope"),
    [(0.01, 0.0909, 0.0826), (0.1, 0.5, 0.25), (0.5, 0.8333, 0.1389), (0.9, 0.9, 0.09)],
)
def test_policy_shaping(p: float, f: float, slope: float) -> None:
    loss, gradient = one_token(p, RowKind.TEACHER, PAPER)
    assert -loss == pytest.approx(f, abs=5e-5)
    assert -gradient == pytest.approx(slope, abs=5e-5)


def test_shaping_is_steepest_at_lambda() -> None:
    slopes = [-one_token(p / 1000, RowKind.TEACHER, PAPER)[1] for p in range(1, 1000)]
    assert max(slopes) == pytest.approx(0.25, abs=1e-6)
    assert slopes.index(max(slopes)) + 1 == 100


def test_other_teacher_shapes_and_weights() -> None:
    log = replace(PAPER, teacher_shape=TeacherShape.LOG)
    prob = replace(PAPER, teacher_shape=TeacherShape.PROB)
    assert one_token(0.2, RowKind.TEACHER, log, 2.0) == pytest.approx((-2 * math.log(0.2), -2.0))
    assert one_token(0.2, RowKind.TEACHER, prob, 2.0) == pytest.approx((-0.4, -0.4))
    f = 0.2 / 0.3
    for weight, factor in [
        (TeacherWeight.ADVANTAGE, 2.0),
        (TeacherWeight.NONE, 1.0),
        (TeacherWeight.CONFIDENCE, 0.75),
    ]:
        objective = replace(PAPER, teacher_weight=weight)
        assert one_token(0.2, RowKind.TEACHER, objective, 2.0)[0] == pytest.approx(-factor * f)


def test_teacher_is_neither_clipped_nor_corrected() -> None:
    """Its ratio to any old policy is not taken: the behaviour probability is 1 (METHOD 5)."""
    row = TrainRow((1,), (2, 3), RowKind.TEACHER, 2.0)
    logp = torch.tensor([-0.5, -3.0], requires_grad=True)
    for old in (None, torch.tensor([-9.0, -9.0])):
        parts = batch_loss([row], [0.5], logp, PAPER, old)
        expected = -0.5 * 2.0 * sum(math.exp(x) / (math.exp(x) + 0.1) for x in (-0.5, -3.0))
        assert float(parts.loss.detach()) == pytest.approx(expected, rel=1e-6)


# --- gradients at r = 1 ---


def gradient(rows: list[TrainRow], logp: list[float], objective: Objective) -> torch.Tensor:
    x = torch.tensor(logp, requires_grad=True)
    scales = row_scales(rows, objective.aggregation, MAX_TOKENS)
    batch_loss(rows, scales, x, objective).loss.backward()
    assert x.grad is not None
    return x.grad


ROWS = [
    TrainRow((1,), (2, 3, 4), RowKind.ON_POLICY, 0.7),
    TrainRow((1,), (5,), RowKind.ON_POLICY, -1.2),
    TrainRow((1,), (6, 7), RowKind.TEACHER, 1.5),
]
LOGP = [-0.1, -2.0, -0.7, -1.1, -0.4, -2.5]


def test_token_mean_gradient_at_ratio_one() -> None:
    """-A/T on policy tokens, -A* .1 p / (p + .1)^2 / T on teacher tokens."""
    found = gradient(ROWS, LOGP, PAPER)
    slopes = [0.1 * math.exp(x) / (math.exp(x) + 0.1) ** 2 for x in LOGP[4:]]
    expected = [-0.7 / 6] * 3 + [1.2 / 6] + [-1.5 * s / 6 for s in slopes]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_constant_gradient_at_ratio_one() -> None:
    found = gradient(ROWS[:2], LOGP[:4], replace(PAPER, aggregation=Aggregation.CONSTANT))
    assert found.tolist() == pytest.approx([-0.7 / 16] * 3 + [1.2 / 16], rel=1e-6)


def test_gspo_at_ratio_one_has_the_gradient_of_seq_mean() -> None:
    seq_mean = replace(PAPER, aggregation=Aggregation.SEQ_MEAN)
    gspo = replace(seq_mean, ratio_level=RatioLevel.SEQUENCE, clip=(3e-4, 4e-4))
    found = gradient(ROWS[:2], LOGP[:4], gspo)
    assert found.tolist() == pytest.approx(gradient(ROWS[:2], LOGP[:4], seq_mean).tolist())
    assert found.tolist() == pytest.approx([-0.7 / 6] * 3 + [1.2 / 2], rel=1e-6)


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "clipped"),
    [(1.0, 0.3, True), (1.0, -0.3, False), (-1.0, 0.3, False), (-1.0, -0.3, True)],
)
def test_clip_is_pessimistic(advantage: float, log_ratio: float, clipped: bool) -> None:
    """min(r A, clip(r) A): the gradient is cut only where r has gone too far in A's direction."""
    row = TrainRow((1,), (2,), RowKind.ON_POLICY, advantage)
    logp = torch.tensor([-1.0 + log_ratio], requires_grad=True)
    parts = batch_loss([row], [1.0], logp, PAPER, torch.tensor([-1.0]))
    parts.loss.backward()
    ratio = math.exp(log_ratio)
    value = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert float(parts.loss.detach()) == pytest.approx(-value, rel=1e-6)
    assert float(logp.grad) == pytest.approx(0.0 if clipped else -ratio * advantage, rel=1e-6)


def test_pull_of_a_trace_in_a_failed_group() -> None:
    """METHOD 3.1: seven failures push 7 x .354 = 2.475, the trace pulls at most 2.475 x .25."""
    advantages = group_advantages(injected(0), AdvantageKind.STD)
    rows = [
        TrainRow((1,), (2,), RowKind.TEACHER if a > 0 else RowKind.ON_POLICY, a) for a in advantages
    ]
    logp = torch.full((N,), math.log(0.1), requires_grad=True)
    parts = batch_loss(rows, [1.0] * N, logp, PAPER)
    assert parts.metrics.total("teacher_balance")[1] == pytest.approx(2.4749, abs=5e-4)
    assert parts.metrics.total("teacher_balance")[0] == pytest.approx(2.4749 / 4, abs=5e-4)


def test_pull_of_traces_that_are_imitated() -> None:
    """d log p weighs its scale, p (1 - p) of it under CHORD-phi; p = .1 throughout."""
    rows = [
        TrainRow((1,), (2, 3), RowKind.ON_POLICY, -0.5),
        TrainRow((1,), (2, 3, 4), RowKind.SFT),
        TrainRow((1,), (2,), RowKind.SFT, phi=True),
    ]
    logp = torch.full((6,), math.log(0.1), requires_grad=True)
    parts = batch_loss(rows, [0.25, 0.125, 0.5], logp, PAPER)
    assert parts.metrics.total("teacher_balance")[1] == pytest.approx(2 * 0.25 * 0.5)
    assert parts.metrics.total("teacher_balance")[0] == pytest.approx(3 * 0.125 + 0.5 * 0.09)
    parts.loss.backward()
    assert parts.metrics.total("teacher_balance")[0] == pytest.approx(-float(logp.grad[2:].sum()))


# --- whole updates: facts 1 and 2 of METHOD 4 ---

VOCABULARY = 20


def group(prompt: int, rewards: list[float | None], round_index: int, trace_tokens: int) -> Group:
    """A group of random responses, with a trace."""
    rng = generator(7, Purpose.TASK, round_index, str(prompt))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(4, VOCABULARY, count))

    rollouts = tuple(
        Rollout(f"p{prompt}", j, ids, (-1.0,) * len(ids), Finish.STOP, "")
        for j, ids in enumerate(tokens(int(rng.integers(1, MAX_TOKENS + 1))) for _ in rewards)
    )
    trace = Trace(f"t{prompt}", tokens(trace_tokens), "")
    return Group(Prompt(f"p{prompt}", tokens(3)), graded(rollouts, rewards), trace)


def batch(round_index: int, solved: bool = False) -> list[Group]:
    """Groups with S of 0, 2, 5 and 7, one of them with an unknown reward; `solved` adds S = N."""
    mixed = rewards_of(2)
    mixed[-1] = None
    all_rewards = [rewards_of(0), mixed, rewards_of(5), rewards_of(7)]
    if solved:
        all_rewards.append(rewards_of(N))
    return [group(i, r, round_index, trace_tokens=5) for i, r in enumerate(all_rewards)]


def gate(threshold: Threshold, **choices: object) -> Gate:
    return Gate(GateSpec(threshold, **choices), seed=3)  # type: ignore[arg-type]


def train(
    method: ReinforcementMethod, objective: Objective, batches: list[list[Group]]
) -> tuple[dict[str, torch.Tensor], list[list[PlannedGroup]]]:
    """Weights after one update per batch, in two minibatches and two epochs, and the plans."""
    model = tiny_model(tiny_tokenizer(), hidden=16, layers=1, heads=2, seed=0)
    updater = Updater(model, UpdateSpec(learning_rate=1e-2, minibatches=2, epochs=2))
    plans = []
    for t, groups in enumerate(batches):
        plans.append(method.plan(groups, t))
        updater.update(plans[-1], objective, MAX_TOKENS, 1e-2)
    return {k: v.clone() for k, v in model.state_dict().items()}, plans


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(x.view(torch.int32), b[k].view(torch.int32)) for k, x in a.items()
    )


SHUT = [
    {"threshold": ConstantThreshold(0.1)},
    {"threshold": ConstantThreshold(0.02)},
    {"threshold": ConstantThreshold(0.05), "statistic": Statistic.QUANTILE, "quantile": 0.5},
    {"threshold": ConstantThreshold(1 / 18), "evidence": Evidence.PROMPT, "forgetting": 0.5},
    {"threshold": AdaptiveThreshold(0.1)},
]


@pytest.mark.parametrize("objective", [PAPER, LUFFY_RELEASE], ids=["paper", "luffy"])
@pytest.mark.parametrize("choices", SHUT, ids=["bound", "below", "quantile", "prompt", "adaptive"])
def test_closed_gate_is_grpo_bit_for_bit(choices: dict, objective: Objective) -> None:
    """Fact 1: gamma <= a0 / (a0 + b0 + N) with group evidence (and what corresponds to it)."""
    batches = [batch(t, solved=t == 1) for t in range(3)]
    hapo, plans = train(HAPO(gate(**choices), objective, seed=3), objective, batches)
    grpo, _ = train(GRPO(gate(ConstantThreshold(0.8)), objective, seed=3), objective, batches)
    assert not any(p.decision is Decision.INJECTED for plan in plans for p in plan)
    assert same_bits(hapo, grpo)


@pytest.mark.parametrize("objective", [PAPER, LUFFY_RELEASE], ids=["paper", "luffy"])
@pytest.mark.parametrize("gamma", [0.95, 0.81])
def test_open_gate_is_luffy_bit_for_bit(gamma: float, objective: Objective) -> None:
    """Fact 2, also for a gamma between the c of S = N - 1 and that of S = N."""
    batches = [batch(t) for t in range(3)]
    hapo, plans = train(HAPO(gate(ConstantThreshold(gamma)), objective, 3), objective, batches)
    luffy, others = train(LUFFY(gate(ConstantThreshold(0.2)), objective, 3), objective, batches)
    assert all(p.decision is Decision.INJECTED for plan in plans for p in plan)
    assert same_bits(hapo, luffy)
    assert [[p.replaced for p in x] for x in plans] == [[p.replaced for p in x] for x in others]


def test_an_injection_does_change_the_update() -> None:
    """The comparisons above would notice: the same batches at gamma .8 end elsewhere."""
    batches = [batch(t) for t in range(3)]
    ends = [
        train(method(gate(ConstantThreshold(0.5)), PAPER, 3), PAPER, batches)[0]
        for method in (GRPO, HAPO, LUFFY)
    ]
    assert not same_bits(ends[0], ends[1]) and not same_bits(ends[1], ends[2])


def test_solved_group_differs_only_in_the_normaliser() -> None:
    """LUFFY replaces a row of a group with S = N; all its advantages are 0 in both methods."""
    groups = batch(0, solved=True)
    hapo = HAPO(gate(ConstantThreshold(0.95)), PAPER, 3).plan(groups, 0)
    luffy = LUFFY(gate(ConstantThreshold(0.95)), PAPER, 3).plan(groups, 0)
    assert [p.rows for p in hapo[:-1]] == [p.rows for p in luffy[:-1]]
    assert hapo[-1].decision is Decision.SOLVED and luffy[-1].decision is Decision.INJECTED
    assert all(r.advantage == 0 for p in (hapo[-1], luffy[-1]) for r in p.rows)
    scales = [
        row_scales([r for p in plan for r in p.rows], Aggregation.TOKEN_MEAN, MAX_TOKENS)[0]
        for plan in (hapo, luffy)
    ]
    replaced = luffy[-1].replaced
    assert replaced is not None
    difference = len(groups[-1].rollouts[replaced].token_ids) - 5  # the trace has 5 tokens
    assert 1 / scales[0] - 1 / scales[1] == pytest.approx(difference)
