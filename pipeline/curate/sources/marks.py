"""How a source's solutions mark their final answer, and how that becomes the box of the reward.

A trace is imitated as it stands. One that ends "The answer is 72." would teach an ending that the
reward of rollouts does not read, so the marked answer is written once more as a last line with a
box, as `gsm8k` does it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hapo_core.errors import ConfigError
from hapo_core.verify import extract_answer
from hapo_core.verify.extract import final_text

BOX, HASHES, LAST_NUMBER = "box", "####", "last_number"
STATED = r"(?i)answer\s*(?:is|:)\s*:?\s*(.+?)\s*$"
"""A closing sentence like "The answer is 72."; what `hapo data peek` tries."""
_NUMBER = re.compile(r"(?<![\w.,])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|(?<=\$)\d[\d,]*")
_HASH_LINE = re.compile(r"\n?####[ \t]*[^\n]*\s*$")
_MARKUP = re.compile(r"^(?:\*\*|\$)+|(?:\*\*|\$|\.(?=$))+$")


@dataclass(frozen=True)
class Mark:
    """How a final answer is found in a solution: `box`, `####`, `last_number`, or a pattern."""

    name: str
    pattern: re.Pattern[str] | None = None

    def find(self, solution: str) -> str:
        """The marked answer; empty where there is none."""
        if self.name in (BOX, HASHES):
            return extract_answer(solution, self.name).answer or ""
        text = final_text(solution)
        if self.pattern is None:
            numbers = _NUMBER.findall(text)
            return numbers[-1].replace(",", "") if numbers else ""
        found = [match.group(1) for match in self.pattern.finditer(text)]
        return bare(found[-1] or "") if found else ""

    def boxed(self, solution: str) -> str:
        """The solution with its marked answer in a last box; unchanged where there is no mark, or
        where its own last box holds that answer already."""
        if self.name == BOX:
            return solution
        answer = self.find(solution)
        if not answer or extract_answer(solution).answer == answer:
            return solution
        kept = _HASH_LINE.sub("", solution) if self.name == HASHES else solution.rstrip()
        return f"{kept}\n\\boxed{{{answer}}}"


def bare(answer: str) -> str:
    """An answer without the full stop of its sentence, bold marks and dollar signs around it."""
    before, answer = None, answer.strip()
    while before != answer:
        before, answer = answer, _MARKUP.sub("", answer).strip()
    return answer


def parse_mark(value: str, where: str) -> Mark:
    """A mark by its name, or a regular expression with one group around the answer.

    Raises:
        ConfigError: neither of them.
    """
    if value in (BOX, HASHES, LAST_NUMBER):
        return Mark(value)
    remedy = "box, ####, last_number, or a regular expression with one group: 'answer is (.+)'"
    try:
        pattern = re.compile(value, re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            f"the mark {value!r} is no regular expression: {error}", where=where, remedy=remedy
        ) from error
    if pattern.groups != 1:
        raise ConfigError(
            f"the mark {value!r} has {pattern.groups} groups, not one around the answer",
            where=where,
            remedy=remedy,
        )
    return Mark(value, pattern)
