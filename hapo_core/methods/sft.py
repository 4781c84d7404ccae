"""SFT (METHOD 6): likelihood of the traces, token mean over the whole batch, no rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from hapo_core.gate import Decision, Gate
from hapo_core.groups import Extras, Group, PlannedGroup, Request
from hapo_core.methods.base import Phase
from hapo_core.methods.entry import MethodEntry, Teaching
from hapo_core.rows import likelihood_row


class SFT:
    """Supervised fine-tuning on the traces of the round's prompts."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.waiting: list[str] = []

    def phase(self, round_index: int) -> Phase:
        """No round samples."""
        return Phase.SFT

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """No requests: a round samples nothing, and its groups stay without rollouts."""
        return []

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """One row per prompt with a usable trace."""
        return [plan_supervised(group) for group in groups]

    def take_extras(self, round_index: int) -> Extras:
        """No rows outside of the groups: `plan` has all of them."""
        return Extras()


def plan_supervised(group: Group) -> PlannedGroup:
    """The trace of a group as one NLL row, or no row where there is no usable trace."""
    if group.trace is None:
        return PlannedGroup(group, (), Decision.NO_TRACE)
    return PlannedGroup(group, (likelihood_row(group.prompt, group.trace),), Decision.INJECTED)


ENTRY = MethodEntry(
    "SFT",
    Teaching.ALONE,
    lambda parts, _: SFT(parts.gate),
    deed="the teacher's traces are all that it trains on",
    overlong=False,
    place=4,
)
