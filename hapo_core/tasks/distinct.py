"""Different problems of a task, one candidate after another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

import numpy as np

from hapo_core.errors import ConfigError
from hapo_core.rng import Purpose, generator

TRIES = 20
"""Candidates drawn for each problem that is needed; short ones repeat themselves."""


class Posed(Protocol):
    """Anything with the text of a problem."""

    @property
    def problem(self) -> str:
        """What the policy is asked; two problems are the same where this is."""
        ...


P = TypeVar("P", bound=Posed)


def distinct(
    draw: Callable[[np.random.Generator, int], P],
    count: int,
    seed: int,
    stream: str,
    steps: tuple[int, int],
    what: str,
    taken: Collection[str] = (),
) -> list[P]:
    """`count` different problems, none of whose texts is in `taken`.

    The k-th candidate depends only on (seed, stream, k) and on how many were found before it;
    lengths cycle through the range.

    Args:
        draw: one problem from a generator and a number of steps.
        stream: names the draws; each split of a task has its own.
        steps: the fewest and the most of a problem.
        what: the plural of the problems, for messages.
    Raises:
        ConfigError: the range is empty, or there are not so many different problems.
    """
    fewest, most = steps
    if not 1 <= fewest <= most:
        raise ConfigError(
            f"{what} need 1 <= min_steps <= max_steps, got {fewest} and {most}",
            remedy=f"mend min_steps and max_steps of the {what} source",
        )
    seen, found = set(taken), list[P]()
    for k in range(TRIES * count + 100):
        if len(found) == count:
            break
        rng = generator(seed, Purpose.TASK, prompt_id=stream, sample=k)
        problem = draw(rng, fewest + len(found) % (most - fewest + 1))
        if problem.problem not in seen:
            seen.add(problem.problem)
            found.append(problem)
    if len(found) < count:
        raise ConfigError(
            f"only {len(found)} different {what} of {fewest}-{most} steps were found",
            remedy=f"ask for fewer than {count} problems or for longer {what}",
        )
    return found
