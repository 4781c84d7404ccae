"""HPT (METHOD 6, arXiv 2509.04419): imitation where the policy fails, reinforcement elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.loss import Objective, Part
from hapo_core.methods.base import ReinforcementMethod, likelihood_row, on_policy
from hapo_core.methods.sampling import SoftOverlong


@dataclass(frozen=True)
class HPTOptions:
    """`successes`: k, imitate iff S <= k. `shared`: whether imitated tokens count in the normaliser
    of the rollouts, or (False) have a token mean of their own."""

    successes: int = 0
    shared: bool = False


class HPT(ReinforcementMethod):
    """With S <= k all rollouts of the group are dropped and its trace is imitated. Dropped rollouts
    count in no normaliser."""

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        options: HPTOptions | None = None,
        overlong: SoftOverlong | None = None,
    ) -> None:
        super().__init__(gate, objective, seed, None, overlong)
        self._options = options or HPTOptions()

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Iff S <= k."""
        return Decision.INJECTED if group.successes <= self._options.successes else on_policy(group)

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """One NLL row, or GRPO's."""
        if decision is not Decision.INJECTED:
            return super().assemble(group, decision, reading, round_index)
        assert group.trace is not None
        row = likelihood_row(group.prompt, group.trace)
        if not self._options.shared:
            row = replace(row, part=Part.EXPERT)
        return PlannedGroup(group, (row,), decision, None, reading)
