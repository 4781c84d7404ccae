"""Whose value it is: labels before values (`Alice: 5`), words behind them (`5 apples`)."""

from __future__ import annotations

import re

from hapo_core.verify.math import words
from hapo_core.verify.math.quantity import unit_factor

_LABEL = re.compile(
    r"^\s*(?:\\text\{\s*([^{}]*?)\s*:?\s*\}\s*:?\s*|([A-Za-z][A-Za-z ]+\d?)\s*:\s*)(?=[^\s:].*)",
    re.DOTALL,
)
_BEHIND = re.compile(r"^[^A-Za-z]*?[\d})]\s*((?:\\text\{[^{}]*\}\s*|(?<=\s)[A-Za-z]{3,}\s*)+)$")


def owner(text: str) -> str:
    """The label of a value or the word that it counts, plain; empty without one.

    Units of measure are none: they are converted elsewhere.
    """
    found = _LABEL.match(text)
    if found and re.search(r"[A-Za-z]{2}", found.group(1) or found.group(2)):
        return words.plain(found.group(1) or found.group(2))
    behind = _BEHIND.match(text)
    if behind is None:
        return ""
    unit = words.plain(behind.group(1))
    return "" if unit_factor(unit) else unit


def agree(gold: str, answer: str) -> bool:
    """Whether two owners are one: all words of the shorter one are in the other."""
    left, right = set(_stems(gold)), set(_stems(answer))
    return not left or not right or left <= right or right <= left


def _stems(owner_: str) -> list[str]:
    return [
        word.rstrip("s")
        for word in owner_.split()
        if word not in ("has", "is", "gets", "of", "room")
    ]
