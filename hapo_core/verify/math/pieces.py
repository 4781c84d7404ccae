"""Rules `cases` and `congruence`: functions given piece by piece, and residues.

Both are statements to `statement`, which wants the same words in the same order. Here the rows of a
function may stand in another order, and a congruence may be written out once for every residue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from hapo_core.verify.math.structure import split_top
from hapo_core.verify.math.text import compact

Equal = Callable[[str, str], bool | None]
_CASES = re.compile(
    r"^(?:([^=]*)=)?\s*\\begin\{cases\}((?:(?!\\begin|\\end).)*)\\end\{cases\}$", re.DOTALL
)
_INTRODUCES = re.compile(
    r"^\s*(?:\\text\{\s*)?(?:if|when|for|where)(?![a-z])\s*\}?\s*", re.IGNORECASE
)
_REST = {"otherwise", "else", "elsewhere"}
_MODULUS = re.compile(r"\s*\(?\s*\\?(?:p|b)?mod(?![a-z])\s*\{?\s*(\d{1,6})\s*\}?\s*\)?\s*$")
_NAME = re.compile(r"^\s*(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*\\equiv(?![a-z])")
_RESIDUE = re.compile(r"-?\s*\d{1,6}")
_MOST_RESIDUES = 10_000


def decide(gold: str, answer: str, same: Equal) -> tuple[bool | None, str]:
    """(whether they are the same, rule); None where a side is neither, or cannot be compared."""
    rows = _rows(gold), _rows(answer)
    if rows[0] and rows[1]:
        return _same_rows(rows[0], rows[1], same), "cases"
    classes = _residues(gold) or _family(gold), _residues(answer) or _family(answer)
    if classes[0] and classes[1]:
        return _same_residues(classes[0], classes[1]), "congruence"
    return None, ""


def _rows(text: str) -> list[tuple[str, str]]:
    """(condition, value) of every row, the name of the function first; empty if it is none."""
    match = _CASES.match(text.strip())
    if match is None:
        return []
    found = [("", (match.group(1) or "").strip())]
    for row in re.split(r"\\\\", match.group(2)):
        if not row.strip():
            continue
        cells = [cell.strip(" ,.;") for cell in row.split("&")]
        if len(cells) != 2:
            return []
        condition = _INTRODUCES.sub("", cells[1])
        word = re.sub(r"\\text|[{}\s.]", "", condition).lower()
        found.append(("otherwise" if word in _REST else condition, cells[0]))
    return found


def _same_rows(
    golds: list[tuple[str, str]], answers: list[tuple[str, str]], same: Equal
) -> bool | None:
    names = compact(golds[0][1]), compact(answers[0][1])
    if len(golds) != len(answers) or (names[0] and names[1] and names[0] != names[1]):
        return None
    left = answers[1:]
    for condition, value in golds[1:]:
        fits = [row for row in left if _same_condition(condition, row[0], same)]
        if len(fits) != 1:
            return None
        left.remove(fits[0])
        equal = compact(value) == compact(fits[0][1]) or same(value, fits[0][1])
        if not equal:
            return equal
    return True


def _same_condition(gold: str, answer: str, same: Equal) -> bool:
    if compact(gold) == compact(answer):
        return True
    if "otherwise" in (gold, answer):
        return False
    return same(gold, answer) is True


@dataclass(frozen=True)
class _Residues:
    name: str
    modulus: int
    residues: tuple[int, ...]


def _residues(text: str) -> _Residues | None:
    """`x \\equiv 1, 4 \\pmod 5`, or the same written once for every residue."""
    names: set[str] = set()
    moduli: set[int] = set()
    residues: list[int] = []
    parts = [part for part in split_top(text, {"or", "\\lor", ",", ";"}) if part.strip()]
    for place, part in enumerate(parts):
        modulus = _MODULUS.search(part)
        if modulus is None and place == len(parts) - 1:
            return None  # a residue without a modulus takes that of the next one
        rest = part[: modulus.start()] if modulus else part
        name = _NAME.match(rest)
        rest = rest[name.end() :] if name else rest
        if not _RESIDUE.fullmatch(rest.strip()):
            return None
        names |= {name.group(1)} if name else set()
        moduli |= {int(modulus.group(1))} if modulus else set()
        residues.append(int(rest.replace(" ", "")))
    if len(names) > 1 or len(moduli) != 1 or not min(moduli):
        return None
    return _Residues(next(iter(names), ""), next(iter(moduli)), tuple(residues))


_FAMILY = re.compile(
    r"^(?:(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*=\s*)?(?:(\d{1,6})\s*([klmnt])\s*(?:([+-]\s*\d{1,6}))?"
    r"|(-?\d{1,6})\s*\+\s*(\d{1,6})\s*([klmnt]))"
    r"(?:\s*,?\s*(?:\\text\{\s*(?:where|for|with)?\s*\})?\s*\(?\s*(?:\3|\7)\s*\\in\s*\\mathbb\s*\{?\s*Z\s*\}?\s*\)?)?$"
)


def _family(text: str) -> _Residues | None:
    """`x = 7k + 3`, over all whole numbers k."""
    match = _FAMILY.match(text.strip())
    if match is None:
        return None
    name, modulus, letter, residue, first, behind, second = match.groups()
    if name == (letter or second) or not int(modulus or behind):
        return None
    return _Residues(
        name or "", int(modulus or behind), (int((residue or first or "0").replace(" ", "")),)
    )


def _same_residues(gold: _Residues, answer: _Residues) -> bool | None:
    """Residues of the answer must be reduced: `1024 \\pmod 7` repeats the question."""
    both = math.lcm(gold.modulus, answer.modulus)
    if (gold.name and answer.name and gold.name != answer.name) or both > _MOST_RESIDUES:
        return None
    if any(abs(r) >= answer.modulus for r in answer.residues) and gold != answer:
        return None
    classes = [
        {(r + k * side.modulus) % both for r in side.residues for k in range(both // side.modulus)}
        for side in (gold, answer)
    ]
    return classes[0] == classes[1]
