"""METHOD 9, by hand: the shape `trust`, the teacher's own baseline, the negative weight."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_policy

from hapo_core.advantage import AdvantageKind, group_advantages, negative_scale
from hapo_core.gate import Decision, Reading
from hapo_core.graded import graded
from hapo_core.groups import Group, PlannedGroup, Trace
from hapo_core.injection import inject
from hapo_core.loss import batch_loss, negative_weighed, row_scales
from hapo_core.objective import PAPER, Aggregation, RowKind, TeacherBaseline, TeacherShape, TrainRow
from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.update import Updater, UpdateSpec

TRUST = replace(PAPER, teacher_shape=TeacherShape.TRUST)
RATIO_GRADIENT = {0.001: 0.0098, 0.01: 0.0826, 0.1: 0.25, 0.5: 0.1389, 1.0: 0.0826}
"""METHOD 9's comparison: of `ratio`, lambda = .1."""


def slope(p: float, shape: TeacherShape, alpha: float = 0.1) -> tuple[float, float]:
    """(f(p), d f / d log p) of one teacher token of advantage 1."""
    x = torch.tensor([math.log(p)], requires_grad=True)
    objective = replace(PAPER, teacher_shape=shape, trust_alpha=alpha)
    loss = batch_loss([TrainRow((1,), (2,), RowKind.TEACHER, 1.0)], [1.0], x, objective).loss
    loss.backward()
    assert x.grad is not None
    return -float(loss.detach()), -float(x.grad)


@pytest.mark.parametrize(
    ("p", "wanted"), [(0.001, 0.01), (0.01, 0.1), (0.1, 1.0), (0.5, 1.0), (1.0, 1.0)]
)
def test_trust_pulls_by_what_the_policy_could_have_said(p: float, wanted: float) -> None:
    value, gradient = slope(p, TeacherShape.TRUST)
    assert gradient == pytest.approx(wanted, rel=1e-5)
    assert value == pytest.approx(p / 0.1 if p < 0.1 else 1 + math.log(p / 0.1), rel=1e-5)
    assert slope(p, TeacherShape.RATIO)[1] == pytest.approx(RATIO_GRADIENT[p], abs=5e-5)


def test_trust_is_smooth_at_alpha_and_plain_likelihood_in_the_limit() -> None:
    below, above = (slope(0.25 * x, TeacherShape.TRUST, 0.25) for x in (1 - 1e-5, 1 + 1e-5))
    assert below[0] == pytest.approx(above[0], abs=1e-4)
    assert below[1] == pytest.approx(above[1], abs=1e-4)
    assert slope(0.003, TeacherShape.TRUST, 1e-9)[1] == slope(0.003, TeacherShape.LOG)[1] == 1.0
    impossible = slope(1e-30, TeacherShape.TRUST)
    assert impossible == pytest.approx((1e-29, 1e-29), rel=1e-4)


def group(rewards: list[float]) -> Group:
    rollouts = [Rollout("p", j, (5, 6), (-0.1, -0.1), Finish.STOP, "4") for j in range(8)]
    trace = Trace("t", (5, 6), "so 4")
    return Group(Prompt("p", (1, 2)), graded(rollouts, rewards), trace)


@pytest.mark.parametrize("kind", list(AdvantageKind))
@pytest.mark.parametrize("successes", range(8))
def test_own_baseline(successes: int, kind: AdvantageKind) -> None:
    """Own rows among themselves; the trace as before; with S = 0 own rows get exactly 0."""
    rewards = [1.0] * successes + [0.0] * (8 - successes)
    reading = Reading(1.0, 1.0, 0.1, 0.5)
    found, both = group(rewards), []
    for baseline in TeacherBaseline:
        rows, replaced = inject(found, rewards, reading, kind, 0, 3, baseline)
        both.append((replaced, [row.advantage for row in rows]))
    (place, joint), (same, own) = both
    assert (place == same and joint[place] == own[place] > 0) or successes == 7
    rest = [a for j, a in enumerate(own) if j != place]
    kept = [r for j, r in enumerate(rewards) if j != place]
    assert rest == group_advantages(kept, kind)
    if successes == 0:
        assert rest == [0.0] * 7 and joint[0] != 0
    assert abs(math.fsum(rest)) < 1e-12


def test_negative_scale() -> None:
    assert negative_scale([1.0, -1.0, -2.0, 0.0], 0.1) == 0.5
    assert negative_scale([-1.0] * 30 + [2.0], 0.1) == 0.1
    assert negative_scale([3.0, 2.0, -0.5], 0.1) == 1.0
    assert negative_scale([0.0, 1.0], 0.1) == 1.0


def rows_with(*advantages: float) -> list[TrainRow]:
    rows = [TrainRow((1,), (2,) * (k + 1), RowKind.ON_POLICY, a) for k, a in enumerate(advantages)]
    return [*rows, TrainRow((1,), (3,), RowKind.TEACHER, -0.5)]


def test_negative_weight() -> None:
    """On own rows below 0 alone; rows keep their number and order, and so the normalisers."""
    rows = rows_with(2.0, -1.0, 0.0, -3.0)
    half = negative_weighed(rows, replace(PAPER, negative_weight=0.5))
    assert [r.advantage for r in half] == [2.0, -0.5, 0.0, -1.5, -0.5]
    adaptive = negative_weighed(rows, replace(PAPER, negative_weight=None))
    assert [r.advantage for r in adaptive] == [2.0, -0.5, 0.0, -1.5, -0.5]  # one above, two below
    floor = negative_weighed(rows, replace(PAPER, negative_weight=None, negative_floor=0.8))
    assert floor[1].advantage == -0.8
    assert negative_weighed(rows, PAPER) == rows
    assert row_scales(half, Aggregation.TOKEN_MEAN, 8) == row_scales(
        rows, Aggregation.TOKEN_MEAN, 8
    )


@pytest.mark.parametrize("micro", [8, 64])
def test_negative_weight_does_not_depend_on_the_split(micro: int) -> None:
    """Adaptive: the counts are of the whole optimizer batch, whatever fits into a pass."""
    policy, _ = tiny_policy()
    spec = UpdateSpec(0.1, micro_batch_tokens=micro)
    objective = replace(PAPER, negative_weight=None)
    plan = PlannedGroup(group([0.0] * 8), tuple(rows_with(2.0, -1.0, -1.0, -2.0)), Decision.CLOSED)
    found = Updater(policy, spec).gradient([plan], objective, 8)
    by_hand = tuple(rows_with(2.0, -1 / 3, -1 / 3, -2 / 3))
    wanted = Updater(policy, UpdateSpec(0.1)).gradient([replace(plan, rows=by_hand)], PAPER, 8)
    assert found is not None and wanted is not None
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
