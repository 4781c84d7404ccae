"""The domain `exact`: an answer is right if it is the gold, whitespace aside."""

from __future__ import annotations

from hapo_core.verify.verdict import Verdict


def grade(gold: str, answer: str) -> tuple[Verdict, str]:
    """Compare after collapsing runs of whitespace and trimming the ends."""
    expected = " ".join(gold.split())
    if not expected:
        return Verdict.BAD_GOLD, "the gold is empty"
    same = expected == " ".join(answer.split())
    return (Verdict.CORRECT if same else Verdict.WRONG), "exact"
