"""Hand-derived values of DAPO, Dr.GRPO and GSPO: presets, penalty, dynamic sampling."""

from __future__ import annotations

import pytest
from golden import gate, group

from hapo_core.advantage import AdvantageKind, group_advantages
from hapo_core.gate import Decision
from hapo_core.groups import Group, Request
from hapo_core.methods import GRPO
from hapo_core.methods.sampling import DynamicSampling, SoftOverlong
from hapo_core.objective import (
    DAPO,
    DR_GRPO,
    GSPO,
    PAPER,
    Aggregation,
    RatioLevel,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_presets_carry_the_papers_values() -> None:
    assert (DAPO.clip, DAPO.aggregation) == ((0.2, 0.28), Aggregation.TOKEN_MEAN)
    assert DAPO.advantage is AdvantageKind.STD
    assert DR_GRPO.advantage is AdvantageKind.MEAN_ONLY
    assert (DR_GRPO.clip, DR_GRPO.aggregation) == ((0.2, 0.2), Aggregation.CONSTANT)
    assert (GSPO.clip, GSPO.ratio_level) == ((3e-4, 4e-4), RatioLevel.SEQUENCE)


def test_soft_overlong_penalty() -> None:
    """Budget 100, buffer 20: 0 up to 80 tokens, -.5 at 90, -1 at 100."""
    penalty = SoftOverlong(100, 20).penalty
    assert [penalty(n) for n in (1, 80, 85, 90, 100)] == [0, 0, -0.25, -0.5, -1]
    g = group([1.0, 0.0, None], tokens=2)
    assert SoftOverlong(2, 1).rewards(g) == [0.5, -0.5, None]


def test_half_weight_is_dapos_penalty() -> None:
    """DAPO's rewards are 2 R - 1 + penalty = 2 (R + penalty / 2) - 1: an affine map of ours."""
    right, lengths = [1.0, 1.0, 0.0, 0.0], [50, 95, 82, 100]
    shape = SoftOverlong(100, 20)
    penalties = [shape.penalty(n) for n in lengths]
    theirs = [2 * r - 1 + p for r, p in zip(right, penalties, strict=True)]
    ours = [r + 0.5 * p for r, p in zip(right, penalties, strict=True)]
    assert group_advantages(ours, AdvantageKind.STD) == pytest.approx(
        group_advantages(theirs, AdvantageKind.STD), rel=1e-5
    )


def test_dynamic_sampling_refills_until_it_has_enough() -> None:
    """4 groups wanted of 20 prompts; every third prompt is mixed. Refills never repeat a prompt, do
    not depend on the waves before, and the unmixed groups are discarded, not trained."""
    ids = [f"p{i:02}" for i in range(20)]
    dynamic = DynamicSampling(tuple(ids), groups=4, max_batches=5, seed=0)
    method = GRPO(gate(), PAPER, 0, dynamic)

    def answer(name: str) -> Group:
        return group([1.0, 0.0] if int(name[1:]) % 3 == 0 else [0.0, 0.0], name)

    groups = [answer(i) for i in ids[:4]]  # p00 and p03 are mixed
    waves = []
    while wanted := method.wants(groups, 2, 7):
        waves.append(len(wanted))
        groups += [answer(r.prompt_id) for r in wanted]
    assert waves[0] == 2 and len({g.prompt.prompt_id for g in groups}) == len(groups)
    assert sum(g.mixed for g in groups) == 4
    plans = method.plan(groups, 7)
    kept = [p for p in plans if p.decision is not Decision.DISCARDED]
    assert [p.group.mixed for p in kept] == [True] * 4 and all(len(p.rows) == 2 for p in kept)
    assert all(p.rows == () for p in plans if p.decision is Decision.DISCARDED)
    again = [answer(i) for i in ids[:4]]
    assert method.wants(again, 2, 7) == [Request(g.prompt.prompt_id, 2) for g in groups[4:6]]
    assert method.wants(again, 2, 8) != method.wants(again, 2, 7)


def test_dynamic_sampling_is_bounded() -> None:
    """Nothing is ever mixed: at most 3 x 4 prompts, or all there are."""
    for count, most in ((100, 12), (6, 6)):
        ids = tuple(f"p{i}" for i in range(count))
        dynamic = DynamicSampling(ids, groups=4, max_batches=3, seed=0)
        method = GRPO(gate(), PAPER, 0, dynamic)
        groups = [group([0.0, 0.0], i) for i in ids[:4]]
        while wanted := method.wants(groups, 2, 0):
            groups += [group([0.0, 0.0], r.prompt_id) for r in wanted]
        assert len(groups) == most
