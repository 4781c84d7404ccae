"""BREAD (METHOD 6, arXiv 2506.17211): where the policy fails, rollouts branch from the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from hapo_core.advantage import group_advantages
from hapo_core.gate import Decision, Gate, Reading
from hapo_core.groups import Group, PlannedGroup, Request
from hapo_core.methods.base import ReinforcementMethod, on_policy
from hapo_core.methods.entry import MethodEntry, Teaching, up_to
from hapo_core.objective import Objective
from hapo_core.rows import branch_row
from hapo_core.settings import settings


@settings
class BREADOptions:
    """`bread` (METHOD 6)."""

    splits: Annotated[int, Field(strict=True, ge=2)] = 10
    """K: prefixes are the first k/K of a trace, k = 1 .. K - 1; a search takes about log2(K) times
    N samples."""


class BREAD(ReinforcementMethod):
    """With S = 0 a binary search finds the shortest prefix from which the policy succeeds at least
    once in N tries (it takes success to be monotone in the prefix); those N tries are then the
    group. The prefix is given, like the prompt: neither in the loss nor in the normaliser. The
    failed rollouts, and the tries from other prefixes, are dropped and counted in no normaliser.
    """

    def __init__(
        self, gate: Gate, objective: Objective, seed: int, options: BREADOptions | None = None
    ) -> None:
        super().__init__(gate, objective, seed)
        self._options = options or BREADOptions()

    def wants(self, groups: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """N rollouts of every prompt, then N tries from the next prefix of each search."""
        first = super().wants(groups, size, round_index)
        if first:
            return first
        found = ((g.prompt.prompt_id, self._search(g)[0]) for g in groups)
        return [Request(prompt_id, size, prefix) for prompt_id, prefix in found if prefix]

    def _search(self, group: Group) -> tuple[int | None, int | None]:
        """(prefix to try next, prefix to branch from): at most one of them, replayed from the
        continuations that the group has."""
        if group.trace is None or group.known == 0 or group.successes > 0:
            return None, None
        length, k = len(group.trace.token_ids), self._options.splits
        candidates = sorted({n * length // k for n in range(1, k)} - {0})
        solved: dict[int, bool] = {}
        for branch in group.continuations:
            right = branch.reward is not None and branch.reward > 0
            prefix = branch.rollout.prefix
            solved[prefix] = solved.get(prefix, False) or right
        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high) // 2
            prefix = candidates[middle]
            if prefix not in solved:
                return prefix, None
            low, high = (low, middle) if solved[prefix] else (middle + 1, high)
        return None, candidates[high] if high < len(candidates) else None

    def admits(self, group: Group, reading: Reading) -> Decision:
        """Where a prefix was found, and (missing) where there was no trace to search."""
        if group.successes > 0:
            return on_policy(group)
        if group.trace is None or self._search(group)[1] is not None:
            return Decision.INJECTED
        return Decision.CLOSED

    def assemble(
        self, group: Group, decision: Decision, reading: Reading, round_index: int
    ) -> PlannedGroup:
        """The branches, or GRPO's rows."""
        if decision is not Decision.INJECTED:
            return super().assemble(group, decision, reading, round_index)
        prefix = self._search(group)[1]
        chosen = [i for i, c in enumerate(group.continuations) if c.rollout.prefix == prefix]
        advantages = group_advantages(
            [group.continuations[i].reward for i in chosen], self._objective.advantage
        )
        rows = tuple(
            branch_row(group, i, a, prefix_in_loss=False)
            for i, a in zip(chosen, advantages, strict=True)
        )
        return PlannedGroup(group, rows, decision, None, reading)


ENTRY = MethodEntry(
    "BREAD",
    Teaching.GROUPS,
    lambda parts, options: BREAD(parts.gate, parts.objective, parts.seed, options),
    deed="BREAD branches from the trace where the policy fails",
    options=BREADOptions(),
    rule=lambda _, options, group_size: up_to(0, group_size),
    exact=False,  # a search may fail
    overlong=False,
    place=11,
)
