"""Distillation: by hand, against TRL's own function, and the facts of METHOD 9."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import made_groups, tiny_policy

from hapo_core.gate import ConstantThreshold, Decision, Gate, GateSpec
from hapo_core.groups import PlannedGroup
from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods import GRPO, HAPO
from hapo_core.methods.opsd import OPSD
from hapo_core.objective import LUFFY_RELEASE, PAPER, Objective, Part, RowKind, TrainRow
from hapo_core.rows import scored_rows
from hapo_core.update import Updater, UpdateSpec

CLIPPED = replace(PAPER, distill_clip=1.0)


def row(teacher: list[float], weight: float = 1.0) -> TrainRow:
    return TrainRow(
        (1,),
        tuple(range(2, 2 + len(teacher))),
        RowKind.DISTILL,
        part=Part.DISTILL,
        weight=weight,
        teacher_logprobs=tuple(teacher),
    )


def gate(gamma: float) -> Gate:
    return Gate(GateSpec(ConstantThreshold(gamma)), 0)


def loss_of(rows: list[TrainRow], logp: list[float], objective: Objective):
    """(loss, gradient on the log-probs, metrics)."""
    now = torch.tensor(logp, requires_grad=True)
    out = batch_loss(rows, row_scales(rows, objective.aggregation, 99), now, objective)
    out.loss.backward()
    return float(out.loss.detach()), now.grad, out.metrics.result()


def test_by_hand() -> None:
    """delta = (.5, -2, .25, -.125); clipped at 1: (.5, -1, .25, -.125). Token mean over four."""
    rows = [row([-1.5, -0.5, -1.25]), row([-0.375])]
    logp, delta = [-1.0, -2.5, -1.0, -0.5], [0.5, -1.0, 0.25, -0.125]
    loss, gradient, metrics = loss_of(rows, logp, CLIPPED)
    assert loss == pytest.approx(sum(d * x for d, x in zip(delta, logp, strict=True)) / 4)
    assert gradient.tolist() == pytest.approx([d / 4 for d in delta])
    assert metrics["distill_gap"] == pytest.approx((0.5 - 2.0 + 0.25 - 0.125) / 4)
    assert metrics["distill_clipped"] == 0.25
    unclipped = loss_of(rows, logp, PAPER)[1]
    assert unclipped.tolist() == pytest.approx([d / 4 for d in (0.5, -2.0, 0.25, -0.125)])
    heavier = loss_of([replace(r, weight=3.0) for r in rows], logp, CLIPPED)[1]
    assert heavier.tolist() == pytest.approx([3 * d / 4 for d in delta])
    # Whatever the aggregation of the main part is, this part is a token mean.
    assert loss_of(rows, logp, replace(LUFFY_RELEASE, distill_clip=1.0))[0] == pytest.approx(loss)
    with pytest.raises(ValueError, match="teacher's log-probs"):
        loss_of([replace(rows[0], teacher_logprobs=None)], logp[:3], CLIPPED)


def test_a_teacher_like_the_policy_gives_exactly_nothing() -> None:
    logp = [-0.1, -1.7, -3.3]
    held = torch.tensor(logp).tolist()
    loss, gradient, _ = loss_of([row(held)], logp, CLIPPED)
    assert loss == 0.0 and not gradient.any()


def test_the_gradient_is_that_of_trls_function() -> None:
    """Logits of a small vocabulary: our mean over tokens of their per-token loss."""
    sdft = pytest.importorskip("trl.experimental.sdft.loss_utils")
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 5, 7), torch.randn(1, 5, 7)
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    theirs = student.clone().requires_grad_()
    expected = sdft.compute_sampled_token_self_distillation_loss(
        theirs, teacher, tokens, distillation_alpha=1.0
    ).mean()
    expected.backward()
    ours = student.clone().requires_grad_()
    picked = [x.log_softmax(-1)[0].gather(1, tokens[0, :, None])[:, 0] for x in (ours, teacher)]
    rows = [replace(row(picked[1].tolist()), response_ids=tuple(tokens[0].tolist()))]
    out = batch_loss(rows, row_scales(rows, PAPER.aggregation, 99), picked[0], PAPER)
    out.loss.backward()
    assert float(out.loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_a_shut_gate_is_grpo_and_an_open_one_keeps_its_rows() -> None:
    _, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 2, 8, 5])
    plain = GRPO(gate(0.5), PAPER, 0).plan(groups, 3)
    shut = HAPO(gate(0.05), PAPER, 0, distill=2.0).plan(groups, 3)
    assert [p.rows for p in shut] == [p.rows for p in plain]
    opened = HAPO(gate(0.5), PAPER, 0, distill=2.0).plan(groups, 3)
    injected = [p.decision is Decision.INJECTED for p in opened]
    assert injected == [True, True, False, False]
    for p, own, taught in zip(opened, plain, injected, strict=True):
        assert p.rows[:8] == own.rows and p.replaced is None
        scored = p.rows[8:]
        assert len(scored) == 8 * taught
        for j, one in enumerate(scored):
            assert one.kind is RowKind.DISTILL and one.part is Part.DISTILL
            assert one.sample == j and one.weight == 2.0
            assert one.response_ids == p.group.rollouts[j].token_ids
    # Their part has a normaliser of its own: the main part's scales are GRPO's.
    rows, own = [r for p in opened for r in p.rows], [r for p in plain for r in p.rows]
    scales = row_scales(rows, PAPER.aggregation, 99)
    main = [s for s, r in zip(scales, rows, strict=True) if r.part is Part.MAIN]
    assert main == row_scales(own, PAPER.aggregation, 99)
    assert opened[0].dead(PAPER) is False and plain[0].dead(PAPER) is True


def test_opsd_asks_no_reward_but_a_trace() -> None:
    _, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 8, 3])
    groups[2] = replace(groups[2], trace=None)
    planned = OPSD(gate(0.5), PAPER, 0).plan(groups, 0)
    assert [p.decision.value for p in planned] == ["injected", "injected", "no_trace"]
    assert [len(p.rows) for p in planned] == [8, 8, 0]
    assert {r.kind for p in planned for r in p.rows} == {RowKind.DISTILL}
    assert [p.dead(PAPER) for p in planned] == [False, False, True]


def test_steps_go_towards_what_the_teacher_holds_for_likely() -> None:
    """A teacher that doubts every token but those of one rollout: its log-prob rises against the
    others'."""
    model, tokenizer = tiny_policy()
    planned = OPSD(gate(0.5), PAPER, 0).plan(made_groups(tokenizer, [0], size=4), 0)
    updater = Updater(model, UpdateSpec(1e-3))
    scores = [t.tolist() for t in updater.score(list(planned[0].rows), CLIPPED)]
    moved = [[x + (0.8 if j == 0 else -0.8) for x in s] for j, s in enumerate(scores)]
    done: list[PlannedGroup] = [scored_rows(planned[0], moved)]
    updater.update(done, CLIPPED, 64, 1e-3)
    after = [t.mean() for t in updater.score(list(planned[0].rows), CLIPPED)]
    gain = [float(a) - sum(s) / len(s) for a, s in zip(after, scores, strict=True)]
    assert gain[0] > max(gain[1:])
