"""What is known about a response, and the one map from it to a reward; no verifier is loaded."""

from __future__ import annotations

from enum import StrEnum

from hapo_core.exchange import exchanged


@exchanged
class Verdict(StrEnum):
    """What is known about a response. TIMEOUT, BAD_GOLD and ERROR mean: unknown, not wrong."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # no final mark, or a marked answer that is not mathematics
    TRUNCATED = "truncated"  # cut at the length limit before a complete final answer
    TIMEOUT = "timeout"  # the wall limit ran out twice, the second time alone
    BAD_GOLD = "bad_gold"  # the reference answer cannot be read
    ERROR = "error"  # the grader crashed or ran out of memory, twice


def reward_of(verdict: Verdict) -> float | None:
    """The reward of a verdict: 1 for correct, 0 for an answer that is wrong, absent or cut.

    Returns:
        None where the truth is unknown (timeout, bad gold, error): such a rollout is left out,
        it is not counted as a failure.
    """
    if verdict is Verdict.CORRECT:
        return 1.0
    if verdict in (Verdict.WRONG, Verdict.UNPARSED, Verdict.TRUNCATED):
        return 0.0
    return None


VERDICTS = tuple(v.value for v in Verdict)
"""All of them as texts, in the order of tables and pages."""

UNKNOWN = tuple(v.value for v in Verdict if reward_of(v) is None)
"""Those that say nothing about the response."""
