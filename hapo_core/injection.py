"""Synthetic Success Injection (SSI): the worst rollout of a group gives its place to the teacher
trace (METHOD 3, step 3). `inject` does it; whether it is done is the gate's to say
(`hapo_core.gate`) and the method's (`hapo_core.methods`)."""

from __future__ import annotations

from collections.abc import Sequence

from hapo_core.advantage import AdvantageKind, group_advantages
from hapo_core.gate import Reading
from hapo_core.groups import Group
from hapo_core.objective import TeacherBaseline, TrainRow
from hapo_core.rng import Purpose, generator
from hapo_core.rows import policy_row, teacher_row


def inject(
    group: Group,
    rewards: Sequence[float | None],
    reading: Reading,
    kind: AdvantageKind,
    seed: int,
    round_index: int,
    baseline: TeacherBaseline = TeacherBaseline.JOINT,
) -> tuple[tuple[TrainRow, ...], int]:
    """The rows of a group that the teacher enters, and the index of the rollout that made room.

    Args:
        group: has a trace and at least one known reward; its own rewards say which is the worst.
        rewards: what the advantages are made of (the group's, or with a penalty on long ones).
        reading: the gate's, for the weight of the teacher row.
        kind: of the advantages; they are those of all N rewards, the teacher's 1 among them.
        seed, round_index: key of the tie-break among equally bad rollouts.
        baseline: `own`: the rollouts that stay are compared among themselves (METHOD 9); the
            trace's advantage is the same in both.
    """
    replaced = worst_rollout(group.rewards, seed, round_index, group.prompt.prompt_id)
    assert replaced is not None  # some reward is known
    advantages = group_advantages(injected_rewards(rewards, replaced), kind)
    if baseline is TeacherBaseline.OWN:
        own = group_advantages([r for j, r in enumerate(rewards) if j != replaced], kind)
        own.insert(replaced, advantages[replaced])
        advantages = own
    rows = [policy_row(group, j, advantage) for j, advantage in enumerate(advantages)]
    rows[replaced] = teacher_row(group, advantages[replaced], reading)  # the trace takes its place
    return tuple(rows), replaced


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
