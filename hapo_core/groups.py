"""Groups: what rollout and verification hand to a method, and what it hands to the update."""

from __future__ import annotations

from dataclasses import dataclass

from hapo_core.gate import Decision, Reading
from hapo_core.loss import Objective, TrainRow
from hapo_core.rollout.protocol import Prompt, Rollout


@dataclass(frozen=True)
class Trace:
    """A verified teacher trace that fits the response budget. `token_ids` ends with EOS."""

    trace_id: str
    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt in one round, in sample order, with their rewards.

    A reward is 1 or 0, or None where the verdict is unknown (timeout, bad gold, error). A
    supervised round has groups without rollouts.
    """

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...]
    trace: Trace | None

    @property
    def successes(self) -> int:
        """S: rollouts that the policy really solved, before any injection."""
        return sum(1 for r in self.rewards if r is not None and r > 0)

    @property
    def known(self) -> int:
        """Rollouts with a known reward."""
        return sum(1 for r in self.rewards if r is not None)


@dataclass(frozen=True)
class PlannedGroup:
    """What a method made of a group.

    `rows`: all that counts in the normaliser, in sample order; `replaced`: index of the rollout
    whose place the trace took; `reading`: None without rollouts.
    """

    group: Group
    rows: tuple[TrainRow, ...]
    decision: Decision
    replaced: int | None = None
    reading: Reading | None = None

    def dead(self, objective: Objective) -> bool:
        """Whether no row of the group has a gradient."""
        return not any(row.trains(objective) for row in self.rows)


def success_rate(groups: list[Group]) -> float | None:
    """Share of successes among the known rollouts; None if nothing is known."""
    known = sum(g.known for g in groups)
    return sum(g.successes for g in groups) / known if known else None
