"""Rules on equals signs: names, chains of equal values, and equations.

`equal_atoms` is the entry: it takes names and equations apart and leaves the values to `values`.
"""

from __future__ import annotations

import re
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from hapo_core.verify.math import algebra, owners
from hapo_core.verify.math.parsing import is_complex, parse
from hapo_core.verify.math.quantity import read_decimal, read_quantity
from hapo_core.verify.math.structure import split_top
from hapo_core.verify.math.text import compact
from hapo_core.verify.math.values import (
    SINGLE,
    Outcome,
    constant_of,
    equal_values,
    parsed_value,
    ratio_of,
)

_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'*|\\text\{[^{}]*\}|_\s*(?:\{[^{}]*\}|\w)|\([^()=]*\)|\|[A-Z]+\||"
    r"\\frac\s*\{[A-Z]{1,3}\}\s*\{[A-Z]{1,3}\}|\{[A-Za-z]+\}|:|\s)+"
)
_NAMED_TEXT = re.compile(r"^\\?(?:text\{)?[A-Za-z][A-Za-z ]+\d?\}?\s*:\s*(.+)$", re.DOTALL)
_APPLIED = re.compile(r"^(\\?[A-Za-z]+(?:_\{?\w+\}?)?'*)\s*\(([^()=]*(?:\([^()]*\)[^()=]*)*)\)$")
_FUNCTION = re.compile(r"^(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*\(\s*([a-zA-Z])\s*\)$")
_CONSTANTS = {"\\pi", "{\\pi}"}
_SYMMETRIC = {"\\gcd", "\\lcm", "\\max", "\\min"}
_COEFFICIENT = re.compile(r"\d|[+\-*/^]|\\(?:cdot|times|sqrt|pm)")


def equal_atoms(gold: str, answer: str) -> Outcome:
    """Whether two tidy single values are the same; None where neither rule nor parser can say."""
    if compact(gold) == compact(answer):
        return True, "same-text"
    if not owners.agree(_label(gold), _label(answer)):
        return False, "name"
    if any(map(_far_off, (gold, answer))):
        return None, "chain"
    golds, answers = _sides(gold), _sides(answer)
    if len(golds) == 2 and is_name(golds[1]) and not is_name(golds[0]) and golds[1]:
        golds = golds[::-1]  # `2 = x`
    if len(golds) == 1 and len(answers) == 1:
        return equal_values(gold, answer)
    if len(answers) > 2 and is_name(answers[0]):
        middle = [equal_values(answers[-1], s)[0] for s in answers[1:-1] if not is_name(s)]
        if False in middle:
            return False, "chain"
    if len(golds) == 1:
        return _from_chain(gold, answers)
    if len(answers) == 1:
        if not all(map(is_name, golds[:-1])):
            return _equations(gold, answer)
        return equal_values(golds[-1], answer)
    return _two_equations(gold, answer, golds, answers)


def _label(text: str) -> str:
    """What stands before a colon, `\\text{Alice: }`; empty where nothing does."""
    named = _NAMED_TEXT.match(text)
    return owners.owner(text) if named else ""


def _sides(text: str) -> list[str]:
    named = _NAMED_TEXT.match(text)
    if named and len(split_top(text, {"="})) == 1:
        return ["", named.group(1)]
    parts = split_top(text, {"=", "\\approx", "\\equiv", "\\simeq"})
    if len(parts) == 2 and parts[0] and not is_name(parts[0]) and "\\approx" in text:
        return (
            parts[:1] if _close(*parts) else parts
        )  # `exact \approx decimal`: the exact side is the answer
    return parts if all(parts[1:]) else [text]


def _far_off(text: str) -> bool:
    """`3 \\approx e`: `e` is no name there."""
    parts = split_top(text, {"=", "\\approx", "\\simeq"})
    return len(parts) == 2 and parts[1] == "e" and "\\a" in text and not _close(*parts)


def _close(exact: str, decimal: str) -> bool:
    """Whether a decimal may stand behind `\\approx`; true where one of them is no constant."""
    values = constant_of(exact), constant_of(decimal)
    if values[0] is None or values[1] is None:
        return True
    return abs(values[0] - values[1]) * 50 <= abs(values[0])


def is_name(text: str) -> bool:
    """`x`, `f(2)`, `a_n`, `\\angle ABC`: what stands left of an equals sign and names the value."""
    text = text.strip()
    if not text:
        return True
    if text in _CONSTANTS:
        return False
    outside = re.sub(r"_\s*(?:\{[^{}]*\}|\w)|\([^()]*\)|\\text\{[^{}]*\}", "", text)
    return bool(_NAME.fullmatch(text)) and not _COEFFICIENT.search(outside) and len(text) < 60


