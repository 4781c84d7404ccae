"""Rules on single values: names and chains of equations, decimals, percent, angles, units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from hapo_core.verify.math import algebra, owners
from hapo_core.verify.math.quantity import (
    Decimal,
    Quantity,
    known_units,
    read_clock,
    read_decimal,
    read_quantity,
    rounds_to,
    unit_factor,
)
from hapo_core.verify.math.structure import split_top
from hapo_core.verify.math.text import compact

_GOLD_DIGITS, _ANSWER_DIGITS, _SCIENTIFIC_DIGITS = 3, 4, 3
"""Significant digits from which a written decimal stands for what rounds to it: in a gold, in an
answer, in an answer in scientific notation."""
_FLOAT_DIGITS, _FLOAT = 16, Fraction(1, 2**51)
"""A 64-bit float printed in full: its digits, and its relative error after an operation or two."""
_EXACT = Fraction(1, 10**40)
"""Relative; constants are known to 60 digits."""
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'*|\\text\{[^{}]*\}|_\s*(?:\{[^{}]*\}|\w)|\([^()=]*\)|\|[A-Z]+\||"
    r"\\frac\s*\{[A-Z]{1,3}\}\s*\{[A-Z]{1,3}\}|\{[A-Za-z]+\}|:|\s)+"
)
_NAMED_TEXT = re.compile(r"^\\?(?:text\{)?[A-Za-z][A-Za-z ]+\d?\}?\s*:\s*(.+)$", re.DOTALL)
_APPLIED = re.compile(r"^(\\?[A-Za-z]+(?:_\{?\w+\}?)?'*)\s*\(([^()=]*(?:\([^()]*\)[^()=]*)*)\)$")
_FUNCTION = re.compile(r"^(\\?[A-Za-z]+(?:_\{?\w+\}?)?)\s*\(\s*([a-zA-Z])\s*\)$")
_TERM = r"([\d./]+|\\frac\{\d+\}\{\d+\}|\([^():]+\))"
_RATIO = re.compile(rf"^{_TERM}\s*:\s*{_TERM}$")
_LETTER = re.compile(r"(?<![\\A-Za-z{])[A-DF-HJ-Za-df-hj-z](?![A-Za-z])")
"""A letter that stands alone and is neither e nor i: a number does not contain one."""
_BINDER = re.compile(r"\\(?:sum|prod|int|lim|max|min|text|begin)(?![a-z])")
_COEFFICIENT = re.compile(r"\d|[+\-*/^]|\\(?:cdot|times|sqrt|pm)")

Outcome = tuple[bool | None, str]


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: its spelling, a factor from its sign or unit, its decimal form."""

    text: str
    scale: Fraction
    decimal: Decimal | None


def equal_atoms(gold: str, answer: str) -> Outcome:
    """Whether two tidy single values are the same; None where neither rule nor parser can say."""
    if compact(gold) == compact(answer):
        return True, "same-text"
    if not owners.agree(_label(gold), _label(answer)):
        return False, "name"
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


def _close(exact: str, decimal: str) -> bool:
    """Whether a decimal may stand behind `\\approx`; true where one of them is no constant."""
    values = _constant(exact), _constant(decimal)
    if values[0] is None or values[1] is None:
        return True
    return abs(values[0] - values[1]) * 50 <= abs(values[0])


def is_name(text: str) -> bool:
    """`x`, `f(2)`, `a_n`, `\\angle ABC`: what stands left of an equals sign and names the value."""
    text = text.strip()
    if not text:
        return True
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
        parsed = algebra.parse(side)
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
    complex_too = algebra.is_complex(gold, answer)
    left, right = algebra.parse(gold, complex_too), algebra.parse(answer, complex_too)
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
    if all(_constant(side) is not None for side in golds):
        return _from_chain(golds[-1], answers)  # `2 + 3 = 5` stands for its value
    applied = [_APPLIED.match(sides[0].strip()) for sides in (golds, answers)]
    if len(golds) == len(answers) == 2 and applied[0] and applied[1]:
        (f, at), (g, place) = applied[0].groups(), applied[1].groups()
        if f != g:
            return False, "name"
        if at != place and not (_SINGLE.fullmatch(at) and _SINGLE.fullmatch(place)):
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
        if same[0] or (same[0] is False and not getattr(_parsed(golds[1]), "free_symbols", True)):
            return same  # `u^2 + v^2 = -1` and `= -2` have the same real solutions: none
    return _equations(gold, answer)


