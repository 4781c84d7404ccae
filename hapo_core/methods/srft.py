"""SRFT (METHOD 6, arXiv 2506.19767): imitation and reinforcement at once, weighed by entropy."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hapo_core.advantage import group_advantages
from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.methods.base import ReinforcementMethod
from hapo_core.methods.entry import MethodEntry, Teaching, every_group
from hapo_core.objective import Objective, Part, Surrogate, TrainRow
from hapo_core.rows import likelihood_row, policy_row, teacher_row
from hapo_core.settings import NotNegative, settings


@settings
class SRFTOptions:
    """`srft` (METHOD 6)."""

    sft_weight: NotNegative = 0.5
    sft_entropy: Literal["minus", "plus"] = "minus"
    """w_sft = sft_weight exp(-H) as in the paper, or exp(+H) as in the released code."""
    positive_weight: NotNegative = 0.1
    """Weight of right rollouts, times exp(H); wrong ones weigh -1."""


class SRFT(ReinforcementMethod):
    """The loss of a group is that of its rollouts (.1 exp(H) log pi on right ones, -log pi on wrong
    ones), of the trace with its advantage in the group of N + 1, and w_sft NLL(trace).

    H is the detached mean token entropy of the row that it weighs. The NLL has a token mean of its
    own; rollouts and the trace's reinforcement row share the other normaliser.
    """

    def __init__(
        self, gate: Gate, objective: Objective, seed: int, options: SRFTOptions | None = None
    ) -> None:
        super().__init__(gate, objective, seed)
        self._options = options or SRFTOptions()

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Always."""
        return Decision.INJECTED

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """N rollouts, and two rows of the trace."""
        rows = [self._own(group, j) for j in range(len(group.rollouts))]
        if decision is Decision.INJECTED:
            rows += self._demonstration(group, reading)
        return PlannedGroup(group, tuple(rows), decision, None, reading)

    def _own(self, group: Group, j: int) -> TrainRow:
        reward = group.rewards[j]
        if reward is None:
            return policy_row(group, j, 0.0)
        if reward <= 0:
            return policy_row(group, j, -1.0)
        return replace(policy_row(group, j, self._options.positive_weight), entropy_exponent=1.0)

    def _demonstration(self, group: Group, reading: Reading) -> list[TrainRow]:
        assert group.trace is not None
        augmented = group_advantages([*group.rewards, 1.0], self._objective.advantage)
        imitation = replace(
            likelihood_row(group.prompt, group.trace),
            part=Part.EXPERT,
            weight=self._options.sft_weight,
            entropy_exponent=-1.0 if self._options.sft_entropy == "minus" else 1.0,
        )
        return [teacher_row(group, augmented[-1], reading), imitation]


def srft_objective(base: Objective) -> Objective:
    """`base` with log pi as the surrogate of the rollouts."""
    return replace(base, surrogate=Surrogate.LOG)


ENTRY = MethodEntry(
    "SRFT",
    Teaching.GROUPS,
    lambda parts, options: SRFT(parts.gate, parts.objective, parts.seed, options),
    deed="SRFT adds the trace to every group that has one",
    options=SRFTOptions(),
    objective=lambda base, _: srft_objective(base),
    rule=every_group,
    overlong=False,
    ratios=False,
    place=6,
)
