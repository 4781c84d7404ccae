"""What a method is, and the part that all reinforcement methods share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from hapo_core.advantage import group_advantages
from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup, success_rate
from hapo_core.loss import Objective, RowKind, TrainRow
from hapo_core.ssi import injected_rewards, worst_rollout


class Phase(StrEnum):
    """What a round does: sample and learn from rewards, or imitate traces."""

    RL = "rl"
    SFT = "sft"


class Method(Protocol):
    """Turns the groups of a round into rows of an optimizer batch. A pure function of its inputs,
    the seed and the gate's state."""

    gate: Gate

    def phase(self, round_index: int) -> Phase:
        """Whether the round (counted from 0) needs rollouts."""
        ...

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """Rows and decisions of every group, in the order given."""
        ...


class ReinforcementMethod:
    """Base of the methods that sample in every round: they differ only in `admits`, the question
    whether the teacher enters a group. The gate reads every group even where the method ignores
    it, so that posteriors and confidences can be compared between methods.

    Args:
        gate: confidence gate with its state.
        objective: gives the kind of advantage.
        seed: keys the tie-break among equally bad rollouts.
    """

    def __init__(self, gate: Gate, objective: Objective, seed: int) -> None:
        self.gate, self._objective, self._seed = gate, objective, seed

    def phase(self, round_index: int) -> Phase:
        """Every round samples."""
        return Phase.RL

    def admits(self, group: Group, reading: Reading) -> Decision:
        """INJECTED if the trace should enter (a missing trace is seen to by the caller)."""
        raise NotImplementedError

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """See `Method.plan`."""
        self.gate.begin_round(round_index, success_rate(list(groups)))
        return [self._plan_group(group, round_index) for group in groups]

    def _plan_group(self, group: Group, round_index: int) -> PlannedGroup:
        prompt_id = group.prompt.prompt_id
        reading = self.gate.read(prompt_id, group.successes, group.known, round_index)
        decision = self.admits(group, reading) if group.known else Decision.UNKNOWN
        if decision is Decision.INJECTED and group.trace is None:
            decision = Decision.NO_TRACE
        rewards: Sequence[float | None] = group.rewards
        replaced = None
        if decision is Decision.INJECTED:
            replaced = worst_rollout(rewards, self._seed, round_index, prompt_id)
            assert replaced is not None  # group.known > 0
            rewards = injected_rewards(rewards, replaced)
        advantages = group_advantages(rewards, self._objective.advantage)
        rows = tuple(
            _teacher_row(group, advantage, reading)
            if j == replaced
            else _policy_row(group, j, advantage)
            for j, advantage in enumerate(advantages)
        )
        return PlannedGroup(group, rows, decision, replaced, reading)


def _policy_row(group: Group, j: int, advantage: float) -> TrainRow:
    rollout = group.rollouts[j]
    return TrainRow(
        prompt_ids=group.prompt.token_ids,
        response_ids=rollout.token_ids,
        kind=RowKind.ON_POLICY,
        advantage=advantage,
        sampler_logprobs=rollout.logprobs,
    )


def _teacher_row(group: Group, advantage: float, reading: Reading) -> TrainRow:
    assert group.trace is not None
    return TrainRow(
        prompt_ids=group.prompt.token_ids,
        response_ids=group.trace.token_ids,
        kind=RowKind.TEACHER,
        advantage=advantage,
        confidence=reading.confidence,
    )
