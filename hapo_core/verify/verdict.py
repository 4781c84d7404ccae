"""The words of verification: jobs and settings; verdicts, and the reward that each is,
from `hapo_core/verdicts.py`."""

from __future__ import annotations

from dataclasses import dataclass

from hapo_core.exchange import exchanged
from hapo_core.verdicts import Verdict, reward_of
from hapo_core.verifier_settings import REWARDS, VerifierSettings

__all__ = ["REWARDS", "Job", "Verdict", "Verification", "VerifierSettings", "reward_of"]


@exchanged
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
