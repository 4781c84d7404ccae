"""Find the final answer of a response. Strings only, linear time, no mathematics."""

from __future__ import annotations

import re
from dataclasses import dataclass

_THOUGHT_END = re.compile(r"</think>|</thought>|</thinking>|<\|end_of_thought\|>")
_THOUGHT_BEGIN = re.compile(r"<think>|<thought>|<thinking>|<\|begin_of_thought\|>")
_SOLUTION_BEGIN = "<|begin_of_solution|>"
_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_ANY_BOX = re.compile(r"\\boxed|\\fbox")
_BARE_BOX = re.compile(
    r"\\{1,2}(?:boxed|fbox)\s*(?=[^\s{a-zA-Z])(-?[0-9][0-9,.]*(?<![,.])"
    r"|\\frac\s*\w\w|\\[a-zA-Z]+|\S)"
    r"|\\{1,2}(?:boxed|fbox)\s+([A-Za-z])(?![A-Za-z])"
)
"""`\\boxed 5`: TeX takes the next digit, writers mean the whole number."""
_PLACEHOLDER = re.compile(
    r"(?:\s|\\[;,! ]|\.\.\.|…|\\l?dots|\\text\{|\}|your|the|"
    r"final|answer|here|result)*",
    re.IGNORECASE,
)
"""The content of a box that only repeats the instruction."""
_SEPARATOR = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])|[,;]")
_SENTENCE_END = re.compile(r"[.!?]\s|\n\s*\n|(?:[A-Za-z]{3,}\W+){3}[A-Za-z]{3,}")
_DERIVED = re.compile(
    r"(?<![A-Za-z])(?:no|not|wait|but|actually|correct(?:ion|ed|ing)?|instead|"
    r"recheck(?:ing|ed)?|mistake|rather|"
    r"oops|hmm|however|reflection|sorry|wrong|check(?:ing)?|careful(?:ly)?|"
    r"let me|revis\w+|updat\w+|should be|"
    r"reconsider\w*|second thoughts?|so|hence|thus|therefore|then|which|gives?|"
    r"implies|since|because|we|get|have)"
    r"(?![A-Za-z])|\\(?:implies|Rightarrow|Longrightarrow|therefore|to)(?![A-Za-z])|=[^=]*=|[⇒→∴]",
    re.IGNORECASE,
)
"""What leads from one box to the next: the earlier one holds an intermediate result, or an error
that the later one corrects."""
_DENIED_BEFORE = re.compile(
    r"(?:(?<![A-Za-z])(?:not|never|neither|nor|cannot be|rather than|instead of)|n['’]t(?: be)?"
    r"|(?:\\ne(?:q)?|\\not\s*=|≠|(?<=\s)!=))(?![A-Za-z])"
    r"[^\S\n]*(?:equal(?:s| to)?|simply|just|=|:)?(?:[^\S\n]|[$*({\[\\])*\Z",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"[\s$*)}\]\\]*(?:\?[\s$*]*(?:no|nope|wrong)(?![A-Za-z])"
    r"|(?:is|was|would be|must be|seems|looks)\s+(?:wrong|incorrect|false|a mistake|an error"
    r"|not (?:the |a |my |our |correct|right|it|true|valid)|n't )"
    r"|is(?:n't| not)[\s$*)}\]\\]*(?:[.,;]|$))",
    re.IGNORECASE,
)
"""`not \\boxed{5}`, `\\boxed{5}? No.`, `\\boxed{5} is wrong`: a box that the text takes back.
A word on the line before says nothing of it (`more touch the ceiling than not`)."""
_NEAR = 40
"""Characters beside a box in which it may be denied."""
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_CLOSE_BY, _JOIN_LIMIT = 10, 60
"""Boxes this many characters apart are one list; up to the second number if a comma or a word
joins them and there is no sentence between."""
_HASH_MARK = re.compile(r"####[ \t]*([^\n]*)")
_STATED = re.compile(
    r"(?:answer|result|solution)\s*(?:\*\*)?\s*(?:is|:|=)\s*:?\s*(?:\*\*)?\s*([^\n]+)",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_TAIL = 2000
"""Without a mark, only this many last characters are searched for a stated answer."""
_SPECIAL_TOKEN = re.compile(r"<[|｜][^<>\n]{1,40}[|｜]>|</s>|<eos>")


@dataclass(frozen=True)
class Extraction:
    """A final answer, and whether the response carried the mark that it was asked for."""

    answer: str | None
    marked: bool


def final_text(response: str) -> str:
    """What follows the thought: text after the last closing tag, up to a thought opened anew.

    A thought that is never closed hides all that follows it.
    """
    end = 0
    for match in _THOUGHT_END.finditer(response):
        end = match.end()
    text = response[end:]
    opened = _THOUGHT_BEGIN.search(text)
    if opened:
        text = text[: opened.start()]
    solution = text.rfind(_SOLUTION_BEGIN)
    return text[solution + len(_SOLUTION_BEGIN) :] if solution >= 0 else text


def boxed(text: str) -> list[tuple[int, int, str]]:
    """All outermost balanced boxes as (start, end, content), in one pass over the text.

    A box that only repeats the instruction (`\\boxed{}`, `\\boxed{answer}`) does not count beside
    others; boxes without braces only where there are no others. Escaped braces do not count,
    unless no box closes otherwise (`\\boxed{185\\}`). An unclosed box is no box, one inside it is.
    """
    first = _ANY_BOX.search(text)
    if first is None:
        return []
    place = first.start()  # braces before the first box close nothing after it
    found = _boxed(text, False, place) or _boxed(text, True, place)
    if found:
        return [box for box in found if not _PLACEHOLDER.fullmatch(box[2])] or found
    return [(m.start(), m.end(), m.group(1) or m.group(2)) for m in _BARE_BOX.finditer(text)]


def _boxed(text: str, escaped_close: bool, place: int) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    stack: list[tuple[int, int]] = []  # (start of the command or -1 for a plain brace, content)
    for match in _BOX_TOKEN.finditer(text, place):
        token = match.group()
        if token == "}" or (escaped_close and token == "\\}"):
            if stack:
                start, content = stack.pop()
                if start >= 0:
                    while found and found[-1][0] > start:
                        found.pop()
                    found.append((start, match.end(), text[content : match.start()]))
        elif token == "{" or (escaped_close and token == "\\{"):
            stack.append((-1, match.end()))
        elif token[-1] == "{" and len(token) > 2:
            stack.append((match.start(), match.end()))
    return found


def joined_boxes(text: str) -> str | None:
    """The last box that is not denied; neighbours joined by a comma, `and` or `or` form one list
    with it."""
    boxes = boxed(text)
    while boxes and _denied(text, *boxes[-1][:2]):
        boxes.pop()
    if not boxes:
        return None
    start, _, content = boxes[-1]
    parts = [content.strip(" \n")]
    for earlier_start, earlier_end, earlier in reversed(boxes[:-1]):
        between = text[earlier_end:start]
        if not _joined(between):
            break
        if earlier.strip(" \n") not in parts:
            parts.append(earlier.strip(" \n"))
        start = earlier_start
        if len(parts) > 20:
            break
    return ", ".join(reversed(parts))


def _denied(text: str, start: int, end: int) -> bool:
    """Whether the text beside a box says that it is not the answer."""
    before = text[max(0, start - _NEAR) : start]
    return bool(_DENIED_BEFORE.search(before) or _DENIED_BEHIND.match(text[end : end + _NEAR]))


def _joined(between: str) -> bool:
    if _DERIVED.search(between):
        return False
    if len(between) <= _CLOSE_BY:
        return True
    between = _COMMAND.sub(" ", between)
    if len(between) > _JOIN_LIMIT or _SENTENCE_END.search(between):
        return False
    return bool(_SEPARATOR.search(between))


def _hash_marked(text: str) -> str | None:
    last = None
    for match in _HASH_MARK.finditer(text):
        last = match.group(1)
    return _SPECIAL_TOKEN.sub("", last).strip() if last is not None else None


def _unmarked(text: str) -> str | None:
    """The last stated answer, else the last formula, else the last line, of the text's tail."""
    tail = _SPECIAL_TOKEN.sub("", text[-_TAIL:]).strip()
    stated = _STATED.findall(tail)
    last = stated[-1] if stated else tail
    formulas = _FORMULA.findall(last)
    if formulas:
        return next((part.strip() for part in formulas[-1] if part.strip()), None)
    line = last.rsplit("\n", 1)[-1].strip().strip("*#").rstrip(".").strip()
    return line or None


def extract_answer(response: str, mark: str = "box", require_mark: bool = True) -> Extraction:
    """The final answer of a response.

    Args:
        response: the whole response, thought included.
        mark: "box" takes the last balanced `\\boxed{}` or `\\fbox{}` after the thought; "####"
            takes what follows the last `####` on its line, and a box where that is missing.
        require_mark: without it, an unmarked answer is looked for in the last 2,000 characters.

    Returns:
        The answer (None if there is none) and whether it was marked.
    """
    text = final_text(response)
    answer = _hash_marked(text) if mark == "####" else None
    if not answer:
        answer = joined_boxes(text)
    if answer is not None:
        return Extraction(answer, True)
    return Extraction(None if require_mark else _unmarked(text), False)
