"""Losses and updates: invariances, and the two bit-for-bit facts of METHOD 4."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from tiny import made_groups, tiny_policy

from hapo_core.gate import ConstantThreshold, Decision, Gate, GateSpec
from hapo_core.graded import graded
from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods import GRPO, HAPO, LUFFY, SFT
from hapo_core.objective import (
    LUFFY_RELEASE,
    PAPER,
    Aggregation,
    Mismatch,
    RatioLevel,
    TeacherShape,
)
from hapo_core.policy import micro_batches, response_logprobs
from hapo_core.update import Updater, UpdateSpec, supervised

MIXED = [0, 1, 3, 0, 7, 8, 0]


def _gate(gamma):
    return Gate(GateSpec(ConstantThreshold(gamma)), seed=0)


def _weights_after(method, successes, objective=PAPER, rounds=3, **spec):
    model, tokenizer = tiny_policy()
    updater = Updater(model, UpdateSpec(learning_rate=1e-3, **spec))
    for index in range(rounds):
        planned = method.plan(made_groups(tokenizer, successes, seed=index), index)
        updater.update(planned, objective, 64, 1e-3)
    return {k: v.clone() for k, v in model.state_dict().items()}


def _same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("objective", [PAPER, LUFFY_RELEASE], ids=["paper", "luffy"])
def test_a_gate_that_cannot_open_is_grpo_bit_for_bit(objective):
    hapo = _weights_after(HAPO(_gate(0.1), objective, 0), MIXED, objective)
    grpo = _weights_after(GRPO(_gate(0.5), objective, 0), MIXED, objective)
    assert _same(hapo, grpo)


@pytest.mark.parametrize("objective", [PAPER, LUFFY_RELEASE], ids=["paper", "luffy"])
def test_a_gate_that_is_always_open_is_luffy_bit_for_bit(objective):
    unsolved = [0, 1, 3, 0, 7, 5, 2]
    hapo = _weights_after(HAPO(_gate(0.95), objective, 0), unsolved, objective)
    luffy = _weights_after(LUFFY(_gate(0.5), objective, 0), unsolved, objective)
    assert _same(hapo, luffy)
    assert not _same(hapo, _weights_after(GRPO(_gate(0.5), objective, 0), unsolved, objective))


def test_injection_changes_only_gated_groups():
    _, tokenizer = tiny_policy()
    planned = HAPO(_gate(0.35), PAPER, 0).plan(made_groups(tokenizer, MIXED), 0)
    decisions = [p.decision for p in planned]
    # c = .1, .2, .4, .1, .8, .9, .1
    opened, closed, solved = Decision.INJECTED, Decision.CLOSED, Decision.SOLVED
    assert decisions == [opened, opened, closed, opened, closed, solved, opened]
    for p in planned:
        assert len(p.rows) == 8
        if p.decision is opened:
            assert p.group.rewards[p.replaced] == 0.0
            assert p.rows[p.replaced].response_ids == p.group.trace.token_ids
            assert p.rows[p.replaced].sampler_logprobs is None


def _loss_and_gradient(rows, objective, split, order=None, max_tokens=64):
    """Loss and gradient with rows in the given order, in micro-batches of `split` rows."""
    model, _ = tiny_policy(seed=5)
    scales = row_scales(rows, objective.aggregation, max_tokens)
    pairs = list(zip(rows, scales, strict=True))
    if order is not None:
        random.Random(order).shuffle(pairs)
    total = 0.0
    for start in range(0, len(pairs), split):
        part = pairs[start : start + split]
        logp, entropy = response_logprobs(
            model, [(r.prompt_ids, r.response_ids) for r, _ in part], 1.0, with_entropy=True
        )
        out = batch_loss([r for r, _ in part], [s for _, s in part], logp, objective, None, entropy)
        out.loss.backward()
        total += float(out.loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])


OBJECTIVES = [
    dataclasses.replace(PAPER, aggregation=a, teacher_shape=s, entropy_coefficient=e)
    for a in (Aggregation.TOKEN_MEAN, Aggregation.SEQ_MEAN, Aggregation.CONSTANT)
    for s in TeacherShape
    for e in (0.0, 0.01)
] + [
    dataclasses.replace(
        PAPER, ratio_level=RatioLevel.SEQUENCE, aggregation=Aggregation.SEQ_MEAN, clip=(3e-4, 4e-4)
    ),
    dataclasses.replace(PAPER, mismatch=Mismatch.TOKEN_TRUNCATE),
    dataclasses.replace(PAPER, mismatch=Mismatch.SEQUENCE_MASK),
]


@pytest.mark.parametrize(
    "objective", OBJECTIVES, ids=lambda o: f"{o.aggregation}-{o.teacher_shape}"
)
def test_loss_does_not_depend_on_split_order_or_padding(objective):
    _, tokenizer = tiny_policy()
    planned = HAPO(_gate(0.5), objective, 0).plan(made_groups(tokenizer, [0, 2, 5, 1]), 0)
    rows = [row for p in planned for row in p.rows]
    whole, gradient = _loss_and_gradient(rows, objective, split=len(rows))
    for split, order in [(1, None), (3, 1), (7, 2), (len(rows), 3)]:
        loss, other = _loss_and_gradient(rows, objective, split, order)
        assert loss == pytest.approx(whole, abs=1e-5)
        torch.testing.assert_close(other, gradient, atol=2e-6, rtol=2e-4)


def test_a_batch_split_into_shards_sums_to_the_whole():
    _, tokenizer = tiny_policy()
    planned = HAPO(_gate(0.5), PAPER, 0).plan(made_groups(tokenizer, [0, 2, 5, 1]), 0)
    rows = [row for p in planned for row in p.rows]
    scales = row_scales(rows, PAPER.aggregation, 64)
    model, _ = tiny_policy(5)
    losses = []
    for half in (slice(0, 16), slice(16, 32)):
        logp, _ = response_logprobs(model, [(r.prompt_ids, r.response_ids) for r in rows[half]])
        losses.append(float(batch_loss(rows[half], scales[half], logp, PAPER).loss.detach()))
    whole, _ = _loss_and_gradient(rows, PAPER, split=32)
    assert sum(losses) == pytest.approx(whole, abs=1e-6)


def test_micro_batch_budget_changes_memory_not_result():
    _, tokenizer = tiny_policy()
    method = HAPO(_gate(0.5), PAPER, 0)
    planned = method.plan(made_groups(tokenizer, [0, 2, 5, 1]), 0)
    metrics = []
    for budget in (50, 300, 10**6):
        model, _ = tiny_policy()
        updater = Updater(model, UpdateSpec(1e-3, micro_batch_tokens=budget))
        metrics.append(updater.update(planned, PAPER, 64, 1e-3))
    for m in metrics[1:]:
        assert m["loss"] == pytest.approx(metrics[0]["loss"], abs=1e-6)
        assert m["grad_norm"] == pytest.approx(metrics[0]["grad_norm"], rel=1e-5)
        assert m.trained_tokens == metrics[0].trained_tokens


def test_dead_groups_are_skipped_but_counted_in_the_normaliser():
    _, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [2, 0, 8, 0])
    alone, all_of_them = GRPO(_gate(0.5), PAPER, 0), GRPO(_gate(0.5), PAPER, 0)
    losses = []
    for planned in (alone.plan(groups[:1], 0), all_of_them.plan(groups, 0)):
        model, _ = tiny_policy()
        m = Updater(model, UpdateSpec(1e-3)).update(planned, PAPER, 64, 1e-3)
        tokens = sum(len(r.response_ids) for p in planned for r in p.rows)
        assert m.trained_tokens == sum(len(r.token_ids) for r in groups[0].rollouts)
        losses.append(m["loss"] * tokens)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_batch_without_signal_leaves_the_policy_alone():
    model, tokenizer = tiny_policy()
    updater = Updater(model, UpdateSpec(1e-3, weight_decay=0.1))
    updater.update(GRPO(_gate(0.5), PAPER, 0).plan(made_groups(tokenizer, [3]), 0), PAPER, 64, 1e-3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    planned = GRPO(_gate(0.5), PAPER, 0).plan(made_groups(tokenizer, [0, 8, 0]), 1)
    metrics = updater.update(planned, PAPER, 64, 1e-3)
    assert (metrics.optimizer_steps, metrics.skipped_steps, metrics["loss"]) == (0, 1, None)
    assert _same(before, model.state_dict())


def test_minibatches_use_the_log_probs_of_the_sampling_policy():
    _, tokenizer = tiny_policy()
    planned = HAPO(_gate(0.5), PAPER, 0).plan(made_groups(tokenizer, [0, 2, 5, 1]), 0)
    model, _ = tiny_policy()
    metrics = Updater(model, UpdateSpec(1e-3, minibatches=2, epochs=2)).update(
        planned, PAPER, 64, 1e-3
    )
    assert metrics.optimizer_steps == 4
    one, _ = tiny_policy()
    first = Updater(one, UpdateSpec(1e-3)).update(planned, PAPER, 64, 1e-3)
    assert first.optimizer_steps == 1
    assert metrics.trained_tokens == 2 * first.trained_tokens


def test_sft_is_the_token_mean_over_the_whole_batch():
    model, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 0, 0])
    planned = SFT(_gate(0.5)).plan(groups, 0)
    with torch.no_grad():
        logp, _ = response_logprobs(
            model, [(g.prompt.token_ids, g.trace.token_ids) for g in groups]
        )
    metrics = Updater(model, UpdateSpec(1e-3, micro_batch_tokens=30)).update(
        planned, supervised(LUFFY_RELEASE), 64, 1e-3
    )
    assert metrics["loss"] == pytest.approx(-float(logp.mean()), rel=1e-5)


def test_unknown_rewards_are_neither_trained_nor_counted_as_failures():
    _, tokenizer = tiny_policy()
    group = made_groups(tokenizer, [4])[0]
    rewards = list(group.rewards)
    rewards[0] = None
    group = dataclasses.replace(group, samples=graded(group.rollouts, rewards))
    planned = GRPO(_gate(0.5), PAPER, 0).plan([group], 0)[0]
    assert planned.rows[0].advantage == 0.0 and not planned.rows[0].trains(PAPER)
    known = [r for r in rewards if r is not None]
    expected = (np.array(known) - np.mean(known)) / (np.std(known, ddof=1) + 1e-6)
    np.testing.assert_allclose([r.advantage for r in planned.rows[1:]], expected)
    lost = dataclasses.replace(group, samples=graded(group.rollouts, (None,) * 8))
    planned = HAPO(_gate(0.5), PAPER, 0).plan([lost], 0)[0]
    assert planned.decision is Decision.UNKNOWN and planned.replaced is None


def test_missing_trace_leaves_the_group_on_policy():
    _, tokenizer = tiny_policy()
    group = dataclasses.replace(made_groups(tokenizer, [0])[0], trace=None)
    planned = HAPO(_gate(0.5), PAPER, 0).plan([group], 0)[0]
    assert planned.decision is Decision.NO_TRACE and planned.dead(PAPER)


def test_chunked_head_gives_the_same_numbers(monkeypatch):
    model, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [1, 2])
    pairs = [(g.prompt.token_ids, r.token_ids) for g in groups for r in g.rollouts]

    def run():
        model.zero_grad()
        logp, entropy = response_logprobs(model, pairs, 0.7, with_entropy=True)
        (logp.sum() + entropy.sum()).backward()
        return logp.detach(), entropy.detach(), model.model.embed_tokens.weight.grad.clone()

    plain = run()
    monkeypatch.setattr("hapo_core.policy.HEAD_CHUNK_ELEMENTS", 200)
    for a, b in zip(run(), plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_micro_batches_cover_every_row_once():
    lengths = [5, 90, 7, 33, 33, 2, 64]
    for budget in (1, 40, 100, 1000):
        batches = micro_batches(lengths, budget)
        assert sorted(i for b in batches for i in b) == list(range(7))
        for b in batches:
            assert len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget
