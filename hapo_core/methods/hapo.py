"""HAPO (METHOD 3): the teacher enters while the gate says that the policy cannot yet solve."""

from __future__ import annotations

from hapo_core.gate import Decision, Reading
from hapo_core.groups import Group
from hapo_core.methods.base import ReinforcementMethod
from hapo_core.methods.entry import MethodEntry, Teaching


class HAPO(ReinforcementMethod):
    """Hindsight-Anchored Policy Optimization, with any gate of METHOD 4."""

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Inject iff c < gamma_t and S < N."""
        if group.successes == group.known:
            return Decision.SOLVED
        return Decision.INJECTED if reading.open else Decision.CLOSED


ENTRY = MethodEntry(
    "HAPO",
    Teaching.GATED,
    lambda parts, _: HAPO(parts.gate, parts.objective, parts.seed, None, parts.overlong),
    replaces=True,
    place=2,
)
