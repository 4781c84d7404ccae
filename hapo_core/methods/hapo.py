"""HAPO (METHOD 3): the teacher enters while the gate says that the policy cannot yet solve."""

from __future__ import annotations

from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.methods.base import ReinforcementMethod
from hapo_core.methods.entry import MethodEntry, Teaching
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.objective import Objective
from hapo_core.rows import distilled_rows


class HAPO(ReinforcementMethod):
    """Hindsight-Anchored Policy Optimization, with any gate of METHOD 4.

    Args:
        distill: None: the trace takes the place of a rollout. A weight: the group keeps its own
            rows, and rows of distillation come beside them (METHOD 9).
    """

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        overlong: SoftOverlong | None = None,
        distill: float | None = None,
    ) -> None:
        super().__init__(gate, objective, seed, None, overlong)
        self._distill = distill

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Inject iff c < gamma_t and S < N, N the rollouts whose reward is known."""
        if group.successes == group.known:
            return Decision.SOLVED
        return Decision.INJECTED if reading.open else Decision.CLOSED

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """See `ReinforcementMethod`; with distillation the trace is no row of its own."""
        if self._distill is None or decision is not Decision.INJECTED:
            return super().assemble(group, decision, reading, round_index)
        own = super().assemble(group, Decision.CLOSED, reading, round_index)
        rows = (*own.rows, *distilled_rows(group, self._distill))
        return PlannedGroup(group, rows, decision, None, reading)


ENTRY = MethodEntry(
    "HAPO",
    Teaching.GATED,
    lambda parts, _: HAPO(parts.gate, parts.objective, parts.seed, parts.overlong, parts.distill),
    replaces=True,
    place=2,
)
