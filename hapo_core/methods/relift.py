"""ReLIFT (METHOD 6, arXiv 2506.07527): GRPO, and now and then imitation of what it cannot solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hapo_core.gate import Gate
from hapo_core.groups import Demonstrations, Extras, Group, PlannedGroup
from hapo_core.methods.entry import MethodEntry, Teaching
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.objective import Objective
from hapo_core.rows import likelihood_row
from hapo_core.settings import Count, Flag, settings


@settings
class ReLIFTOptions:
    """`relift` (METHOD 6)."""

    buffer: Count = 128
    """Failed prompts that one separate supervised step waits for and uses up; its learning rate is
    scaled as in supervised rounds."""
    first: Literal["oldest", "newest"] = "oldest"
    """Which of the waiting prompts a step takes; `newest` is the released code's."""
    repeats: Flag = False
    """A prompt that fails again while it waits joins once more, as in the released code."""


class ReLIFT(GRPO):
    """Groups are GRPO's. A prompt with S = 0 and a trace joins `waiting` (once); whenever `buffer`
    prompts wait, the oldest (or newest) leave it for one supervised step, a token mean over
    their traces.

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
        """GRPO's rows; groups that failed whole put their prompts on the waiting list."""
        waiting = set(self.waiting)
        for group in groups:
            prompt_id = group.prompt.prompt_id
            failed = group.known > 0 and group.successes == 0
            joins = self._options.repeats or prompt_id not in waiting
            if failed and joins and prompt_id in self._demonstrations:
                self.waiting.append(prompt_id)
        return super().plan(groups, round_index)

    def take_extras(self, round_index: int) -> Extras:
        """One supervised step for every full buffer."""
        batches = []
        size = self._options.buffer
        while len(self.waiting) >= size:
            if self._options.first == "newest":
                full, self.waiting = self.waiting[-size:][::-1], self.waiting[:-size]
            else:
                full, self.waiting = self.waiting[:size], self.waiting[size:]
            batches.append(tuple(likelihood_row(*self._demonstrations[i]) for i in full))
        return Extras(after=tuple(batches))


ENTRY = MethodEntry(
    "ReLIFT",
    Teaching.OUTSIDE,
    lambda parts, options: ReLIFT(
        parts.gate,
        parts.objective,
        parts.seed,
        parts.demonstrations,
        options,
        parts.waiting,
        parts.overlong,
    ),
    deed="ReLIFT imitates the traces of failed problems in separate steps",
    options=ReLIFTOptions(),
    place=8,
)
