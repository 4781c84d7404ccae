"""GRPO (METHOD 2): the on-policy base; the teacher never enters."""

from __future__ import annotations

from hapo_core.gate import Decision, Reading
from hapo_core.groups import Group
from hapo_core.methods.base import ReinforcementMethod, on_policy
from hapo_core.methods.entry import MethodEntry, Teaching


class GRPO(ReinforcementMethod):
    """Group-relative policy optimisation on the policy's own rollouts. DAPO, Dr.GRPO and GSPO are
    this method with another objective (`hapo_core.objective`) and DAPO's `methods.sampling`."""

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Never."""
        return on_policy(group)


ENTRY = MethodEntry(
    "GRPO",
    Teaching.NEVER,
    lambda parts, _: GRPO(parts.gate, parts.objective, parts.seed, parts.dynamic, parts.overlong),
    dynamic=True,
    place=1,
)
