"""Numbers of expressions: exactly where they are rational, else to 60 digits.

An expression has a value at a point (`evaluate`), or none (`Unknown`), or one out of range
(`Extreme`). `same_number` compares to 40 digits and `same_in_full` with as many as are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy

CONTEXT = mpmath.mp.clone()
CONTEXT.dps = 60
AGREE = CONTEXT.mpf(10) ** -40
_EXTREME_BITS = 200_000
"""A power beyond 2^(+-this) is not evaluated; it equals no number that is."""
_EXACT_BITS = 10_000
"""Whole powers up to this size are computed exactly."""
Number = Any  # mpf or mpc of the private mpmath context
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "exp": CONTEXT.exp, "sin": CONTEXT.sin, "cos": CONTEXT.cos, "tan": CONTEXT.tan,
    "cot": CONTEXT.cot, "sec": CONTEXT.sec, "csc": CONTEXT.csc, "asin": CONTEXT.asin,
    "acos": CONTEXT.acos, "atan": CONTEXT.atan, "acot": CONTEXT.acot, "sinh": CONTEXT.sinh,
    "cosh": CONTEXT.cosh, "tanh": CONTEXT.tanh, "Abs": abs, "floor": CONTEXT.floor,
    "ceiling": CONTEXT.ceil, "sign": CONTEXT.sign, "UnevaluatedExpr": lambda x: x,
    "Max": max, "Min": min,
}  # fmt: skip


class Unknown(Exception):
    """The value cannot be computed here: a sum, an undefined function, a pole."""


class Extreme(Exception):
    """The value is finite and not zero, but astronomically large or small."""


def evaluate(expression: Any, point: Mapping[str, Number] | None = None) -> Number:
    """The value at a point, to 60 digits.

    Raises:
        Unknown, Extreme: there is none, or it is out of range.
    """
    try:
        value = _evaluate(expression, point or {})
    except (ZeroDivisionError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Unknown from error
    if not CONTEXT.isfinite(value):
        raise Unknown
    return value


def _evaluate(expression: Any, point: Mapping[str, Number]) -> Number:
    if isinstance(expression, sympy.Float):
        return CONTEXT.mpf(str(expression))
    if isinstance(expression, sympy.Rational):
        if expression.p.bit_length() + expression.q.bit_length() > _EXTREME_BITS:
            raise Extreme
        return CONTEXT.mpf(int(expression.p)) / int(expression.q)
    if isinstance(expression, sympy.Symbol):
        if expression.name not in point:
            raise Unknown
        return point[expression.name]
    if expression is sympy.pi:
        return +CONTEXT.pi
    if expression is sympy.E:
        return +CONTEXT.e
    if expression is sympy.I:
        return CONTEXT.mpc(0, 1)
    if isinstance(expression, sympy.Add):
        try:
            return CONTEXT.fsum(_evaluate(a, point) for a in expression.args)
        except Extreme as error:  # it may cancel
            raise Unknown from error
    if isinstance(expression, sympy.Mul):
        return _product(expression, point)
    if isinstance(expression, sympy.Pow):
        return _power(_evaluate(expression.base, point), _evaluate(expression.exp, point))
    return _function(expression, point)


def _product(expression: Any, point: Mapping[str, Number]) -> Number:
    extreme, value = 0, CONTEXT.mpf(1)
    for argument in expression.args:
        try:
            value *= _evaluate(argument, point)
        except Extreme:
            extreme += 1
    if not extreme:
        return value
    if extreme > 1 or not value:  # a quotient of two may be anything
        raise Unknown
    raise Extreme


def _power(base: Number, exponent: Number) -> Number:
    if not base and not exponent:
        raise Unknown  # a convention, not a value
    if base and abs(exponent) * abs(CONTEXT.log(abs(base), 2)) > _EXTREME_BITS:
        raise Extreme
    return base**exponent


def _function(expression: Any, point: Mapping[str, Number]) -> Number:
    name = type(expression).__name__
    if not isinstance(expression, (sympy.Function, sympy.core.expr.Expr)):
        raise Unknown
    try:
        arguments = [_evaluate(a, point) for a in expression.args]
    except Extreme as error:
        raise Unknown from error
    if name == "exp":
        return _power(+CONTEXT.e, arguments[0])
    if name == "log":
        if len(arguments) == 2:
            return CONTEXT.log(arguments[0]) / CONTEXT.log(arguments[1])
        return CONTEXT.log(arguments[0])
    if name in ("factorial", "gamma"):
        shifted = arguments[0] + (1 if name == "factorial" else 0)
        if abs(shifted) > 10_000:
            raise Extreme
        return CONTEXT.gamma(shifted)
    if name == "binomial":
        if any(abs(a) > 10_000 for a in arguments):
            raise Unknown
        return CONTEXT.binomial(*arguments)
    if name not in _FUNCTIONS:
        raise Unknown
    return _FUNCTIONS[name](*arguments)


def same_number(left: Number, right: Number) -> bool:
    """Equal to 40 significant digits; what cancels to below 1e-50 is zero."""
    difference = abs(left - right)
    largest = max(abs(left), abs(right))
    if not left or not right:
        return bool(largest < CONTEXT.mpf(10) ** -50)
    return bool(difference <= AGREE * largest)


def rational(value: Fraction) -> Any:
    """The sympy number of a fraction."""
    return sympy.Rational(value.numerator, value.denominator)


_MORE_DIGITS, _MOST_DIGITS = 300, 4000


def same_in_full(gold: Any, answer: Any) -> bool | None:
    """Two constants that agree to 40 digits, with digits enough for what they are written with.

    `\\sqrt{2} + 10^{-50}` is not `\\sqrt{2}`, nor `e^{2010} - 1` the same as `e^{2010} - 2`.

    Returns:
        None where that would take too many digits. A number too small for them is a difference.
    """
    try:
        spans = [*_span(gold), *_span(answer)]
    except (Unknown, Extreme):
        return True
    if -min(spans) > _MOST_DIGITS or max(spans) > _MOST_DIGITS:
        return False if -min(spans) > _MOST_DIGITS else None
    widest = max(max(spans), -min(spans))
    digits = min(max(_MORE_DIGITS, 2 * widest + 30), _MOST_DIGITS)  # roots halve it
    with CONTEXT.workdps(CONTEXT.dps + digits):
        try:
            left, right = evaluate(gold), evaluate(answer)
        except (Unknown, Extreme):
            return True
        size = max(abs(left), abs(right))
        return bool(abs(left - right) * CONTEXT.mpf(10) ** (digits + 10) <= size)


def _span(expression: Any) -> tuple[int, int]:
    """Decimal places of the smallest (at most 0) and largest power among a constant's parts."""
    places = [0]
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow | sympy.exp | sympy.Rational) and not part.free_symbols:
            value = abs(evaluate(part))
            places.append(int(CONTEXT.log10(value)) if value else 0)
    return min(places), max(places)


