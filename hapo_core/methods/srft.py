"""SRFT (METHOD 6, arXiv 2506.19767): imitation and reinforcement at once, weighed by entropy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hapo_core.advantage import group_advantages
from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.loss import Objective, Part, Surrogate, TrainRow
from hapo_core.methods.base import (
    ReinforcementMethod,
    likelihood_row,
    policy_row,
    teacher_row,
)


@dataclass(frozen=True)
class SRFTOptions:
    """`sft_entropy_sign`: k of w_sft = sft_weight exp(k H): -1 in the paper, +1 in released code.
    `positive_weight`: of right rollouts, times exp(H); wrong ones weigh -1."""

    sft_weight: float = 0.5
    sft_entropy_sign: int = -1
    positive_weight: float = 0.1


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
            entropy_exponent=float(self._options.sft_entropy_sign),
        )
        return [teacher_row(group, augmented[-1], reading), imitation]


def srft_objective(base: Objective) -> Objective:
    """`base` with log pi as the surrogate of the rollouts."""
    return replace(base, surrogate=Surrogate.LOG)
