"""Scores of several seeds as one sample of problems.

The unit of uncertainty is the problem (hapo_core.stats.benchmark). Seeds that were measured on the
same problems give one score per problem, the mean over those seeds; seeds with problems of their
own add theirs. What the seeds of a method share beyond that (one starting policy) stays outside of
every interval here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hapo_core.errors import DataError


def pooled_scores(
    by_seed: Mapping[int, Mapping[str, float]], problems: Mapping[int, str]
) -> dict[str, float]:
    """One score per different problem.

    Args:
        by_seed: mean correctness by problem id, for each seed.
        problems: what identifies a seed's set of problems (a hash of texts and golds).
    Returns:
        Scores keyed by "set:problem id"; align two methods by these keys.
    Raises:
        DataError: seeds of one set that do not cover the same problems, or no seed.
    """
    sets: dict[str, list[int]] = {}
    for seed in by_seed:
        sets.setdefault(problems[seed], []).append(seed)
    if not sets:
        raise DataError("no seed to pool")
    found: dict[str, float] = {}
    for name, seeds in sets.items():
        first = by_seed[seeds[0]]
        for seed in seeds[1:]:
            if by_seed[seed].keys() != first.keys():
                raise DataError(f"seeds {seeds[0]} and {seed} scored different problems of one set")
        for problem in first:
            found[f"{name}:{problem}"] = _mean([by_seed[seed][problem] for seed in seeds])
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
