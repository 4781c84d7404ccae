"""What a method is, and the parts that all reinforcement methods share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from hapo_core.advantage import group_advantages
from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Extras, Group, PlannedGroup, Request, success_rate
from hapo_core.injection import inject
from hapo_core.methods.sampling import DynamicSampling, SoftOverlong
from hapo_core.objective import Objective
from hapo_core.rows import policy_row


class Phase(StrEnum):
    """What a round does: sample and learn from rewards, or imitate traces."""

    RL = "rl"
    SFT = "sft"


class Method(Protocol):
    """Says what a round samples and turns it into rows of an optimizer batch. A pure function of
    its inputs, the seed, the gate's state and `waiting`.

    A round calls `phase`, then `wants` until it returns nothing, then `plan` once, then
    `take_extras` once. `waiting` holds prompt ids that the method remembers between rounds; it is
    part of every checkpoint.
    """

    gate: Gate
    waiting: list[str]

    def phase(self, round_index: int) -> Phase:
        """Whether the round (counted from 0) needs rollouts."""
        ...

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """What to sample next, given all that the round has sampled; nothing ends the sampling.

        Args:
            groups: the round's groups, without rollouts at the first call; a request for a prompt
                that is not among them adds a group.
            size: N.
        """
        ...

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """Rows and decisions of every group, in the order given."""
        ...

    def take_extras(self, round_index: int) -> Extras:
        """Rows of traces that train outside of the groups."""
        ...


class ReinforcementMethod:
    """Base of the methods that sample in every round. Most differ only in `admits`, the question
    whether the teacher enters a group, or in `assemble`, what rows the group becomes. The gate
    reads every group even where the method ignores it, so that posteriors and confidences can be
    compared between methods.

    Args:
        gate: confidence gate with its state.
        objective: gives the kind of advantage.
        seed: keys the tie-break among equally bad rollouts.
        dynamic: refill of groups whose rewards are all equal, or None.
        overlong: penalty on long rollouts inside the advantages, or None.
    """

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        dynamic: DynamicSampling | None = None,
        overlong: SoftOverlong | None = None,
    ) -> None:
        self.gate, self._objective, self._seed = gate, objective, seed
        self._dynamic, self._overlong = dynamic, overlong
        self.waiting: list[str] = []

    def phase(self, round_index: int) -> Phase:
        """Every round samples."""
        return Phase.RL

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """N rollouts of every prompt, then refills where sampling is dynamic."""
        fresh = [Request(g.prompt.prompt_id, size) for g in groups if not g.samples]
        if fresh or self._dynamic is None:
            return fresh
        return self._dynamic.refills(groups, size, round_index)

    def admits(self, group: Group, reading: Reading) -> Decision:
        """INJECTED if the trace should enter (a missing trace is seen to by the caller)."""
        raise NotImplementedError

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """The groups in their order, each with decision, reading and rows; the gate learns."""
        self.gate.begin_round(round_index, success_rate(list(groups)))
        return [self._plan_group(group, round_index) for group in groups]

    def take_extras(self, round_index: int) -> Extras:
        """No rows outside of the groups; CHORD and ReLIFT have some."""
        return Extras()

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """The rows of a group: all rollouts, the trace in the place of the worst if it enters."""
        rewards, kind = self.rewards(group), self._objective.advantage
        if decision is Decision.INJECTED:
            baseline = self._objective.teacher_baseline
            rows, replaced = inject(
                group, rewards, reading, kind, self._seed, round_index, baseline
            )
            return PlannedGroup(group, rows, decision, replaced, reading)
        advantages = group_advantages(rewards, kind)
        rows = tuple(policy_row(group, j, a) for j, a in enumerate(advantages))
        return PlannedGroup(group, rows, decision, None, reading)

    def rewards(self, group: Group) -> Sequence[float | None]:
        """What the advantages of the rollouts are made of."""
        return group.rewards if self._overlong is None else self._overlong.rewards(group)

    def _plan_group(self, group: Group, round_index: int) -> PlannedGroup:
        prompt_id = group.prompt.prompt_id
        reading = self.gate.observe(prompt_id, group.successes, group.known, round_index)
        if self._dynamic is not None and not group.mixed:
            return PlannedGroup(group, (), Decision.DISCARDED, None, reading)
        decision = self.admits(group, reading) if group.known else Decision.UNKNOWN
        if decision is Decision.INJECTED and group.trace is None:
            decision = Decision.NO_TRACE
        if decision is Decision.INJECTED and self.gate.refuses(group.excess_surprise):
            decision = Decision.REFUSED
        if decision is Decision.INJECTED and self.gate.holds_out(prompt_id, round_index):
            decision = Decision.HELD_OUT
        return self.assemble(group, decision, reading, round_index)


def on_policy(group: Group) -> Decision:
    """The decision of a group that the teacher does not enter."""
    return Decision.SOLVED if group.successes == group.known else Decision.CLOSED
