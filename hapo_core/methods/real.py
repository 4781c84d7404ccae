"""REAL (METHOD 6, arXiv 2602.05630): right and wrong rollouts told apart, no advantages."""

from __future__ import annotations

from dataclasses import replace

from hapo_core.gate import Decision, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.loss import Aggregation, Objective, Surrogate
from hapo_core.methods.base import policy_row
from hapo_core.methods.grpo import GRPO


class REAL(GRPO):
    """Rows carry labels (1 right, -1 wrong, 0 unknown); `hapo_core.coupled` makes weights of them
    when it knows the scores. The mean is over the groups of the batch; groups of equal rewards
    count and train (their loss has one of its two terms)."""

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """One labelled row per rollout."""
        labels = [0.0 if r is None else (1.0 if r > 0 else -1.0) for r in group.rewards]
        rows = tuple(
            replace(policy_row(group, j, label), group=group.prompt.prompt_id)
            for j, label in enumerate(labels)
        )
        return PlannedGroup(group, rows, decision, None, reading)


def real_objective(base: Objective, tau: float = 0.5) -> Objective:
    """`base` with REAL's surrogate and its mean over groups; clip and advantages do not apply."""
    return replace(
        base, surrogate=Surrogate.SCORE, aggregation=Aggregation.GROUP_MEAN, score_tau=tau
    )
