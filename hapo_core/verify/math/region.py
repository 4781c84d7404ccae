"""Rule `region`: intervals, unions, inequalities and set-builders are subsets of the line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from hapo_core.verify.math.structure import fenced, split_top, split_with

_RELATION = {"<", ">", "\\le", "\\ge", "\\ne", "="}
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?")
_INFINITE = {"\\infty", "-\\infty"}
_LOOKS = re.compile(
    r"<|>|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|\\cup|\\infty|\\in(?![a-z])"
    r"|\\setminus|\\\{[^{}]*[|:]|\\mathbb"
)
_BOUND_SIGN = re.compile(r"<|>|\\(?:le|ge|ne)(?![a-z])")
_BUILDER = re.compile(r"^\\\{\s*([^|:]*?)\s*(?:\||:)\s*(.*)\\\}$", re.DOTALL)
_REAL_VARIABLE = re.compile(
    r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?)?\s*"
)
_MEMBER = re.compile(r"^\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*\\in(?![a-z])\s*(.*)$", re.DOTALL)
_ABSOLUTE = re.compile(
    r"^\|\s*(\\?[A-Za-z]+)\s*\|\s*(<|>|\\le|\\ge)(?![a-z])\s*([\d./]+|\\sqrt.*|\\frac.*)$"
)
_DOMAIN = re.compile(r",?\s*(?:\\?[A-Za-z]+\s*)?\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*$")


@dataclass(frozen=True)
class Piece:
    """An interval by the spelling of its ends; a point is a closed interval with equal ends."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


Equal = Callable[[str, str], bool | None]


def looks_like_region(text: str) -> bool:
    """Whether something in the spelling asks for this rule."""
    return bool(_LOOKS.search(text))


def is_relation(text: str) -> bool:
    """Whether the text is one side of a bound: it says less than a value does."""
    return bool(_BOUND_SIGN.search(text)) and not _LOOKS.search(_BOUND_SIGN.sub("", text))


def read_region(text: str) -> tuple[list[Piece], str] | None:
    """The pieces and the variable (empty if none is named), or None for anything else."""
    text = text.strip()
    builder = _BUILDER.match(text)
    removed: list[str] = []
    parts = split_top(text, {"\\setminus", "\\backslash"})
    if len(parts) == 1:
        minus = re.match(r"^(.*\})\s*-\s*(\\\{[^{}]*\\\})$", text, re.DOTALL)
        parts = [minus.group(1), minus.group(2)] if minus else parts
    if len(parts) == 2:
        points = fenced(parts[1].strip())
        if not points or points[0] != "\\{":
            return None
        removed = split_top(points[1], {","})
        text = parts[0].strip()
        builder = _BUILDER.match(text)
    if builder and not _REAL_VARIABLE.fullmatch(builder.group(1)):
        return None  # whole numbers, pairs, or values of a formula
    if builder and fenced(text):
        text = builder.group(2).strip()
    text = _DOMAIN.sub("", text).strip() or text
    pieces: list[Piece] = []
    variables: set[str] = set()
    for part in split_top(text, {"\\cup", "or", "\\lor", "\\vee"}):
        found = _piece(part, variables)
        if found is None:
            return None
        pieces.extend(found)
    if len(variables) > 1 or not pieces:
        return None
    if removed:
        pieces = [p for piece in pieces for p in _cut(piece, removed)]
    return pieces, next(iter(variables), "")


def same_region(
    gold: tuple[list[Piece], str], answer: tuple[list[Piece], str], equal: Equal
) -> bool | None:
    """Whether the pieces pair up; None if an end cannot be compared."""
    if gold[1] and answer[1] and gold[1] != answer[1]:
        return False
    if len(gold[0]) != len(answer[0]):
        return False
    left, unknown = list(answer[0]), False
    for piece in gold[0]:
        for other in left:
            same = _same_piece(piece, other, equal)
            unknown = unknown or same is None
            if same:
                left.remove(other)
                break
        else:
            return None if unknown else False
    return True


def _same_piece(gold: Piece, answer: Piece, equal: Equal) -> bool | None:
    if (gold.low_closed, gold.high_closed) != (answer.low_closed, answer.high_closed):
        return False
    results = [_same_end(gold.low, answer.low, equal), _same_end(gold.high, answer.high, equal)]
    if False in results:
        return False
    return None if None in results else True


def _same_end(gold: str, answer: str, equal: Equal) -> bool | None:
    if gold in _INFINITE or answer in _INFINITE:
        return gold == answer
    return equal(gold, answer)