def exact(expression: Any) -> Fraction | None:
    """Sums, products and whole powers of rationals, exactly: `10^{100}+1` is not `10^{100}`."""
    if isinstance(expression, sympy.Rational):
        return Fraction(int(expression.p), int(expression.q)) if expression.q else None
    if isinstance(expression, sympy.Float):  # as it was written
        return Fraction(str(expression))
    if isinstance(expression, sympy.Pow):
        base, power = exact(expression.base), exact(expression.exp)
        if base is None or power is None or power.denominator != 1 or (not base and power <= 0):
            return None
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        return base ** int(power) if bits * abs(power) <= _EXACT_BITS else None
    if not isinstance(expression, sympy.Add | sympy.Mul):
        return None
    parts = [exact(argument) for argument in expression.args]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    return (
        sum(known, Fraction(0))
        if isinstance(expression, sympy.Add)
        else math.prod(known, start=Fraction(1))
    )


def constant(expression: Any) -> Fraction | None:
    """A real constant as a fraction (60 digits are enough for any rounding), else None."""
    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return None
    if isinstance(expression, sympy.Rational):
        return Fraction(int(expression.p), int(expression.q))
    try:
        value = evaluate(expression)
    except (Unknown, Extreme):
        return None
    if abs(CONTEXT.im(value)) > AGREE:
        return None
    real = CONTEXT.re(value)
    if abs(real) > CONTEXT.mpf(10) ** 300 or (real and abs(real) < CONTEXT.mpf(10) ** -300):
        return None
    sign, mantissa, exponent, _ = real._mpf_
    result = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -result if sign else result
