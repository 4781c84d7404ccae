"""Prompts that the run brought from nothing to solved, and those that it lost: first against last
visit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hapo_core.stats.visits import Visit, by_prompt

BINS = ("none", "up to half", "over half", "all")
"""Of a visit's success rate S / known: 0, (0, 1/2], (1/2, 1), 1."""


@dataclass(frozen=True)
class Graduation:
    """Prompts with two known visits or more, by the bins of the first and of the last of them.

    `counts[i][j]`: prompts whose first visit was in bin i and whose last in bin j; `helped[i]`: of
    the prompts of bin i, those into whose groups the teacher came at least once.
    """

    counts: tuple[tuple[int, ...], ...]
    helped: tuple[int, ...]

    @property
    def prompts(self) -> int:
        """All that are counted."""
        return sum(map(sum, self.counts))

    @property
    def solved(self) -> int:
        """From none right to more than half."""
        return sum(self.counts[0][2:])

    @property
    def lost(self) -> int:
        """From more than half right to none."""
        return sum(row[0] for row in self.counts[2:])


def graduation(visits: Iterable[Visit]) -> Graduation | None:
    """Count first against last visits.

    Args:
        visits: all of a run, in any order; those without a known reward are passed over.
    Returns:
        None where no prompt was visited twice.
    """
    known = by_prompt(visit for visit in visits if visit.known)
    again = [ordered for ordered in known if len(ordered) > 1]
    if not again:
        return None
    counts = [[0] * len(BINS) for _ in BINS]
    helped = [0] * len(BINS)
    for ordered in again:
        first, last = _bin(ordered[0]), _bin(ordered[-1])
        counts[first][last] += 1
        helped[first] += any(visit.decision == "injected" for visit in ordered)
    return Graduation(tuple(map(tuple, counts)), tuple(helped))


def _bin(visit: Visit) -> int:
    if visit.successes == 0:
        return 0
    if visit.successes == visit.known:
        return 3
    return 1 if 2 * visit.successes <= visit.known else 2
