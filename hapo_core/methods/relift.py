"""ReLIFT (METHOD 6, arXiv 2506.07527): GRPO, and now and then imitation of what it cannot solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hapo_core.gate import Gate
from hapo_core.groups import Demonstrations, Extras, Group, PlannedGroup
from hapo_core.loss import Objective
from hapo_core.methods.base import likelihood_row
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.sampling import SoftOverlong


@dataclass(frozen=True)
class ReLIFTOptions:
    """`buffer`: prompts that one separate supervised step waits for and uses up."""

    buffer: int = 128


class ReLIFT(GRPO):
    """Groups are GRPO's. A prompt with S = 0 and a trace joins `waiting` (once); whenever `buffer`
    prompts wait, the oldest ones leave it for one supervised step, a token mean over their traces.

    Args:
        demonstrations: the traces of waiting prompts, also of those met in earlier rounds.
        waiting: what an earlier process left.
    """

    def __init__(
        self,
        gate: Gate,
        objective: Objective,
        seed: int,
        demonstrations: Demonstrations,
        options: ReLIFTOptions | None = None,
        waiting: Sequence[str] = (),
        overlong: SoftOverlong | None = None,
    ) -> None:
        super().__init__(gate, objective, seed, None, overlong)
        self._demonstrations, self._options = demonstrations, options or ReLIFTOptions()
        self.waiting = list(waiting)

    def plan(self, groups: Sequence[Group], round_index: int) -> list[PlannedGroup]:
        """See `Method.plan`."""
        waiting = set(self.waiting)
        for group in groups:
            prompt_id = group.prompt.prompt_id
            failed = group.known > 0 and group.successes == 0
            if failed and prompt_id in self._demonstrations and prompt_id not in waiting:
                self.waiting.append(prompt_id)
        return super().plan(groups, round_index)

    def extras(self, round_index: int) -> Extras:
        """One supervised step for every full buffer."""
        batches = []
        size = self._options.buffer
        while len(self.waiting) >= size:
            full, self.waiting = self.waiting[:size], self.waiting[size:]
            batches.append(tuple(likelihood_row(*self._demonstrations[i]) for i in full))
        return Extras(after=tuple(batches))
