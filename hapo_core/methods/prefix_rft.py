"""Prefix-RFT (METHOD 6, arXiv 2507.01679): one response of each group starts as the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hapo_core.advantage import group_advantages
from hapo_core.draws import Purpose, uniforms
from hapo_core.gate import Decision, Gate, Reading, ScheduledThreshold, Shape
from hapo_core.groups import Group, PlannedGroup, Request, Trace
from hapo_core.loss import Objective, RowKind
from hapo_core.methods.base import ReinforcementMethod, branch_row, on_policy, policy_row

PREFIX_LOW = ScheduledThreshold(Shape.COSINE, 0.95, 0.05, 500)
"""The least share of the trace that is given, over the rounds."""


@dataclass(frozen=True)
class PrefixRFTOptions:
    """The share of the trace that is given is uniform between `low` (over the rounds) and `high`.
    `top_share`: of the prefix tokens, how many train. `teacher_shaping`: whether those have the
    teacher's objective instead of the ratio to pi_old that all other tokens have."""

    low: ScheduledThreshold = PREFIX_LOW
    high: float = 0.95
    top_share: float = 0.2
    teacher_shaping: bool = False


class PrefixRFT(ReinforcementMethod):
    """N - 1 rollouts, and one that continues a prefix of the trace; A over all N. All tokens of the
    hybrid row count in the normaliser, its prefix with those that do not train."""

    def __init__(
        self, gate: Gate, objective: Objective, seed: int, options: PrefixRFTOptions | None = None
    ) -> None:
        super().__init__(gate, objective, seed)
        self._options = options or PrefixRFTOptions()

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """Both kinds of samples at once; N rollouts where there is no prefix to give."""
        requests = []
        for group in groups:
            if group.rollouts:
                continue
            prompt_id = group.prompt.prompt_id
            prefix = self._length(group.trace, prompt_id, round_index)
            if prefix:
                requests.append(Request(prompt_id, 1, prefix))
            requests.append(Request(prompt_id, size - 1 if prefix else size))
        return requests

    def _length(self, trace: Trace | None, prompt_id: str, round_index: int) -> int:
        if trace is None:
            return 0
        u = float(uniforms(1, self._seed, Purpose.PREFIX, round_index, prompt_id)[0])
        low = self._options.low.at(round_index)
        # Below `high` < 1: the end token is never given.
        return int((low + u * (self._options.high - low)) * len(trace.token_ids))

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Where there is a continuation, and (missing) where there is no trace for one."""
        if group.continuations or group.trace is None:
            return Decision.INJECTED
        return on_policy(group)

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """The rollouts and the hybrid row."""
        if decision is not Decision.INJECTED:
            return super().assemble(group, decision, reading, round_index)
        (branch,) = group.continuations
        *own, hybrid = group_advantages([*group.rewards, branch.reward], self._objective.advantage)
        kind = RowKind.TEACHER if self._options.teacher_shaping else RowKind.ON_POLICY
        row = branch_row(group, 0, hybrid, prefix_in_loss=True)
        rows = [policy_row(group, j, a) for j, a in enumerate(own)]
        rows.append(replace(row, prefix_kind=kind, confidence=reading.confidence))
        return PlannedGroup(group, tuple(rows), decision, None, reading)


def prefix_rft_objective(base: Objective, options: PrefixRFTOptions) -> Objective:
    """`base` with the share of prefix tokens that train."""
    return replace(base, prefix_share=options.top_share)
