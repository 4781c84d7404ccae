"""A reward of one's own, so that every rollout of the kill tests goes through a worker process."""

import time

from hapo_core.verify.verdict import Verdict


def grade(gold: str, answer: str) -> tuple[Verdict, str]:
    """Equal text is correct; takes a few milliseconds, so that a kill finds it at work."""
    time.sleep(0.003)
    same = gold.strip() == answer.strip()
    return (Verdict.CORRECT if same else Verdict.WRONG), "equal text"
