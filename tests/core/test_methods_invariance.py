"""What must hold for every method: splitting, padding, order and sharding change nothing."""

from __future__ import annotations

import dataclasses
import random
from typing import Literal

import pytest
import torch
from tiny import NAMES, made_groups, made_method, planned_round, tiny_policy

from hapo_core.gate import ConstantThreshold, Decision, Gate, GateSpec
from hapo_core.graded import graded
from hapo_core.groups import PlannedGroup
from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods.real import REAL, REALOptions, real_objective
from hapo_core.objective import PAPER, Objective, TrainRow
from hapo_core.policy import response_logprobs
from hapo_core.update import Updater, UpdateSpec, supervised

MAX_TOKENS = 64


pytestmark = pytest.mark.usefixtures("one_thread")


def rows_of(name: str) -> tuple[list[TrainRow], Objective]:
    """All rows of a round's first optimizer step."""
    _, tokenizer = tiny_policy()
    planned, extras, objective = planned_round(name, made_groups(tokenizer, [0, 2, 0, 5, 8]))
    rows = [*(row for p in planned for row in p.rows), *extras.beside]
    if objective.coupling is not None:
        rows = objective.coupling(rows, [0.0] * len(rows))
    return rows, objective


def loss_and_gradient(
    pairs: list[tuple[TrainRow, float]], objective: Objective, split: int
) -> tuple[float, torch.Tensor]:
    """In micro-batches of `split` rows, padded to the longest of each."""
    model, _ = tiny_policy(seed=5)
    total = 0.0
    for start in range(0, len(pairs), split):
        rows, scales = zip(*pairs[start : start + split], strict=True)
        logp, entropy = response_logprobs(
            model, [(r.prompt_ids, r.response_ids) for r in rows], 1.0, with_entropy=True
        )
        out = batch_loss(rows, scales, logp, objective, None, entropy)
        out.loss.backward()
        total += float(out.loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_loss_does_not_depend_on_split_order_padding_or_shard(name: str) -> None:
    rows, objective = rows_of(name)
    scales = row_scales(rows, objective.aggregation, MAX_TOKENS)
    pairs = list(zip(rows, scales, strict=True))
    whole, gradient = loss_and_gradient(pairs, objective, len(pairs))
    assert float(gradient.abs().max()) > 1e-4
    shuffled = random.Random(1).sample(pairs, len(pairs))
    for order, split in ((pairs, 1), (shuffled, 3), (shuffled, len(pairs))):
        loss, other = loss_and_gradient(order, objective, split)
        assert loss == pytest.approx(whole, abs=1e-5)
        torch.testing.assert_close(other, gradient, atol=3e-6, rtol=2e-4)
    half = len(pairs) // 2  # two ranks, each with its own rows and the scales of all
    shards = [loss_and_gradient(part, objective, 4) for part in (pairs[:half], pairs[half:])]
    assert sum(loss for loss, _ in shards) == pytest.approx(whole, abs=1e-5)
    torch.testing.assert_close(shards[0][1] + shards[1][1], gradient, atol=3e-6, rtol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batch_budget_changes_memory_not_result(name: str) -> None:
    """Whole updates, with ratios that have moved (two minibatches, two epochs)."""
    _, tokenizer = tiny_policy()
    planned, extras, objective = planned_round(name, made_groups(tokenizer, [0, 2, 0, 5, 8]))
    metrics = []
    for budget in (60, 10**6):
        model, _ = tiny_policy()
        spec = UpdateSpec(1e-3, minibatches=2, epochs=2, micro_batch_tokens=budget)
        updater = Updater(model, spec)
        metrics.append(updater.update(planned, objective, MAX_TOKENS, 1e-3, extras.beside))
        for batch in extras.after:
            step = updater.supervise(batch, supervised(objective), MAX_TOKENS, 1e-3)
            metrics[-1] = metrics[-1].with_step(step)
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], abs=2e-5)
    assert metrics[0]["grad_norm"] == pytest.approx(metrics[1]["grad_norm"], rel=2e-3)
    assert metrics[0].trained_tokens == metrics[1].trained_tokens > 0
    assert metrics[0].optimizer_steps == metrics[1].optimizer_steps


