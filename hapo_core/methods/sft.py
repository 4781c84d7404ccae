"""SFT (METHOD 6): likelihood of the traces, token mean over the whole batch, no rollouts."""

from __future__ import annotations

from collections.abc import Sequence

from hapo_core.gate import Decision, Gate
from hapo_core.groups import Group, PlannedGroup
from hapo_core.loss import RowKind, TrainRow
from hapo_core.methods.base import Phase


class SFT:
    """Supervised fine-tuning on the traces of the round's prompts."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def phase(self, round_index: int) -> Phase:
        """No round samples."""
        return Phase.SFT

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """One row per prompt with a usable trace."""
        return [plan_supervised(group) for group in groups]


def plan_supervised(group: Group) -> PlannedGroup:
    """The trace of a group as one NLL row, or no row where there is no usable trace."""
    if group.trace is None:
        return PlannedGroup(group, (), Decision.NO_TRACE)
    row = TrainRow(group.prompt.token_ids, group.trace.token_ids, RowKind.SFT)
    return PlannedGroup(group, (row,), Decision.INJECTED)
