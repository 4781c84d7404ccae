"""Visits of prompts: what a run's groups say when they are followed prompt by prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Visit:
    """One visit of a prompt. `decision`: of `hapo_core.gate.Decision`, as text."""

    prompt_id: str
    round: int
    successes: int
    known: int
    decision: str


def by_prompt(visits: Iterable[Visit]) -> list[list[Visit]]:
    """The visits of each prompt in the order of rounds; prompts in that of their first visit."""
    found: dict[str, list[Visit]] = {}
    for visit in sorted(visits, key=lambda v: v.round):
        found.setdefault(visit.prompt_id, []).append(visit)
    return list(found.values())
