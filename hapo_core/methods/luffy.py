"""LUFFY by replacement (METHOD 6, arXiv 2504.14945): the trace is in every group, for ever."""

from __future__ import annotations

from hapo_core.gate import Decision, Reading
from hapo_core.groups import Group
from hapo_core.methods.base import ReinforcementMethod


class LUFFY(ReinforcementMethod):
    """One rollout of N is the trace, also in groups that the policy solves (there all advantages
    are 0 and only the normaliser's token count differs)."""

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Always."""
        return Decision.INJECTED
