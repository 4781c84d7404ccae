"""Problems on their way through the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.curate.account import Account, Drop
from pipeline.curate.prompts import Ids


@dataclass(slots=True)
class Candidate:
    """A problem that no rule has dropped so far.

    `index` is its place among all rows read (traces point to it); `traces` counts its raw traces.
    """

    index: int
    problem_id: str
    problem: str
    answer: str
    source: str
    row: int
    kind: str | None = None
    refusal: str | None = None
    traces: int = 0
    reward: str = "math"
    """What grades its responses."""
    generated: bool = False
    """From a generator that yields no duplicates; the near-duplicate rule leaves it alone."""
    split: str = "train"
    prompt_ids: Ids | None = None


Verdict = tuple[str, str] | None
"""(reason, detail) of a rule that drops a problem, or None."""


def apply_rule(
    account: Account,
    name: str,
    candidates: Iterable[Candidate],
    judge: Callable[[Candidate], Verdict],
) -> list[Candidate]:
    """Run one rule over all candidates in order; the dropped are counted and listed."""
    pool = list(candidates)
    rule = account.rule(name, "problems", len(pool))
    kept: list[Candidate] = []
    for candidate in pool:
        verdict = judge(candidate)
        if verdict is None:
            kept.append(candidate)
        else:
            account.drop(rule, drop_of(candidate, name, *verdict))
    return kept


def drop_of(candidate: Candidate, rule: str, reason: str, detail: str) -> Drop:
    """The line of `dropped.parquet` for a candidate."""
    return Drop(
        candidate.problem_id,
        candidate.source,
        candidate.row,
        rule,
        reason,
        detail,
        candidate.problem,
    )