def equal_values(gold: str, answer: str) -> Outcome:
    """Compare two values without equals signs, with what percent, degrees and units mean."""
    if compact(gold) == compact(answer):
        return True, "same-text"
    clocks = read_clock(gold), read_clock(answer)
    if clocks[0] and clocks[1] and (clocks[0][1] or clocks[1][1]):
        return _same_time(clocks[0], clocks[1]), "clock"
    terms = gold.split(":"), answer.split(":")
    if max(map(len, terms)) > 2:
        proportion = _proportional(*terms)
        if proportion is not None:
            return proportion, "ratio"
    answer = _renamed(gold, answer)
    g, a = read_quantity(gold), read_quantity(answer)
    if g.factor is None or a.factor is None:
        return None, "number-word"
    if g.base is not None or a.base is not None:
        same_base = g.base == a.base or g.base is None or a.base is None
        if same_base and re.fullmatch(r"[\w.]+", g.core) and re.fullmatch(r"[\w.]+", a.core):
            return g.core.lstrip("0") == a.core.lstrip("0"), "number-base"
        if not same_base:
            return False, "number-base"
    if g.degrees != a.degrees:
        return _angle(g, a)
    if g.percent != a.percent:
        return _percent(g, a)
    if g.unit and a.unit and compact(g.unit) != compact(a.unit):
        left, right = unit_factor(g.unit), unit_factor(a.unit)
        if not (left and right) and known_units(g.unit) != known_units(a.unit):
            return None, "units"
        if left and right:
            if left[1] != right[1]:
                return False, "units"
            if left[0] != right[0]:
                return _equal_scaled(g.core, a.core, left[0], right[0])[0], "units"
    return _equal_scaled(g.core, a.core, g.factor, a.factor)


_PARAMETER = frozenset("klmn")


def _renamed(gold: str, answer: str) -> str:
    """The answer with the gold's letter for the whole number of a family: `n\\pi` for `k\\pi`.

    Only beside a period (pi, or degrees), and only if each side has one letter.
    """
    if not all(_PERIOD.search(side) for side in (gold, answer)):
        return answer
    names = [set(_SINGLE.findall(side)) - {"e", "i"} for side in (gold, answer)]
    if len(names[0]) != 1 or len(names[1]) != 1 or names[0] == names[1]:
        return answer
    (left,), (right,) = names
    if left not in _PARAMETER or right not in _PARAMETER:
        return answer
    return re.sub(rf"(?<![A-Za-z\\\\]){right}(?![A-Za-z])", left, answer)


_PERIOD = re.compile(r"\\pi(?![a-z])|(?:180|360|90)\s*\^?\s*\\circ|(?<!\d)(?:180|360)")
_SINGLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")


def _same_time(gold: tuple[int, str], answer: tuple[int, str]) -> bool:
    """Without `a.m.` or `p.m.` a time is of either half of the day, or counted to 24."""
    if gold[0] == answer[0]:
        return True
    bare = gold if not gold[1] else answer
    return not bare[1] and bare[0] < 13 * 60 and gold[0] % 720 == answer[0] % 720


def _proportional(golds: list[str], answers: list[str]) -> bool | None:
    """`1:2:3` against `2:4:6`; None if a term is no number."""
    left, right = [_constant(t) for t in golds], [_constant(t) for t in answers]
    if len(left) != len(right):
        return False
    pairs = list(zip(left, right, strict=True))
    if any(not x or not y for x, y in pairs):
        return None
    return len({Fraction(x) / Fraction(y) for x, y in pairs if x and y}) == 1


def _percent(gold: Quantity, answer: Quantity) -> Outcome:
    """`p%` is p/100; beside a bare number of at least 1 it is also p (the sign as a unit)."""
    hundredth = Fraction(1, 100)
    left, right = (hundredth if side.percent else Fraction(1) for side in (gold, answer))
    same, _ = _equal_scaled(gold.core, answer.core, left, right)
    if same:
        return True, "percent"
    bare = read_decimal(answer.core if gold.percent else gold.core)
    if bare is not None and abs(bare.value) >= 1:
        return _equal_scaled(gold.core, answer.core)[0], "percent-sign"
    return same, "percent"


def _angle(gold: Quantity, answer: Quantity) -> Outcome:
    """The sign of degrees may be missing; an angle in terms of pi is in radians."""
    marked, other = (gold, answer) if gold.degrees else (answer, gold)
    if other.unit.lower().startswith("rad"):
        radians = f"\\frac{{({marked.core})\\pi}}{{180}}"
        return _equal_scaled(radians, other.core)[0], "radians"
    same, _ = _equal_scaled(gold.core, answer.core)
    if same:
        return True, "degrees"
    if "\\pi" in other.core and read_decimal(marked.core) is not None:
        radians = f"\\frac{{{marked.core}\\pi}}{{180}}"
        return _equal_scaled(radians, other.core)[0], "radians"
    return same, "degrees"