@pytest.mark.parametrize("name", NAMES)
def test_plans_do_not_depend_on_the_order_of_groups(name: str) -> None:
    _, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 2, 0, 5, 8])

    def plans(order: list) -> dict[str, PlannedGroup]:
        return {p.group.prompt.prompt_id: p for p in planned_round(name, order)[0]}

    assert plans(groups) == plans(groups[::-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_group_without_a_known_reward_trains_nothing_of_its_own(name: str) -> None:
    _, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [3, 3])
    groups[0] = dataclasses.replace(groups[0], samples=graded(groups[0].rollouts, (None,) * 8))
    method, objective = made_method(name, groups)
    lost = method.plan(groups, 0)[0]
    assert lost.decision in (Decision.UNKNOWN, Decision.DISCARDED)
    assert lost.dead(objective)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_names_what_it_holds(name: str) -> None:
    """A row's own tokens are those of its rollout, its continuation or its trace."""
    _, tokenizer = tiny_policy()
    for p in planned_round(name, made_groups(tokenizer, [0, 2, 0, 5, 8]))[0]:
        for row in p.rows:
            own = row.response_ids[row.prefix :]
            if row.sample is not None:
                assert own == p.group.rollouts[row.sample].token_ids
            elif row.branch is not None:
                held = p.group.continuations[row.branch]
                assert own == held.rollout.token_ids
                given = (*row.prompt_ids, *row.response_ids[: row.prefix])
                head = p.group.trace.token_ids[: held.rollout.prefix]  # type: ignore[union-attr]
                assert given == (*p.group.prompt.token_ids, *head)
            else:
                assert own == p.group.trace.token_ids  # type: ignore[union-attr]


@pytest.mark.parametrize(("kept", "solved"), [("mixed", [3, 2]), ("all", [3, 0])])
def test_real_updates_follow_its_formula_while_the_policy_moves(
    kept: Literal["mixed", "all"], solved: list[int]
) -> None:
    """Three epochs of our update against three AdamW steps on the formula itself (METHOD 6)."""
    _, tokenizer = tiny_policy()
    objective = real_objective(PAPER)
    method = REAL(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0, REALOptions(groups=kept))
    planned = method.plan(made_groups(tokenizer, solved, size=4), 0)
    spec = UpdateSpec(1e-2, epochs=3, micro_batch_tokens=60)
    model, _ = tiny_policy()
    Updater(model, spec).update(planned, objective, MAX_TOKENS, 1e-2)

    other, _ = tiny_policy()
    optimizer = Updater(other, spec).optimizer
    pairs = [[(r.prompt_ids, r.response_ids) for r in p.rows] for p in planned]
    with torch.no_grad():
        old = [response_logprobs(other, group)[0] for group in pairs]
    for _ in range(3):
        loss = torch.zeros(())
        for p, group, before in zip(planned, pairs, old, strict=True):
            ratios = response_logprobs(other, group)[0] - before
            lengths = [len(response) for _, response in group]
            s = torch.stack([part.mean() for part in ratios.split(lengths)]) / 0.5
            right = torch.tensor([row.advantage > 0 for row in p.rows])
            loss = loss + torch.log(1 + s[~right].exp().sum())
            loss = loss + torch.log(1 + (-s[right]).exp().sum())
        optimizer.zero_grad()
        (loss / len(planned)).backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), spec.max_grad_norm)
        optimizer.step()
    # AdamW turns noise of tiny gradients into steps: compared are log-probs, which moved by > 1.
    with torch.no_grad():
        ours, theirs = (
            torch.cat([response_logprobs(m, group)[0] for group in pairs]) for m in (model, other)
        )
    moved = float((theirs - torch.cat(old)).abs().mean())
    assert float((ours - theirs).abs().mean()) < 0.01 * moved
