"""One verifier for traces, rollouts and benchmarks. Conventions: docs/verification.md."""

from hapo_core.verify.extract import extract_answer
from hapo_core.verify.grade import grade
from hapo_core.verify.pool import VerifierPool
from hapo_core.verify.verdict import (
    Job,
    Verdict,
    Verification,
    VerifierSettings,
    reward_of,
)

__all__ = [
    "Job",
    "Verdict",
    "Verification",
    "VerifierPool",
    "VerifierSettings",
    "extract_answer",
    "grade",
    "reward_of",
]