def _equal_scaled(
    gold: str, answer: str, gold_scale: Fraction = Fraction(1), answer_scale: Fraction = Fraction(1)
) -> Outcome:
    g = _Side(gold, gold_scale, _scaled(read_decimal(gold), gold_scale))
    a = _Side(answer, answer_scale, _scaled(read_decimal(answer), answer_scale))
    if _SINGLE.fullmatch(gold.strip()) and _SINGLE.fullmatch(answer.strip()):
        return gold.strip() == answer.strip() and gold_scale == answer_scale, "free-symbol"
    if g.decimal and a.decimal:
        return _two_decimals(g.decimal, a.decimal), "decimals"
    if (g.decimal and _has_variable(answer)) or (a.decimal and _has_variable(gold)):
        return False, "free-symbol"
    left, right = _parsed(gold), _parsed(answer)
    if left is None or right is None:
        ratio = _ratios(gold, answer)
        return ratio, "ratio" if ratio is not None else "math-verify"
    rounded = _rounded(g, a, left, right)
    if rounded is not None:
        return rounded, "decimals"
    if gold_scale != 1:
        left = left * algebra.rational(gold_scale)
    if answer_scale != 1:
        right = right * algebra.rational(answer_scale)
    same, rule = algebra.equal(left, right, gold, answer)
    return same, rule


def _has_variable(text: str) -> bool:
    return bool(_LETTER.search(text)) and not _BINDER.search(text)


def _parsed(text: str) -> Any | None:
    fraction = algebra.exact_fraction(text)
    return algebra.rational(fraction) if fraction is not None else algebra.parse(text)


def _scaled(decimal: Decimal | None, scale: Fraction) -> Decimal | None:
    if decimal is None or scale == 1:
        return decimal
    return Decimal(
        decimal.value * scale, decimal.step * scale, decimal.digits, False, decimal.scientific
    )


def _two_decimals(gold: Decimal, answer: Decimal) -> bool:
    if gold.value == answer.value:
        return True
    coarse, fine = (gold, answer) if gold.step > answer.step else (answer, gold)
    if coarse.step == fine.step or coarse.exact:
        return False
    return _trusted(coarse, coarse is gold) and rounds_to(fine.value, coarse)


def _trusted(written: Decimal, is_gold: bool) -> bool:
    """Whether so many digits are enough to stand for a value that is not exactly this one."""
    if is_gold:
        return written.digits >= _GOLD_DIGITS
    return written.digits >= (_SCIENTIFIC_DIGITS if written.scientific else _ANSWER_DIGITS)


def _rounded(gold: _Side, answer: _Side, left: Any, right: Any) -> bool | None:
    """A written decimal against a constant: rule `decimals`; None if it does not apply."""
    written, other, is_gold = gold.decimal, right, True
    scale = answer.scale
    if written is None:
        written, other, is_gold, scale = answer.decimal, left, False, gold.scale
    if written is None:
        return None
    value = algebra.constant(other)
    if value is None:
        return None
    value *= scale
    exact = algebra.exact(other)
    if exact is not None and exact * scale == written.value:
        return True
    irrational = exact is None
    if irrational and abs(value - written.value) <= abs(value) * _EXACT:
        if algebra.same_in_full(other, algebra.rational(written.value / scale)):
            return True
        if written.exact:
            return False
    if (
        irrational
        and not written.exact
        and written.digits >= _FLOAT_DIGITS
        and abs(value - written.value) <= abs(value) * _FLOAT
    ):
        return True
    if written.exact or value.denominator == 1:
        return None if written.exact else False
    return _trusted(written, is_gold) and rounds_to(value, written)


def readable_value(text: str) -> bool:
    """Whether every side of the equals signs is a name, a number or an expression."""
    for side in _sides(text):
        if is_name(side):
            continue
        core = read_quantity(side).core
        if read_decimal(core) is None and _parsed(core) is None and _ratio(core) is None:
            return False
    return True


def _ratios(gold: str, answer: str) -> bool | None:
    """`2:1` against `4:2`, `2` or `2/1`."""
    left, right = _ratio(gold), _ratio(answer)
    return None if left is None or right is None else left == right


def _ratio(text: str) -> Fraction | None:
    match = _RATIO.match(text.strip())
    above = _constant(match.group(1)) if match else _constant(text)
    below = _constant(match.group(2)) if match else Fraction(1)
    return above / below if above is not None and below else None


def constant(text: str) -> Fraction | None:
    """The value of a tidy constant with its unit taken off; None for anything else."""
    return _constant(read_quantity(text).core)


def _constant(text: str) -> Fraction | None:
    written = read_decimal(text)
    return written.value if written else algebra.constant(_parsed(text))
