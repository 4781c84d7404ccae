"""One verifier for traces, rollouts and benchmarks. Conventions: docs/verification.md."""

from hapo_core.verify.extract import extract_answer
from hapo_core.verify.math.grade import grade
from hapo_core.verify.verdict import (
    Job,
    Verdict,
    Verification,
    VerifierSettings,
    reward_of,
)
from hapo_core.verify.workers.pool import VerifierPool

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
