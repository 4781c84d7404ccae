"""LUFFY by replacement (METHOD 6, arXiv 2504.14945): the trace is in every group, for ever."""

from __future__ import annotations

from hapo_core.gate import Decision, Reading
from hapo_core.groups import Group
from hapo_core.methods.base import ReinforcementMethod
from hapo_core.methods.entry import MethodEntry, Teaching, every_group


class LUFFY(ReinforcementMethod):
    """One rollout of N is the trace, also in groups that the policy solves (there all advantages
    are 0 and only the normaliser's token count differs)."""

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Always."""
        return Decision.INJECTED


ENTRY = MethodEntry(
    "LUFFY",
    Teaching.GROUPS,
    lambda parts, _: LUFFY(parts.gate, parts.objective, parts.seed, None, parts.overlong),
    deed="LUFFY has no gate",
    sentence="The teacher was in {share} of all groups, by design: {deed}.",
    rule=every_group,
    replaces=True,
    place=3,
)
