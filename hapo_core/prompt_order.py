"""Which prompts a round visits: a pure function of (seed, round)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from hapo_core.rng import Purpose, generator


def prompts_of_round(
    prompt_ids: Sequence[str],
    per_round: int,
    seed: int,
    round_index: int,
    purpose: Purpose = Purpose.PROMPT_ORDER,
) -> list[str]:
    """The ids of round `round_index` (counted from 0), all different.

    Rounds walk through one shuffled pass over all prompts after another. The order of a pass
    depends on (seed, pass) and on the set of ids, not on their order in the file. The few ids that
    do not fill a last round are left out of that pass; every pass leaves out others. `purpose`
    keeps walks apart that must not go in step (the expert batches of CHORD).
    """
    ids = sorted(prompt_ids)
    per_round = min(per_round, len(ids))
    number, k = divmod(round_index, len(ids) // per_round)
    order = _order(len(ids), seed, number, purpose)
    return [ids[i] for i in order[k * per_round : (k + 1) * per_round]]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, number: int, purpose: Purpose) -> tuple[int, ...]:
    rng = generator(seed, purpose, number)
    return tuple(int(i) for i in rng.permutation(count))
