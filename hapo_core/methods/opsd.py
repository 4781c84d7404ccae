"""OPSD (METHOD 9, arXiv 2601.18734): the policy, shown the trace, scores its own rollouts.

No row of a trace and no reward: where a prompt has a trace, every rollout is a row of distillation.
Who the teacher is, and what it is shown, is `teacher.distill`.
"""

from __future__ import annotations

from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.methods.base import ReinforcementMethod
from hapo_core.methods.entry import MethodEntry, Teaching, every_group
from hapo_core.objective import Objective
from hapo_core.rows import distilled_rows


class OPSD(ReinforcementMethod):
    """On-policy self-distillation in every group with a trace; others train nothing."""

    def __init__(self, gate: Gate, objective: Objective, seed: int, weight: float = 1.0) -> None:
        super().__init__(gate, objective, seed)
        self._weight = weight

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Always."""
        return Decision.INJECTED

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """All rollouts as rows of distillation, or nothing."""
        entered = decision is Decision.INJECTED
        rows = distilled_rows(group, self._weight) if entered else ()
        return PlannedGroup(group, rows, decision, None, reading)


ENTRY = MethodEntry(
    "OPSD",
    Teaching.GROUPS,
    lambda parts, _: OPSD(parts.gate, parts.objective, parts.seed, parts.distill or 1.0),
    deed="OPSD has the policy, shown the trace, score its own rollouts",
    rule=every_group,
    distils=True,
    overlong=False,
    ratios=False,
    place=12,
)
