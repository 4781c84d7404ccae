"""SFT-then-RL (METHOD 6): supervised rounds first, then GRPO."""

from __future__ import annotations

from collections.abc import Sequence

from hapo_core.gate import Gate
from hapo_core.groups import Group, PlannedGroup, Request
from hapo_core.methods.base import Phase
from hapo_core.methods.entry import MethodEntry, Teaching
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.methods.sft import plan_supervised
from hapo_core.objective import Objective


class SFTThenRL(GRPO):
    """GRPO whose first `sft_rounds` rounds imitate the traces of their prompts."""

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        sft_rounds: int,
        overlong: SoftOverlong | None = None,
    ) -> None:
        super().__init__(gate, objective, seed, None, overlong)
        self._sft_rounds = sft_rounds

    def phase(self, round_index: int) -> Phase:
        """Supervised in the first `sft_rounds` rounds, reinforcement after."""
        return Phase.SFT if round_index < self._sft_rounds else Phase.RL

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """Nothing in supervised rounds, then GRPO's."""
        if self.phase(round_index) is Phase.SFT:
            return []
        return super().wants(groups, size, round_index)

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """One likelihood row a group in supervised rounds, then GRPO's rows."""
        if self.phase(round_index) is Phase.SFT:
            return [plan_supervised(group) for group in groups]
        return super().plan(groups, round_index)


ENTRY = MethodEntry(
    "SFT-then-RL",
    Teaching.FIRST,
    lambda parts, _: SFTThenRL(
        parts.gate, parts.objective, parts.seed, parts.supervised_rounds, parts.overlong
    ),
    sentence="The teacher taught in {supervised}, then GRPO ran without it for {sampled}.",
    place=5,
)