def _piece(text: str, variables: set[str]) -> list[Piece] | None:
    text = text.strip()
    if re.fullmatch(r"\\mathbb\s*\{?\s*R\s*\}?", text):
        return [Piece("-\\infty", False, "\\infty", False)]
    member = _MEMBER.match(text)
    if member:
        variables.add(re.split(r"\s*\\in", text)[0].strip())
        inner = read_region(member.group(1))
        return inner[0] if inner else None
    absolute = _ABSOLUTE.match(text)
    if absolute:
        name, sign, bound = absolute.groups()
        return _distance(name, sign, bound, variables)
    fence = fenced(text)
    if fence:
        opening, content, closing = fence
        ends = split_top(content, {",", ";"})
        if opening == "\\{":
            return [Piece(e, True, e, True) for e in ends if e] or None
        if len(ends) != 2 or opening not in "([" or closing not in ")]":
            return None
        low, high = (_end(e) for e in ends)
        return [
            Piece(
                low,
                opening == "[" and low not in _INFINITE,
                high,
                closing == "]" and high not in _INFINITE,
            )
        ]
    return _relation(text, variables)


def _end(text: str) -> str:
    return re.sub(r"\s+", "", text) if "\\infty" in text else text.strip()


def _relation(text: str, variables: set[str]) -> list[Piece] | None:
    """`a < x \\le b`, `x > a`, `a \\ge x`, `x = a` and `x \\ne a` as pieces."""
    sides, signs = split_with(text, _RELATION)
    if not all(sides[1:]) or (not sides[0] and (len(sides) != 2 or signs[0] == "=")):
        return None
    if len(sides) == 3 and _VARIABLE.fullmatch(sides[1]):
        variables.add(sides[1])
        if set(signs) <= {">", "\\ge"}:
            sides, signs = sides[::-1], [{">": "<", "\\ge": "\\le"}[s] for s in signs[::-1]]
        if not set(signs) <= {"<", "\\le"}:
            return None
        low, high = _end(sides[0]), _end(sides[2])
        return [
            Piece(
                low,
                signs[0] == "\\le" and low not in _INFINITE,
                high,
                signs[1] == "\\le" and high not in _INFINITE,
            )
        ]
    if len(sides) != 2:
        return None
    left, right, sign = sides[0], sides[1], signs[0]
    if left and not _VARIABLE.fullmatch(left):
        if not _VARIABLE.fullmatch(right):
            return None
        left, right, sign = right, left, _FLIPPED.get(sign, sign)
    if left:  # `\\ge 7` names none
        variables.add(left)
    return {
        "<": [Piece("-\\infty", False, right, False)],
        "\\le": [Piece("-\\infty", False, right, True)],
        ">": [Piece(right, False, "\\infty", False)],
        "\\ge": [Piece(right, True, "\\infty", False)],
        "=": [Piece(right, True, right, True)],
        "\\ne": [Piece("-\\infty", False, right, False), Piece(right, False, "\\infty", False)],
    }[sign]


def read_chain(text: str) -> tuple[list[str], list[str]] | None:
    """`b < a \\le c` as sides and signs in ascending order, for relations that are no region."""
    sides, signs = split_with(text.strip(), _RELATION - {"=", "\\ne"})
    if not signs or not all(sides):
        return None
    if set(signs) <= {">", "\\ge"}:
        return sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    return sides, signs


def _distance(name: str, sign: str, bound: str, variables: set[str]) -> list[Piece]:
    """`|x| < a` and its relatives, for a written positive bound."""
    variables.add(name)
    closed = sign in ("\\le", "\\ge")
    if sign in ("<", "\\le"):
        return [Piece(f"-{bound}", closed, bound, closed)]
    left = Piece("-\\infty", False, f"-{bound}", closed)
    return [left, Piece(bound, closed, "\\infty", False)]


def _cut(piece: Piece, points: list[str]) -> list[Piece]:
    """Remove written numbers from an interval; a point that is not a number is left alone."""
    for point in points:
        try:
            value = float(point)
            low = float("-inf") if piece.low in _INFINITE else _number(piece.low)
            high = float("inf") if piece.high in _INFINITE else _number(piece.high)
        except ValueError:
            continue
        if low < value < high:
            rest = [p for p in points if p != point]
            left = Piece(piece.low, piece.low_closed, point, False)
            right = Piece(point, False, piece.high, piece.high_closed)
            return [*_cut(left, rest), *_cut(right, rest)]
    return [piece]


def _number(text: str) -> float:
    match = re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", text)
    if match:
        return float(f"{match.group(1)}{int(match.group(2)) / int(match.group(3))}")
    return float(text)
