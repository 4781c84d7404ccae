"""The reward `math_verify`: the plain library, so that numbers can be compared with others'.

Gold and answer are parsed as the library's own examples do (the gold in dollars, the answer in a
box), with its default extraction. Only its timeouts are off: they use SIGALRM, and the pool has its
own. What `math` adds and refuses is in docs/verification.md.
"""

from __future__ import annotations

from hapo_core.verify.verdict import Verdict


def grade(gold: str, answer: str) -> tuple[Verdict, str]:
    """The library's verdict; BAD_GOLD or UNPARSED where it finds nothing to compare."""
    from math_verify import parse, verify  # sympy: only in workers

    golds = parse(f"${gold.strip().strip('$')}$", parsing_timeout=None)
    if not golds:
        return Verdict.BAD_GOLD, "math-verify finds no gold"
    answers = parse(f"\\boxed{{{answer}}}", parsing_timeout=None)
    if not answers:
        return Verdict.UNPARSED, "math-verify finds no answer"
    same = verify(golds, answers, timeout_seconds=None)
    return (Verdict.CORRECT if same else Verdict.WRONG), "math-verify"
