"""Synthetic Success Injection: the worst rollout of a group gives its place to the teacher trace
(METHOD 3, step 3)."""

from __future__ import annotations

from collections.abc import Sequence

from hapo_core.draws import Purpose, generator


def worst_rollout(
    rewards: Sequence[float | None], seed: int, round_index: int, prompt_id: str
) -> int | None:
    """Index of the rollout to replace: argmin of the known rewards, ties broken uniformly by the
    counter-based generator; None if no reward is known."""
    known = [r for r in rewards if r is not None]
    if not known:
        return None
    lowest = min(known)
    candidates = [j for j, r in enumerate(rewards) if r == lowest]
    rng = generator(seed, Purpose.TIE_BREAK, round_index, prompt_id)
    return candidates[int(rng.integers(len(candidates)))]


def injected_rewards(
    rewards: Sequence[float | None], replaced: int, teacher_reward: float = 1.0
) -> list[float | None]:
    """Rewards of the group, still of size N, with the teacher's in place of `replaced`'s."""
    return [teacher_reward if j == replaced else r for j, r in enumerate(rewards)]
