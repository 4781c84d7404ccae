"""DAPO's two changes to what is sampled and rewarded (arXiv 2503.14476, METHOD 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hapo_core.groups import Group, Request
from hapo_core.rng import Purpose, generator


@dataclass(frozen=True)
class DynamicSampling:
    """Groups whose known rewards are all equal are set aside and other prompts drawn for them.

    Args:
        prompt_ids: all training prompts.
        groups: how many mixed groups a round needs (fewer if there are fewer prompts).
        max_batches: a round samples at most `max_batches` x `groups` prompts, its first ones
            counted; then it trains on the mixed groups that it has.
        seed: keys the order in which a round draws prompts.
    """

    prompt_ids: tuple[str, ...]
    groups: int
    max_batches: int
    seed: int

    def refills(self, sampled: Sequence[Group], size: int, round_index: int) -> list[Request]:
        """As many prompts as mixed groups are missing. The order is a function of (seed, round,
        the round's first prompts), so a wave continues where the last one stopped."""
        first = {g.prompt.prompt_id for g in sampled[: self._wanted]}
        others = sorted(set(self.prompt_ids) - first)
        order = generator(self.seed, Purpose.REFILL, round_index).permutation(len(others))
        drawn = len(sampled) - len(first)
        missing = self._wanted - sum(g.mixed for g in sampled)
        allowed = self.max_batches * self._wanted - len(sampled)
        take = order[drawn : drawn + max(0, min(missing, allowed))]
        return [Request(others[int(i)], size) for i in take]

    @property
    def _wanted(self) -> int:
        return min(self.groups, len(self.prompt_ids))


@dataclass(frozen=True)
class SoftOverlong:
    """A penalty that grows from 0 to `weight` over the last `buffer` tokens of the budget.

    DAPO adds up to -1 to rewards of +1 and -1. Ours are 1 and 0, half as far apart, and group
    advantages with std do not change under an affine map of the rewards: weight .5 is DAPO's.
    """

    max_tokens: int
    buffer: int
    weight: float = 0.5

    def penalty(self, tokens: int) -> float:
        """In [-1, 0]: 0 up to max_tokens - buffer, -1 at max_tokens."""
        return -min(1.0, max(0.0, (tokens - (self.max_tokens - self.buffer)) / self.buffer))

    def rewards(self, group: Group) -> list[float | None]:
        """Rewards of the rollouts with the penalty; unknown ones stay unknown."""
        return [
            None if s.reward is None else s.reward + self.weight * self.penalty(s.rollout.length)
            for s in group.samples
        ]
