"""Surprise of a trace, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tiny import made_groups, tiny_policy

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.groups import Group
from hapo_core.objective import PAPER
from hapo_core.policy import response_logprobs
from hapo_core.rows import likelihood_row
from hapo_core.surprise import P_MIN, Surprise, likeliest, surprise, too_surprising, trimmed_mean
from hapo_core.update import Updater, UpdateSpec


def test_by_hand() -> None:
    found = surprise([math.log(p) for p in (0.5, 0.25, 0.0009, 0.001)], p_min=0.001)
    assert found.impossible == 0.25  # at p_min it is not below
    mean = -(math.log(0.5) + math.log(0.25) + math.log(0.0009) + math.log(0.001)) / 4
    assert found.nll == pytest.approx(mean)  # of four tokens none is trimmed


def test_the_trim() -> None:
    """Of 50: five of the lowest and one of the highest go."""
    values = np.arange(50.0)
    assert trimmed_mean(values[::-1]) == np.arange(5.0, 49.0).mean()
    assert trimmed_mean(np.array([3.0])) == 3.0
    one_blind_spot = np.array([0.1] * 49 + [25.0])
    assert trimmed_mean(one_blind_spot) == pytest.approx(0.1)


def test_nothing_has_no_surprise() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        surprise([], 0.001)


def test_the_likeliest_trace_and_its_ties() -> None:
    """The lowest trimmed mean, however many tokens are impossible; ties by a draw of their own."""
    found = [Surprise(0.0, 2.0), Surprise(0.5, 1.0), Surprise(0.0, 1.5)]
    assert {likeliest(found, 0, r, "p") for r in range(40)} == {1}
    tied = [Surprise(0.0, 1.0), Surprise(0.0, 3.0), Surprise(0.0, 1.0 + 2e-7)]
    drawn = [likeliest(tied, 0, r, "p") for r in range(300)]
    assert set(drawn) == {0, 2} and 110 < drawn.count(0) < 190
    assert drawn == [likeliest(tied, 0, r, "p") for r in range(300)]
    assert drawn != [likeliest(tied, 0, r, "q") for r in range(300)]
    assert drawn != [likeliest(tied, 1, r, "p") for r in range(300)]


def test_what_is_above_the_bound() -> None:
    assert not too_surprising(0.5, 0.5) and not too_surprising(0.5 + 4e-7, 0.5)
    assert too_surprising(0.500001, 0.5) and not too_surprising(None, 0.0)
    assert not too_surprising(1e9, math.inf)


def surprising(prompt: int, successes: int, nats: float) -> Group:
    """A group whose own rollouts surprise by .5 nats a token (the support's), the trace by more."""
    from test_golden_hapo import group

    made = group(prompt, [0.0] * (8 - successes) + [1.0] * successes, 1, 5)
    return replace(made, surprise=Surprise(0.0, nats))


def test_the_excess_by_hand() -> None:
    """Mean over rollouts of their trimmed means: rollouts weigh alike, however long they are."""
    made = surprising(0, 0, 2.0)
    one, two = made.samples[:2]
    samples = [
        replace(one, rollout=replace(one.rollout, token_ids=(5,), logprobs=(-1.0,))),
        replace(
            two, rollout=replace(two.rollout, token_ids=(5, 5, 5), logprobs=(-0.1, -0.2, -0.3))
        ),
    ]
    made = replace(made, samples=tuple(samples))
    assert made.own_surprise == pytest.approx(0.6)  # (1 + .2) / 2
    assert made.excess_surprise == pytest.approx(1.4)
    assert replace(made, surprise=None).excess_surprise is None
    assert replace(made, samples=()).excess_surprise is None


def test_a_refused_trace_leaves_the_group_to_the_policy() -> None:
    """Only open gates with a trace above the bound change; their rows are GRPO's."""
    from hapo_core.methods import GRPO, HAPO

    cases = [(0, 9.0), (0, 0.1), (8, 9.0), (7, 9.0), (0, 9.0)]
    groups = [surprising(k, s, nats) for k, (s, nats) in enumerate(cases)]
    groups[4] = replace(groups[4], trace=None, surprise=None)
    spec = GateSpec(ConstantThreshold(0.5), max_surprise=1.0)
    bounded = HAPO(Gate(spec, 3), PAPER, 3).plan(groups, 1)
    assert [p.decision.value for p in bounded] == [
        "refused", "injected", "solved", "closed", "no_trace"
    ]  # fmt: skip
    plain = GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 3), PAPER, 3).plan(groups, 1)
    free = HAPO(Gate(GateSpec(ConstantThreshold(0.5)), 3), PAPER, 3).plan(groups, 1)
    assert bounded[0].rows == plain[0].rows != free[0].rows
    assert [p.rows for p in bounded[1:]] == [p.rows for p in free[1:]]
    held = HAPO(Gate(replace(spec, holdout=1 - 1e-12), 3), PAPER, 3).plan(groups, 1)
    assert [p.decision.value for p in held[:2]] == ["refused", "held_out"]


def test_the_score_does_not_depend_on_split_padding_or_order() -> None:
    model, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 0, 0, 0, 0])
    rows = [likelihood_row(g.prompt, g.trace) for g in groups if g.trace]

    def scored(budget: int, order: list[int]) -> list[Surprise]:
        updater = Updater(model, UpdateSpec(1e-3, micro_batch_tokens=budget))
        found = updater.score([rows[i] for i in order], PAPER)
        by_row = dict(zip(order, found, strict=True))
        return [surprise(by_row[i].numpy(), P_MIN) for i in range(len(rows))]

    alone, together = scored(1, [0, 1, 2, 3, 4]), scored(10_000, [3, 1, 4, 0, 2])
    for a, b, row in zip(alone, together, rows, strict=True):
        assert a.nll == pytest.approx(b.nll, abs=1e-6) and a.impossible == b.impossible
        logp, _ = response_logprobs(model, [(row.prompt_ids, row.response_ids)])
        assert a.nll == pytest.approx(trimmed_mean(-logp.detach().double().numpy()), abs=1e-6)
