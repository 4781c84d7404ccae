"""Rule `date`: `1999-01-02` is no difference, and `4 July` is `July 4th`."""

from __future__ import annotations

import re

from hapo_core.verify.verdict import Verdict

_NUMERIC = re.compile(
    r"(?:([12]\d{3})([-/.])(\d{1,2})\2(\d{1,2})|(\d{1,2})([-/.])(\d{1,2})\6([12]\d{3}))"
)
_MONTH_NAMES = (
    "january february march april may june july august september october november december"
)
_MONTHS = {
    spelling: number
    for number, name in enumerate(_MONTH_NAMES.split(), 1)
    for spelling in (name, name[:3], name[:4])
}
_MONTH = "(" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(\d{1,2})\s*(?:st|nd|rd|th)?"
_YEAR = r"(?:\s*,?\s*([12]\d{3}))?"
_NAMED = re.compile(
    rf"(?:the\s+)?(?:{_MONTH}\s*(?:the\s+)?{_DAY}{_YEAR}|{_DAY}\s+(?:of\s+)?{_MONTH}{_YEAR})",
    re.IGNORECASE,
)


def decide(gold: str, answer: str) -> Verdict | None:
    """A verdict where both sides are dates, or one of them is one in digits; else None."""
    left, right = _plain(gold), _plain(answer)
    named = _named(left), _named(right)
    numeric = _numeric(left), _numeric(right)
    if named[0] and named[1]:
        years = named[0][2], named[1][2]
        if named[0][:2] != named[1][:2] or (all(years) and years[0] != years[1]):
            return Verdict.WRONG
        return Verdict.UNPARSED if years[0] and not years[1] else Verdict.CORRECT
    if numeric[0] and numeric[1]:
        return Verdict.CORRECT if numeric[0] == numeric[1] else Verdict.WRONG
    if numeric[0] or numeric[1]:
        month, day, year = named[0] or named[1] or (0, 0, 0)
        same = bool(year) and (year, month, day) == (numeric[0] or numeric[1])
        return Verdict.CORRECT if same else Verdict.UNPARSED
    return None


def _plain(text: str) -> str:
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    bare = re.sub(r"\^\s*\{?\s*(st|nd|rd|th)\s*\}?", r"\1", bare)
    return " ".join(bare.split())


def _numeric(text: str) -> tuple[int, ...]:
    """The numbers in the order in which they stand."""
    match = _NUMERIC.fullmatch(text)
    return tuple(int(part) for part in match.groups() if part and part.isdigit()) if match else ()


def _named(text: str) -> tuple[int, int, int] | None:
    """(month, day, year or 0) of `4 July`, `July 4th, 1999`."""
    match = _NAMED.fullmatch(text)
    if match is None:
        return None
    month, day, year, day_first, month_behind, year_behind = match.groups()
    number = int(day or day_first)
    if not 1 <= number <= 31:
        return None
    return _MONTHS[(month or month_behind).lower()], number, int(year or year_behind or 0)
