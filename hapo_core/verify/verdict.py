"""The words of verification: jobs, verdicts, settings, and the one map from verdict to reward."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hapo_core.errors import ConfigError

REWARDS = ("math", "exact", "reasoning_gym")
"""The rewards that ship with hapo."""


class Verdict(StrEnum):
    """What is known about a response. TIMEOUT, BAD_GOLD and ERROR mean: unknown, not wrong."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # no final mark, or a marked answer that is not mathematics
    TRUNCATED = "truncated"  # cut at the length limit before a complete final answer
    TIMEOUT = "timeout"  # the wall limit ran out twice, the second time alone
    BAD_GOLD = "bad_gold"  # the reference answer cannot be read
    ERROR = "error"  # the grader crashed or ran out of memory, twice


@dataclass(frozen=True)
class Verification:
    """One verdict with the answer it is about.

    Args:
        verdict: the outcome.
        extracted: the final answer as written in the response; None where there is none.
        detail: the name of the rule that decided, or what went wrong.
    """

    verdict: Verdict
    extracted: str | None
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """One response to verify.

    Args:
        key: any name; it is carried for the caller and does not influence the verdict.
        gold: the reference answer, without a box (dollar signs around it are allowed).
        response: the whole response, thought included.
        truncated: whether generation stopped at the length limit.
        mark: how the source marks a final answer: "box" or "####".
        kind: the reward that grades this job (see `VerifierSettings.kind`); None is the pool's.
    """

    key: str
    gold: str
    response: str
    truncated: bool = False
    mark: str = "box"
    kind: str | None = None


@dataclass(frozen=True)
class VerifierSettings:
    """How responses are verified.

    Args:
        kind: "math", "exact", "reasoning_gym", or "module:function" naming a
            `hapo_core.verify.domains.Grader`; the reward of jobs that name none themselves.
        workers: grading processes.
        timeout_seconds: wall limit of one attempt at one job; fractions are allowed.
        memory_mb: address-space limit of one worker, in MiB.
        require_box: a response without its mark is UNPARSED; otherwise a stated answer
            ("the answer is 5") or a closing formula is accepted too.

    Raises:
        ConfigError: a value out of range.
    """

    kind: str = "math"
    workers: int = 2
    timeout_seconds: float = 5.0
    memory_mb: int = 2048
    require_box: bool = True

    def __post_init__(self) -> None:
        if self.kind not in REWARDS and self.kind.count(":") != 1:
            raise ConfigError(
                f"there is no verifier {self.kind!r}",
                remedy=f"use {', '.join(REWARDS)}, or module:function of your own grader",
            )
        if self.workers < 1 or self.timeout_seconds <= 0 or self.memory_mb < 256:
            raise ConfigError(
                "a verifier needs workers >= 1, timeout_seconds > 0 and memory_mb >= 256",
                where=repr(self),
            )


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
