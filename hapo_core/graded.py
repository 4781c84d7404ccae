"""A rollout with its grade: the two stay together from grading to the rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hapo_core.exchange import exchanged
from hapo_core.rollout.protocol import Rollout

if TYPE_CHECKING:  # what samples and plans must not load, nor depend on, what grades
    from hapo_core.verify import Verification


@exchanged
@dataclass(frozen=True)
class Graded:
    """One response and what was found of it.

    `reward` is 1 or 0, or None where the truth is unknown (timeout, bad gold, error).
    `verification`: None where something else than the verifier gave the reward.
    """

    rollout: Rollout
    reward: float | None
    verification: Verification | None = None

    @property
    def found(self) -> Verification:
        """What the verifier found.

        Raises:
            ValueError: the reward came from elsewhere.
        """
        if self.verification is None:
            raise ValueError(f"no verifier graded {self.rollout.key}")
        return self.verification


def graded(rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> tuple[Graded, ...]:
    """Rollouts with rewards that no verifier gave, one each."""
    return tuple(Graded(rollout, r) for rollout, r in zip(rollouts, rewards, strict=True))
