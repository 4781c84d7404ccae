"""What stands behind an answer and says where it holds: `(x \\ge 1)`, ``for all x`.

It is taken off before the answers are compared, and compared by itself: a qualifier of one side
only is ignored where it says what a letter is (an integer, a real), and never where it restricts.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hapo_core.verify.math.text import compact

_RELATION = r"(?:<|>|\\(?:le|ge|ne|in|notin|leq|geq)(?![a-zA-Z])|=)"
_IN_PARENTHESES = re.compile(
    rf"^(?P<head>.*[^\s(,:+\-*/=])\s*,?\s*[(\[](?P<tail>[^()\[\]]*{_RELATION}[^()]*)[)\]]$",
    re.DOTALL,
)
_NAME_OF_EVENT = re.compile(r"(?:^|[^A-Za-z\\])(?:[A-Z]|Pr|f|\\[a-z]+)$")
_WORDS = re.compile(
    r"^(?P<head>.*?\S)\s*,?\s*(?:\\text\{\s*)?(?<![A-Za-z])(?P<word>for|where|when|if|with"
    r"|such that|given|provided)"
    r"(?:\s+that)?(?:\s+(?:some|any|all|every|each))?(?![A-Za-z])(?P<tail>.*)$",
    re.DOTALL,
)
_MEMBER = re.compile(
    r"^(?P<head>.*\S)\s*[,(;]\s*(?:\\text\{\s*(?:where|with|and)?\s*\})?\s*\(?"
    r"(?P<tail>[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\\in\s*(?:\\mathbb\s*\{?|\\text\{)?[A-Z].{0,12}?)\)?$",
    re.DOTALL,
)
_SET = (
    r"(?:\\mathbb\s*\{?\s*[ZNRCQ]\s*\}?|\\text\{[ZNR]\}|[ZNR])"
    r"(?:\s*[\^_]\s*\{?[+*\-\d>=]{1,2}\}?|\s*[+*])?"
)
_KIND = re.compile(
    rf"(?:[A-Za-z](?:_\{{?\w\}}?)?(?:\s*,\s*)?)*\s*(?:\\in\s*{_SET})?"
    r"|.*\b(?:integers?|reals?|real numbers?|"
    r"numbers?|constants?|parameters?|arbitrary|natural)\b.*",
    re.DOTALL,
)
_RESTRICTS = re.compile(
    r"(?<![A-Za-z])(?:odd|even|prime|composite|greater|less|larger|smaller|more|fewer|except|not|or|but"
    r"|unless|divisible|multiples?|between|least|most|above|below|distinct|squares?)(?![A-Za-z])"
    r"|(?<![_^\d])(?<![_^]\{)\d"
)
"""Words and numbers that leave out some of the values, or add another one."""
_SIGNED = re.compile(
    r"(?<![A-Za-z])(positive|negative|non-?\s?(?:negative|positive|zero))(?![A-Za-z])"
)
_LONE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_EACH = re.compile(
    rf"\s*(?:\\text\{{\s*)?(?<![A-Za-z])for (?:all|any|every|each|some)\s*\}}?"
    rf"\s*[A-Za-z]\s*\\in\s*{_SET}"
    r"(?=\s*(?:,|;|and |or |\\text|$))"
)
"""`for all x in R` behind one item of a list."""
_EACH_ITEM = re.compile(
    r"(?<=[\w)}])\s*(?:\\text\{\s*)?(?<![A-Za-z])for (?:all|any|every|each)\s*\}?\s*[A-Za-z]"
    r"(?=\s*(?:,|;|and |or )\s*[A-Za-z]\w*\s*(?:\([^()]*\)\s*)?=)"
)
"""`for all x` behind an item, where the next one begins as an equation."""


def split(text: str) -> tuple[str, str]:
    """(answer, qualifier) of a tidy text; the qualifier is empty where there is none."""
    text = _EACH_ITEM.sub("", _EACH.sub("", text))
    if text.count("\\forall") or text.count("\\exists") or "\\begin" in text:
        return text, ""
    parts = _split(text)
    if parts[1] and not _balanced(parts[0]):
        return text, ""
    return parts


def _split(text: str) -> tuple[str, str]:
    found = _IN_PARENTHESES.match(text)
    if found and not _NAME_OF_EVENT.search(found["head"]) and _balanced(found["head"]):
        return found["head"].strip(), found["tail"].strip()
    found = _MEMBER.match(text)
    if found and _balanced(found["head"]):
        return found["head"].rstrip(" ,(").lstrip(" ,"), found["tail"].strip()
    found = _WORDS.match(text)
    if found and re.search(r"[\w}]", found["head"]):
        head = found["head"].strip(" ,")
        tail = (
            found["tail"].replace("}", " ", 1) if "\\text{" in text[len(head) :] else found["tail"]
        )
        return re.sub(r"\\text\{\s*$", "", head).strip(" ,"), tail.strip(" .") or found["word"]
    return text, ""


def _balanced(text: str) -> bool:
    return all(text.count(a) == text.count(b) for a, b in ("()", "{}"))


def _bare(text: str) -> str:
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(
        r"(?<![A-Za-z\\])(?:is|are|be|an?|the|any|all|some|every|each|where|with|and)(?![A-Za-z])",
        " ",
        text,
    )
    return re.sub(r"[\s(){}$]+", " ", text).strip(" ,.;")


def harmless(qualifier: str) -> bool:
    """Whether it only says what a letter is, and restricts nothing."""
    if re.search(r"<|>|\\(?:le|ge|ne|notin|setminus)(?![a-z])|=|\d[\s)\]}]*$", qualifier):
        return False
    return bool(_KIND.fullmatch(_bare(qualifier))) and not _RESTRICTS.search(qualifier)


def stray(head: str, qualifier: str) -> bool:
    """Whether a qualifier only speaks of letters that its answer has not: `7t - 12, where T is`."""
    named = set(_LONE.findall(re.sub(_SET, " ", _bare(qualifier))))
    return bool(named) and not named & set(
        re.findall(r"[A-Za-z]", re.sub(r"\\[a-zA-Z]+", " ", head))
    )


def renamed(gold: str, answer: str, qualifier: str) -> str:
    """The answer with the gold's letter for the parameter of a family of tuples.

    `(3 + 2t, 5t)` beside `for some integer t` is `(3 + 2x, 5x)`: the letter is declared, stands in
    every place where the gold has its own, and is the only one on either side.
    """
    if not harmless(qualifier):
        return answer
    sides = [text.rpartition("=")[2].strip() for text in (gold, answer)]
    if not all(side.startswith("(") and "," in side for side in sides):
        return answer
    left, right = ({*_LONE.findall(re.sub(r"\\[a-zA-Z]+", " ", _spaced(s)))} for s in sides)
    declared = {*_LONE.findall(re.sub(_SET, " ", _bare(qualifier)))}
    if len(left) != 1 or len(right) != 1 or right != declared or left == right:
        return answer
    (new,), (old,) = left, right
    head = answer[: len(answer) - len(sides[1])]
    return head + re.sub(rf"(?<![A-Za-z\\\\]){old}(?![A-Za-z])", new, sides[1])


def _spaced(text: str) -> str:
    """`5x` as `5 x`, so that every letter stands alone."""
    return re.sub(r"(?<=\d)(?=[A-Za-z])", " ", text)


def _set_of(qualifier: str) -> str:
    """`Z`, `N` or `Z+` where one is named; every way of writing positive integers is `Z+`."""
    found = re.search(_SET, qualifier.partition("\\in")[2])
    bare = re.sub(r"\\[a-z]+|[{}^_\s]", "", found.group()) if found else ""
    return "Z+" if bare in ("Z+", "N*", "N+", "Z>0", "Z^+") else bare


def agree(gold: str, answer: str, same: Callable[[str, str], bool | None]) -> bool | None:
    """Whether two qualifiers say the same; None where that cannot be told."""
    if not gold and not answer:
        return True
    if compact(_bare(gold)) == compact(_bare(answer)):
        return True
    kinds = harmless(gold) if gold else True, harmless(answer) if answer else True
    if all(kinds):
        sets = _set_of(gold), _set_of(answer)
        signs = [set(_SIGNED.findall(side)) for side in (gold, answer)]
        if gold and answer and signs[0] != signs[1] and not any(sets):
            return None
        return True if not all(sets) or sets[0] == sets[1] else None
    if not gold or not answer or any(kinds):
        return None
    return same(_bare(gold), _bare(answer))