def _from_chain(gold: str, sides: list[str]) -> Outcome:
    """`x = 2 + 3 = 5` for 5: rule `chain`, every constant side must have the value of the last."""
    value = sides[-1]
    if is_name(value) and not is_name(sides[0]):  # `5 = x`
        sides, value = sides[::-1], sides[0]
    for side in sides[:-1]:
        if is_name(side):
            continue
        parsed = parse(side)
        if parsed is None:
            return None, "chain"
        if not getattr(parsed, "free_symbols", True):
            same, _ = equal_values(value, side)
            if not same:
                return same, "chain"
    return equal_values(gold, value)


def _mentions(text: str, name: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z\\]){re.escape(name.strip())}(?![A-Za-z])", text))


def _equations(gold: str, answer: str) -> Outcome:
    """An equation against something else, or two equations: math-verify's own comparison."""
    complex_too = is_complex(gold, answer)
    left, right = parse(gold, complex_too), parse(answer, complex_too)
    if left is None or right is None:
        return None, "math-verify"
    decided = algebra.equal_equations(left, right)
    if decided is not None:
        return decided, "equation"
    if _functions(left) != _functions(right):
        return None, "math-verify"  # `cos t = 3` and `sin t = 3` have the same solutions: none
    if _same_left(gold, answer):
        return False, "equation"  # so have `u^2 = -2^n` and `u^2 = -3^n`
    return algebra.math_verify_says(left, right), "math-verify"


def _functions(parsed: Any) -> set[str]:
    """The names of sine, cosine and the like in a parse."""
    if not hasattr(parsed, "atoms"):
        return set()
    known = parsed.atoms(sympy.Function) - parsed.atoms(AppliedUndef)
    return {type(f).__name__ for f in known}


def _same_left(gold: str, answer: str) -> bool:
    """Whether two equations have one left side and right sides of another value."""
    one, other = _sides(gold), _sides(answer)
    if len(one) != 2 or len(other) != 2 or compact(one[0]) != compact(other[0]):
        return False
    return equal_values(one[1], other[1])[0] is False


def _two_equations(gold: str, answer: str, golds: list[str], answers: list[str]) -> Outcome:
    if all(constant_of(side) is not None for side in golds):
        return _from_chain(golds[-1], answers)  # `2 + 3 = 5` stands for its value
    applied = [_APPLIED.match(sides[0].strip()) for sides in (golds, answers)]
    if len(golds) == len(answers) == 2 and applied[0] and applied[1]:
        (f, at), (g, place) = applied[0].groups(), applied[1].groups()
        if f != g:
            return False, "name"
        if f in _SYMMETRIC and sorted(split_top(at, {","})) == sorted(split_top(place, {","})):
            return equal_values(golds[1], answers[1])
        if at != place and not (SINGLE.fullmatch(at) and SINGLE.fullmatch(place)):
            same = equal_values(at, place)
            return equal_values(golds[1], answers[1]) if same[0] else same
    if all(map(is_name, golds[:-1])) and all(map(is_name, answers[:-1])):
        left, right = compact(golds[0]), compact(answers[0])
        f, g = _FUNCTION.match(golds[0].strip()), _FUNCTION.match(answers[0].strip())
        if f and g:
            if f.group(1) != g.group(1):
                return False, "name"
            renamed = re.sub(rf"(?<![A-Za-z\\]){g.group(2)}(?![A-Za-z])", f.group(2), answers[-1])
            renamed = renamed if f.group(2) != g.group(2) else answers[-1]
            return equal_values(golds[-1], renamed)
        if left.count("'") != right.count("'"):
            return False, "name"
        if left == right or not left or not right or bool(f) != bool(g):
            return equal_values(golds[-1], answers[-1])
        if re.sub(r"_\w+|[{}]", "", left) == re.sub(r"_\w+|[{}]", "", right):
            return equal_values(golds[-1], answers[-1])
        if not _mentions(golds[-1], answers[0]) and not _mentions(answers[-1], golds[0]):
            return False, "name"
    if len(golds) == len(answers) == 2 and compact(golds[0]) == compact(answers[0]):
        same = equal_values(golds[1], answers[1])
        if same[0] or (
            same[0] is False and not getattr(parsed_value(golds[1]), "free_symbols", True)
        ):
            return same  # `u^2 + v^2 = -1` and `= -2` have the same real solutions: none
    return _equations(gold, answer)


def readable_value(text: str) -> bool:
    """Whether every side of the equals signs is a name, a number or an expression."""
    for side in _sides(text):
        if is_name(side):
            continue
        core = read_quantity(side).core
        if read_decimal(core) is None and parsed_value(core) is None and ratio_of(core) is None:
            return False
    return True
