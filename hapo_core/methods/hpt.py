"""HPT (METHOD 6, arXiv 2509.04419): imitation where the policy fails, reinforcement elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup
from hapo_core.methods.base import ReinforcementMethod, on_policy
from hapo_core.methods.entry import MethodEntry, Teaching, up_to
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.objective import Objective, Part
from hapo_core.rows import likelihood_row
from hapo_core.settings import Number, settings


@settings
class HPTOptions:
    """`hpt` (METHOD 6)."""

    successes: Number = 0
    """k: imitate the trace iff S <= k."""
    normaliser: Literal["separate", "shared"] = "separate"
    """Whether imitated tokens have a token mean of their own or count with the rollouts."""


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
        if self._options.normaliser == "separate":
            row = replace(row, part=Part.EXPERT)
        return PlannedGroup(group, (row,), decision, None, reading)


def _check(options: HPTOptions, group_size: int) -> str | None:
    if options.successes < group_size:
        return None
    return (
        "successes: S <= k always holds with k >= N, the size of a group; method sft does the "
        "same without rollouts"
    )


ENTRY = MethodEntry(
    "HPT",
    Teaching.GROUPS,
    lambda parts, options: HPT(parts.gate, parts.objective, parts.seed, options, parts.overlong),
    deed="HPT imitates the trace where the policy fails",
    options=HPTOptions(),
    check=_check,
    rule=lambda _, options, group_size: up_to(options.successes, group_size),
    place=7,
)
