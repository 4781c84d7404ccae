"""GRPO (METHOD 2): the on-policy base; the teacher never enters."""

from __future__ import annotations

from hapo_core.gate import Decision, Reading
from hapo_core.groups import Group
from hapo_core.methods.base import ReinforcementMethod


class GRPO(ReinforcementMethod):
    """Group-relative policy optimisation on the policy's own rollouts."""

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Never."""
        return Decision.SOLVED if group.successes == group.known else Decision.CLOSED
