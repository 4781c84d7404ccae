"""Problems whose answer no rule can grade: proofs, multiple choice, several parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.curate.account import Account
from pipeline.curate.problems import Candidate, apply_rule
from pipeline.curate.text import without_drawings

_NO_ANSWER = {
    *("proof", "notfound", "not found", "none", "n/a", "see solution", "problem not solved"),
    *("nan", "null", "#n/a"),  # empty cells, as pandas, JSON and tables write them
}
_PROVE = re.compile(
    r"(?:^|[.,;:!?)$\]]\s*|\n|\b(?:to|then|and|please|must)\s+)"
    r"(?:prove|show|demonstrate|verify|disprove)\b(?!\s+(?:your|all|the)\s+(?:work|steps))",
    re.IGNORECASE,
)
_ASK = re.compile(
    r"\b(?:find|determine|compute|calculate|evaluate|what|how\s+(?:many|much|long|far|old)"
    r"|solve|simplify|give\s+the|(?:for\s+|^|[.?!]\s+)which|which\s+of)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?<![\w\\])\(\s*([A-E])\s*\)"  # (A), but neither f(A) nor the math delimiter \(A\)
    r"|(?:^|(?<=[\s$&~;,}]))([A-E])\s*(?:[.:](?!\d)|[\uff0e\uff1a\u3001])"  # A. or A:
    r"|(?:^|(?<=[\s$&~;,}]))([A-E])\)"  # A)
)
_PART = re.compile(
    r"(?:^|[\s;,.:$>])(?:\\text\{)?\(\s*(i{1,3}|iv|[a-e]|[1-5])\s*\)\s*(?=\S)"
    r"|(?:^|\n|[.;:?!]\s+)([a-e]|[1-5])\)\s*(?=\S)"
)
_PART_ORDERS = (("a", "b"), ("1", "2"), ("i", "ii"))


def drop_refused(account: Account, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Drop what the source itself calls unfit."""
    return apply_rule(
        account,
        "flags of the source",
        candidates,
        lambda c: (c.refusal, c.problem) if c.refusal else None,
    )


def drop_ungradable(account: Account, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Drop proofs, multiple choice, and questions with several parts."""
    return apply_rule(account, "not gradable by rule", candidates, _judge)


def _judge(candidate: Candidate) -> tuple[str, str] | None:
    if candidate.generated:
        return None
    reason = ungradable(candidate.problem, candidate.answer, candidate.kind)
    return (reason, f"{candidate.answer} <- {candidate.problem}") if reason else None


def says_none(answer: str) -> bool:
    """Whether an answer is none: words for one that is missing."""
    return answer.strip().strip("$").casefold() in _NO_ANSWER


def ungradable(problem: str, answer: str, kind: str | None = None) -> str | None:
    """Why no rule can grade a problem, or None.

    Args:
        kind: `proof` or `choice` where the source says so.
    """
    if says_none(answer):
        return "no final answer"
    problem = without_drawings(problem)
    if kind == "proof" or is_proof(problem):
        return "proof"
    if kind == "choice" or shows_options(problem):
        return "multiple choice"
    if has_parts(problem, answer):
        return "several parts"
    return None


def is_proof(problem: str) -> bool:
    """It tells to prove or show something and asks for nothing else."""
    return bool(_PROVE.search(problem)) and not _ASK.search(problem)


def shows_options(problem: str) -> bool:
    """Options A, B and C stand in the text in this order: a response may name a letter."""
    letters = [
        m.group(1) or m.group(2) or m.group(3)
        for m in _OPTION.finditer(problem)
        if not m.group(3) or not _inside_parentheses(problem, m.start())
    ]
    return "ABC" in "".join(letters)


def _inside_parentheses(problem: str, at: int) -> bool:
    before = problem[max(0, at - 60) : at]
    return before.count("(") > before.count(")")


def has_parts(problem: str, answer: str) -> bool:
    """The answer lists marked parts, or at least two marked parts of the problem ask something."""
    if _parts(answer):
        return True
    if not _parts(problem):
        return False
    marks = list(_PART.finditer(problem))
    ends = [m.start() for m in marks[1:]] + [len(problem)]
    asked = [problem[m.end() : end] for m, end in zip(marks, ends, strict=True)]
    return sum(bool(_ASK.search(part) or _PROVE.search(part)) for part in asked) >= 2


def _parts(text: str) -> bool:
    found = [a or b for a, b in _PART.findall(text)]
    for first, second in _PART_ORDERS:
        if first in found and second in found[found.index(first) + 1 :]:
            return True
    return False
