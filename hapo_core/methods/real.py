"""REAL (METHOD 6, arXiv 2602.05630): right and wrong rollouts told apart, no advantages."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.methods.entry import MethodEntry, Teaching
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.real_weights import RealWeights
from hapo_core.objective import Aggregation, Objective, Surrogate
from hapo_core.rows import policy_row
from hapo_core.settings import Positive, settings


@settings
class REALOptions:
    """`real` (METHOD 6)."""

    tau: Positive = 0.5
    groups: Literal["mixed", "all"] = "mixed"
    """`mixed`: groups without both labels are dropped and count in no mean, as in the release;
    `all`: they train on the one of the two terms that they have."""


class REAL(GRPO):
    """Rows carry labels (1 right, -1 wrong, 0 unknown); `RealWeights` makes weights of
    them when it knows the scores. The mean is over the groups of the batch that have rows."""

    def __init__(
        self, gate: Gate, objective: Objective, seed: int, options: REALOptions | None = None
    ) -> None:
        super().__init__(gate, objective, seed)
        self._options = options or REALOptions()

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """One labelled row per rollout, or none where the release drops the group."""
        if self._options.groups == "mixed" and group.known and not group.mixed:
            return PlannedGroup(group, (), Decision.DISCARDED, None, reading)
        labels = [0.0 if r is None else (1.0 if r > 0 else -1.0) for r in group.rewards]
        rows = tuple(
            replace(policy_row(group, j, label), group=group.prompt.prompt_id)
            for j, label in enumerate(labels)
        )
        return PlannedGroup(group, rows, decision, None, reading)


def real_objective(base: Objective, tau: float = 0.5) -> Objective:
    """`base` with REAL's surrogate and its mean over groups; clip and advantages do not apply."""
    return replace(
        base,
        surrogate=Surrogate.SCORE,
        aggregation=Aggregation.GROUP_MEAN,
        coupling=RealWeights(tau),
    )


ENTRY = MethodEntry(
    "REAL",
    Teaching.NEVER,
    lambda parts, options: REAL(parts.gate, parts.objective, parts.seed, options),
    options=REALOptions(),
    section="objective",
    objective=lambda base, options: real_objective(base, options.tau),
    overlong=False,
    ratios=False,
    place=12,
)
