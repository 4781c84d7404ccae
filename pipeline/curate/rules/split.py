"""The seeded split, stratified by source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hapo_core.rng import Purpose, key_of
from pipeline.curate.problems import Candidate


def assign_splits(candidates: Sequence[Candidate], share: float, seed: int) -> dict[str, int]:
    """Mark round(share x n) problems of every source as `validation`, chosen by seeded keys.

    The choice depends on (seed, problem id) alone, so neither order nor other sources move it.

    Returns:
        How many problems each split has.
    """
    by_source: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_source[candidate.source].append(candidate)
    for members in by_source.values():
        ordered = sorted(members, key=lambda c: key_of(seed, Purpose.SPLIT, prompt_id=c.problem_id))
        for candidate in ordered[: round(share * len(ordered))]:
            candidate.split = "validation"
    held = sum(c.split == "validation" for c in candidates)
    return {"train": len(candidates) - held, "validation": held}
