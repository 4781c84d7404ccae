"""Rules on two values without equals signs: decimals, ratios, percent, angles, units, clocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hapo_core.verify.math import algebra, numeric, parsing
from hapo_core.verify.math.quantity import (
    Decimal,
    Quantity,
    known_units,
    other_powers,
    prefix_factor,
    read_clock,
    read_decimal,
    read_quantity,
    rounds_to,
    unit_factor,
)
from hapo_core.verify.math.text import compact

_GOLD_DIGITS, _ANSWER_DIGITS, _SCIENTIFIC_DIGITS = 3, 4, 3
"""Significant digits from which a written decimal stands for what rounds to it: in a gold, in an
answer, in an answer in scientific notation."""
_FLOAT_DIGITS, _FLOAT = 16, Fraction(1, 2**51)
"""A 64-bit float printed in full: its digits, and its relative error after an operation or two."""
_EXACT = Fraction(1, 10**40)
"""Relative; constants are known to 60 digits."""
_TERM = r"([\d./]+|\\frac\{\d+\}\{\d+\}|\([^():]+\))"
_RATIO = re.compile(rf"^{_TERM}\s*:\s*{_TERM}$")
_LETTER = re.compile(r"(?<![\\A-Za-z{])[A-DF-HJ-Za-df-hj-z](?![A-Za-z])")
"""A letter that stands alone and is neither e nor i: a number does not contain one."""
_BINDER = re.compile(r"\\(?:sum|prod|int|lim|max|min|text|begin)(?![a-z])")
SINGLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")

Outcome = tuple[bool | None, str]


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: its spelling, a factor from its sign or unit, its decimal form."""

    text: str
    scale: Fraction
    decimal: Decimal | None


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
        scale = None if left and right else prefix_factor(g.unit, a.unit)
        if scale == 0 or other_powers(g.unit, a.unit):
            return False, "units"
        if scale is not None:
            return _equal_scaled(g.core, a.core, scale, Fraction(1))[0], "units"
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
    names = [set(SINGLE.findall(side)) - {"e", "i"} for side in (gold, answer)]
    if len(names[0]) != 1 or len(names[1]) != 1 or names[0] == names[1]:
        return answer
    (left,), (right,) = names
    if left not in _PARAMETER or right not in _PARAMETER:
        return answer
    return re.sub(rf"(?<![A-Za-z\\\\]){right}(?![A-Za-z])", left, answer)


_PERIOD = re.compile(r"\\pi(?![a-z])|(?:180|360|90)\s*\^?\s*\\circ|(?<!\d)(?:180|360)")


def _same_time(gold: tuple[int, str], answer: tuple[int, str]) -> bool:
    """Without `a.m.` or `p.m.` a time is of either half of the day, or counted to 24."""
    if gold[0] == answer[0]:
        return True
    bare = gold if not gold[1] else answer
    return not bare[1] and bare[0] < 13 * 60 and gold[0] % 720 == answer[0] % 720


def _proportional(golds: list[str], answers: list[str]) -> bool | None:
    """`1:2:3` against `2:4:6`; None if a term is no number."""
    left, right = [constant_of(t) for t in golds], [constant_of(t) for t in answers]
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
    if gold.unit or answer.unit:
        return None, "percent"
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
    if SINGLE.fullmatch(gold.strip()) and SINGLE.fullmatch(answer.strip()):
        return gold.strip() == answer.strip() and gold_scale == answer_scale, "free-symbol"
    if g.decimal and a.decimal:
        return _two_decimals(g.decimal, a.decimal), "decimals"
    if (g.decimal and _has_variable(answer)) or (a.decimal and _has_variable(gold)):
        return False, "free-symbol"
    left, right = parsed_value(gold), parsed_value(answer)
    if left is None or right is None:
        ratio = _ratios(gold, answer)
        return ratio, "ratio" if ratio is not None else "math-verify"
    rounded = _rounded(g, a, left, right)
    if rounded is not None:
        return rounded, "decimals"
    if gold_scale != 1:
        left = left * numeric.rational(gold_scale)
    if answer_scale != 1:
        right = right * numeric.rational(answer_scale)
    same, rule = algebra.equal(left, right, gold, answer)
    return same, rule


def _has_variable(text: str) -> bool:
    return bool(_LETTER.search(text)) and not _BINDER.search(text)


def parsed_value(text: str) -> Any | None:
    fraction = parsing.exact_fraction(text)
    return numeric.rational(fraction) if fraction is not None else parsing.parse(text)


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
    value = numeric.constant(other)
    if value is None:
        return None
    value *= scale
    exact = numeric.exact(other)
    if exact is not None and exact * scale == written.value:
        return True
    irrational = exact is None
    if irrational and abs(value - written.value) <= abs(value) * _EXACT:
        if numeric.same_in_full(other, numeric.rational(written.value / scale)):
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


def _ratios(gold: str, answer: str) -> bool | None:
    """`2:1` against `4:2`, `2` or `2/1`."""
    left, right = ratio_of(gold), ratio_of(answer)
    return None if left is None or right is None else left == right


def ratio_of(text: str) -> Fraction | None:
    match = _RATIO.match(text.strip())
    above = constant_of(match.group(1)) if match else constant_of(text)
    below = constant_of(match.group(2)) if match else Fraction(1)
    return above / below if above is not None and below else None


def constant(text: str) -> Fraction | None:
    """The value of a tidy constant with its unit taken off; None for anything else."""
    return constant_of(read_quantity(text).core)


def constant_of(text: str) -> Fraction | None:
    written = read_decimal(text)
    return written.value if written else numeric.constant(parsed_value(text))
