"""What the generators share: tokens of an answer, and plain facts about its form."""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = re.compile(
    r"\\text\s*\{[^{}]*\}|\\(?:math\w+|operatorname)\s*\{[^{}]*\}|\\(?:begin|end)\s*\{[^{}]*\}"
    r"|\\[a-zA-Z]+|\\.|[0-9]+(?:\.[0-9]+)?|.",
    re.DOTALL,
)
_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_VALUE = re.compile(
    r"(?:\\(?:[dt]?frac|sqrt|pi|cdot|left|right|ln|sin|cos|tan|log)|[\w\s{}()^+\-/.])+"
)
_LETTER = re.compile(r"[A-Za-z]")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


class Variant(NamedTuple):
    """An answer made from a gold, and the kind of the change."""

    kind: str
    text: str


class Pair(NamedTuple):
    """A gold and an answer that means something else, and the kind of the change."""

    kind: str
    gold: str
    answer: str


def bare(gold: str) -> str:
    """The gold without outer blanks and dollar signs."""
    return gold.strip(" \n").strip("$").strip(" \n")  # a tab may be a lost `\\t`


def tokens(text: str) -> list[str]:
    """Commands, numbers, `\\text` groups and single characters; joined they are the text."""
    return TOKEN.findall(text)


def is_number(text: str) -> bool:
    """A plain integer or decimal, perhaps negative."""
    return bool(_PLAIN.fullmatch(text))


def is_value(text: str) -> bool:
    """One expression: no relation, list, set, word or unit; not the number zero."""
    return (
        bool(_VALUE.fullmatch(text))
        and not _WORD.search(text)
        and bool(re.search(r"\w", text))
        and text.isascii()
        and not re.search(
            r"[0-9}]\s+[0-9]|_|^\([A-E]\)|[\t\f\r\b]|\^\s*$|[0-9]+(?:kg|cm|km|mm|m|g)\b", text
        )
        and text.count("(") == text.count(")")
        and text.count("{") == text.count("}")
        and not re.fullmatch(r"[-(]*0+(?:\.0*)?\)*", text)
    )


def is_prose(text: str) -> bool:
    """Four words or more outside commands."""
    plain = re.sub(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r" \1 ", text)
    return len(_WORD.findall(re.sub(r"\\[a-zA-Z]+", " ", plain))) >= 4


def letters(parts: list[str]) -> list[int]:
    """Places of one-letter variables among tokens; not e, i, d, and no part of a word."""
    found = []
    for place, part in enumerate(parts):
        if not _LETTER.fullmatch(part) or part in "eidEI":
            continue
        around = (
            parts[place - 1] if place else "",
            parts[place + 1] if place + 1 < len(parts) else "",
        )
        if not any(_LETTER.fullmatch(neighbour) for neighbour in around if neighbour):
            found.append(place)
    return found


def members(text: str) -> list[str]:
    """The members of a flat list, set or tuple; empty if brackets nest or it has fewer than two."""
    inner = re.sub(r"^\s*(?:\\left\s*)?(?:\\\{|[(\[])|(?:\\right\s*)?(?:\\\}|[)\]])\s*$", "", text)
    parts = [part.strip() for part in inner.split(",")]
    if len(parts) < 2 or any(not is_value(part) and not is_number(part) for part in parts):
        return []
    if any(re.fullmatch(r"\d{3}(?:\.\d+)?", part) for part in parts[1:]) or any(
        ")" in p for p in parts
    ):
        return []  # perhaps a digit group
    return parts


def bumped(number: str, place: int) -> str:
    """The number with another digit at a place; a first digit does not become zero."""
    digit = number[place]
    if not digit.isdigit():
        return number
    new = str((int(digit) + 1) % 10)
    if place == 0 and new == "0":
        new = "1" if len(number) == 1 else "8"
    return number[:place] + new + number[place + 1 :]
