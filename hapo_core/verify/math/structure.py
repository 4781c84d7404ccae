"""Rules on brackets and commas: what is a list, a set, a tuple or a single value.

Conventions (docs/verification.md): a bare list and a set have no order; a tuple and a bracket have
one; a set is no tuple; a bare list matches either.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["atom", "list", "set", "tuple", "vector"]
_TOKEN = re.compile(
    r"\\begin\{\w+\*?\}|\\end\{\w+\*?\}|\\[a-zA-Z]+|\\.|(?<=[\d)}])or(?=[A-Z(])|(?<![A-Za-z\\])(?:and|or)"
    r"(?![A-Za-z])|.",
    re.DOTALL,
)
_OPEN = {"(", "[", "{", "\\{"}
_CLOSE = {")", "]", "}", "\\}"}
_WORDS = {"and", "or", "\\lor", "\\vee"}
_CASES = re.compile(
    r"\\begin\{(?:cases|aligned|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\w+\}", re.DOTALL
)
_MATRIX = re.compile(
    r"\[?\(?\s*\\begin\{([pbvB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)"
    r"\\end\{\1\}\s*\)?\]?",
    re.DOTALL,
)
_SCALAR = re.compile(
    r"(-|-?\s*(?:\d+(?:\.\d+)?(?:/\d+)?|\\frac\s*\{[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\}))"
    r"\s*(?:\\cdot\s*)?(?=\[?\(?\s*\\begin\{[pbB]?matrix\})"
)
"""A factor before a matrix: `\\frac{1}{2} \\begin{pmatrix} ...`."""
_UNIT_VECTOR = re.compile(
    r"\\(?:hat|vec|mathbf|text|boldsymbol|overrightarrow)\s*(?:\{\s*\\?([ijk])(?:math)?\s*\}|\\?([ijk])(?:math)?)"
)
_MAX_SIGNS = 4


@dataclass(frozen=True)
class Node:
    """A value or a collection of values.

    Args:
        kind: what it is; a vector may be a matrix, row by row.
        text: the tidy spelling of the whole.
        items: members of a collection.
        fence: the brackets as written, for a tuple, e.g. "(]"; "row" or "column"
            for a vector, "2x3" for a matrix.
    """

    kind: Kind
    text: str
    items: tuple[Node, ...] = ()
    fence: str = ""


def split_top(text: str, separators: set[str]) -> list[str]:
    """Split at separators (single tokens) outside all brackets and environments."""
    return split_with(text, separators)[0]


def split_with(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """`split_top` together with the separators that were found, in order."""
    parts, found, depth, start = [], [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPEN or token.startswith("\\begin{"):
            depth += 1
        elif token in _CLOSE or token.startswith("\\end{"):
            depth -= 1
        elif depth <= 0 and token in separators:
            parts.append(text[start : match.start()].strip())
            found.append(token)
            start = match.end()
    parts.append(text[start:].strip())
    return parts, found


def fenced(text: str) -> tuple[str, str, str] | None:
    """(opening, content, closing) if one pair of brackets holds the whole text."""
    depth, opening = 0, ""
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.start() == 0:
            if token not in _OPEN:
                return None
            opening = token
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            if depth == 0:
                if match.end() != len(text):
                    return None
                return opening, text[len(opening) : match.start()].strip(), token
    return None


def parse(text: str) -> Node:
    """The structure of a tidy answer; plus-minus signs are spelled out as lists."""
    text = text.strip()
    groups = [p for p in split_top(text, {";"}) if p]
    if len(groups) > 1 and any(len(split_top(p, {","})) > 1 for p in groups):
        return Node("list", text, tuple(_group(parse(p)) for p in groups))
    groups = [p.strip(" ,") for p in split_top(text, _WORDS) if p.strip(" ,")]
    if len(groups) > 1 and all(_is_assignment_list(p) for p in groups):
        return Node("list", text, tuple(_group(parse(p)) for p in groups))
    parts = [p for p in split_top(text, {",", ";", *_WORDS}) if p]
    if len(parts) > 1:
        return Node("list", text, _members(parts))
    text = parts[0] if parts else text
    united = [fenced(part) for part in split_top(text, {"\\cup"})]
    if len(united) > 1 and all(f and f[0] == "\\{" and "|" not in f[1] for f in united):
        inside = [p for f in united if f for p in split_top(f[1], {",", ";"}) if p]
        return Node("set", text, _members(inside))
    cases = _CASES.fullmatch(text)
    if cases and "&" not in text:
        rows = [row for row in re.split(r"\\\\", cases.group(1)) if row.strip()]
        return Node("list", text, _members(rows))
    matrix = _vector(text)
    if matrix is not None:
        return matrix
    body = _without_tuple_name(text)
    fence = fenced(body)
    if fence is not None:
        opening, content, closing = fence
        inside = [p for p in split_top(content, {",", ";"}) if p]
        if opening == "\\{" and closing == "\\}" and "|" not in content and ":" not in content:
            return Node("set", text, _members(inside))
        if opening == "{" and closing == "}":  # a set without its backslashes, or TeX's grouping
            plain_set = len(inside) > 1 and "|" not in content
            return Node("set", text, _members(inside), "{}") if plain_set else parse(content)
        if len(inside) > 1 and opening in "([" and closing in ")]":
            items = tuple(parse(p) for p in inside)
            node = Node("tuple", body, items, opening + closing)
            return _signs(node)
        if len(inside) == 1 and opening == "(" and closing == ")":
            return parse(inside[0])
    return _signs(Node("atom", text))


def _is_assignment_list(text: str) -> bool:
    """`p = 5, q = 2`: several values, every one with a name."""
    parts = split_top(text, {","})
    return len(parts) > 1 and all(len(split_top(part, {"="})) == 2 for part in parts)


def _group(node: Node) -> Node:
    """`p=5, q=2; p=7, q=2`: what semicolons separate are tuples."""
    return Node("tuple", node.text, node.items, "()") if node.kind == "list" else node


def _members(parts: list[str]) -> tuple[Node, ...]:
    """Items of a collection; an item that is itself a bare list (from signs) is spliced in."""
    items: list[Node] = []
    for part in parts:
        node = parse(part)
        items.extend(node.items if node.kind == "list" else (node,))
    return tuple(items)


def _signs(node: Node) -> Node:
    """`a \\pm b` is the list `a + b, a - b`; a tuple takes its signs independently."""
    count = node.text.count("\\pm")
    if not count or count > _MAX_SIGNS:
        return node
    if node.kind == "atom" and ("\\mp" in node.text or count > 1):
        choices = [("+",) * count, ("-",) * count]
    else:
        choices = list(itertools.product("+-", repeat=count))
    variants = []
    for signs in choices:
        pieces = node.text.split("\\pm")
        text = pieces[0] + "".join(s + p for s, p in zip(signs, pieces[1:], strict=True))
        opposite = "-" if signs[0] == "+" else "+"
        variants.append(parse(re.sub(r"\+\s*\+", "+", text.replace("\\mp", opposite))))
    return Node("list", node.text, tuple(variants))


def _vector(text: str) -> Node | None:
    factor = _SCALAR.match(text)
    if factor:
        inner = _vector(text[factor.end() :])
        if inner is None:
            return None
        times = f"({factor.group(1)})" if factor.group(1) != "-" else "-"
        scaled = tuple(parse(f"{times}({item.text})") for item in inner.items)
        return Node("vector", text, scaled, inner.fence)
    match = _MATRIX.fullmatch(text)
    if not match:
        return None
    rows = [row.strip() for row in re.split(r"\\\\", match.group(2)) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if len({len(row) for row in cells}) != 1 or match.group(1) in ("vmatrix", "Vmatrix"):
        return None
    items = tuple(parse(cell) for row in cells for cell in row)
    if len(cells) > 1 and len(cells[0]) == 1:
        return Node("vector", text, items, "column")
    if len(cells) == 1 and len(cells[0]) > 1:
        return Node("vector", text, items, "row")
    return Node("vector", text, items, f"{len(cells)}x{len(cells[0])}") if len(items) > 1 else None


def along_axes(text: str, dimension: int) -> Node | None:
    """`3i - 4j` and `\\hat{i} + 2\\hat{k}` as a tuple; None for anything else."""
    bare = _UNIT_VECTOR.sub(lambda m: m.group(1) or m.group(2), text)
    parts, signs = split_with(bare, {"+", "-"})
    if not parts[0]:
        parts = parts[1:]
    else:
        signs = ["+", *signs]
    found: dict[str, str] = {}
    for sign, part in zip(signs, parts, strict=True):
        coefficient, axis = part[:-1].removesuffix("\\cdot").strip(), part[-1:]
        if axis not in "ijk"[:dimension] or axis in found:
            return None
        if re.search(r"[ijk]", re.sub(r"\\[a-zA-Z]+", " ", coefficient)):
            return None
        found[axis] = f"-({coefficient or 1})" if sign == "-" else coefficient or "1"
    if len(found) < 2:
        return None
    return Node("tuple", text, tuple(parse(found.get(a, "0")) for a in "ijk"[:dimension]), "()")


def point_name(text: str) -> str:
    """`P` of `P = (1, 2)`; else nothing."""
    sides = split_top(text.strip(), {"="})
    body = fenced(sides[1]) if len(sides) == 2 else None
    if body is None or len(split_top(body[1], {",", ";"})) < 2:
        return ""
    return sides[0] if re.fullmatch(r"[A-Z](?:_\{?\w\}?)?'*", sides[0]) else ""


def named_values(text: str) -> dict[str, Node]:
    """The values of `(x, y) = (1, 2)` or `x = 1, y = 2` by their letters; else nothing."""
    sides = [fenced(side) for side in split_top(text.strip(), {"="})]
    if len(sides) == 2 and sides[0] and sides[1]:
        names, values = (split_top(side[1], {",", ";"}) for side in sides if side)
    else:
        pairs = [split_top(part, {"="}) for part in split_top(text, {",", ";", *_WORDS}) if part]
        if len(pairs) < 2 or any(len(pair) != 2 for pair in pairs):
            return {}
        names, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    letters = [name.strip() for name in names]
    if len(letters) != len(values) or len(set(letters)) != len(letters) or len(letters) < 2:
        return {}
    if not all(_LETTER.fullmatch(name) for name in letters):
        return {}
    if len({name.partition("_")[0] for name in letters}) == 1:
        return {}  # `x_1`, `x_2` number solutions
    return {name: parse(value) for name, value in zip(letters, values, strict=True)}


_LETTER = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?'*")


def _without_tuple_name(text: str) -> str:
    """`(x, y) = (1, 2)` and `P = (1, 2)` are the tuple on the right."""
    sides = split_top(text, {"="})
    if len(sides) == 2 and fenced(sides[1]) and re.fullmatch(r"[^\d+*/^]*", sides[0]):
        inner = fenced(sides[1])
        if inner and (len(split_top(inner[1], {",", ";"})) > 1 or inner[0] == "\\{"):
            return sides[1]
    return text
