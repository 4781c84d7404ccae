"""Values: math-verify's parser and comparison, with two numeric rules around them.

`number`: two constants are compared exactly, or to 40 digits. `witness`: two expressions that
differ at one real point are different; that is cheap and needs no simplifier. Where no point
separates them, math-verify decides, and what it cannot simplify counts as equal if at least four
real points agree to 40 digits (`identity`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex

from hapo_core.verify.math import symbols

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CONTEXT = mpmath.mp.clone()
_CONTEXT.dps = 60
_AGREE = _CONTEXT.mpf(10) ** -40
_EXTREME_BITS = 200_000
"""A power beyond 2^(+-this) is not evaluated; it equals no number that is."""
_EXACT_BITS = 10_000
"""Whole powers up to this size are computed exactly."""
_POINTS, _ENOUGH = 10, 4
_WRITTEN_OUT = 5
_LARGE = 150
"""Expressions with more operations than this are not handed to the simplifier once `identity`
holds for them: it may take minutes for what the points have shown."""

_BARE_DENOMINATOR = re.compile(
    r"(\\frac\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})\s*([A-Za-z0-9])"
)
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.)}])(\d{1,2})!!(?!!)")
"""`5!!` is 5 * 3 * 1; the grammar would take it for `(5!)!`."""
Number = Any  # mpf or mpc of the private mpmath context
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "exp": _CONTEXT.exp, "sin": _CONTEXT.sin, "cos": _CONTEXT.cos, "tan": _CONTEXT.tan,
    "cot": _CONTEXT.cot, "sec": _CONTEXT.sec, "csc": _CONTEXT.csc, "asin": _CONTEXT.asin,
    "acos": _CONTEXT.acos, "atan": _CONTEXT.atan, "acot": _CONTEXT.acot, "sinh": _CONTEXT.sinh,
    "cosh": _CONTEXT.cosh, "tanh": _CONTEXT.tanh, "Abs": abs, "floor": _CONTEXT.floor,
    "ceiling": _CONTEXT.ceil, "sign": _CONTEXT.sign, "UnevaluatedExpr": lambda x: x,
    "Max": max, "Min": min,
}  # fmt: skip
_INTEGER_ONLY = {"factorial", "binomial", "Mod", "gamma"}
_COUNTS = frozenset("ijklmnpqN")
"""Names of whole numbers by custom: only these are sampled at integers beside floor and ceiling."""


class _Unknown(Exception):
    """The value cannot be computed here: a sum, an undefined function, a pole."""


class _Extreme(Exception):
    """The value is finite and not zero, but astronomically large or small."""


def parse(text: str, complex_too: bool = False) -> Any | None:
    """A tidy value as a sympy object, or None if math-verify's grammar does not read it."""
    return _parse(text, complex_too or should_treat_as_complex(text))


@lru_cache(maxsize=256)
def _parse(text: str, as_complex: bool) -> Any | None:
    named = symbols.explicit(_explicit(text))
    if named is None:
        return None
    normal = normalize_latex(named, _NORMALIZATION)
    if not normal:
        return None
    try:
        return latex2sympy(
            normal, is_real=not as_complex, convert_degrees=False, normalization_config=None
        )
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the grammar raises its own, ANTLR's and sympy's errors
        return None


def _explicit(text: str) -> str:
    """Names that the grammar would split, mixed numbers, and degrees inside functions."""
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])", text):
        text = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)\s*\^\\circ", r"{(\\frac{\1 \\pi}{180})}", text)
    text = _BARE_DENOMINATOR.sub(r"\1{\2}", text)
    text = _DOUBLE_FACTORIAL.sub(lambda m: str(math.prod(range(int(m.group(1)), 0, -2))), text)
    text = re.sub(r"_\s*\{\s*\\text\{([^{}]*)\}\s*\}", r"_{\1}", text)
    text = re.sub(r"_\s*\\text\{([^{}]*)\}", r"_{\1}", text)
    text = re.sub(r"_\s*\{?\\(odot|oplus|ast|star)\s*\}?", r"_{o}", text)
    return re.sub(r"(?<![\d.^_{])(\d+)\s*(?=\\frac\s*\{?\s*\d+\s*\}?\s*\{?\s*\d)", r"\1 ", text)


def exact_fraction(text: str) -> Fraction | None:
    """`3/4`, `-\\frac{3}{4}`, `\\frac{-3}{4}`: the commonest answers, without the grammar."""
    match = re.fullmatch(
        r"([+-]?)\s*(?:\\frac\s*\{\s*(-?\d{1,50})\s*\}\s*\{\s*(-?\d{1,50})\s*\}"
        r"|\(?(\d{1,50})\)?\s*/\s*\(?(-?\d{1,50})\)?)",
        text.strip(),
    )
    if not match:
        return None
    above, below = match.group(2) or match.group(4), match.group(3) or match.group(5)
    if int(below) == 0:
        return None
    value = Fraction(int(above), int(below))
    return -value if match.group(1) == "-" else value


def evaluate(expression: Any, point: Mapping[str, Number] | None = None) -> Number:
    """The value at a point, to 60 digits.

    Raises:
        _Unknown, _Extreme: there is none, or it is out of range.
    """
    try:
        value = _evaluate(expression, point or {})
    except (ZeroDivisionError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _Unknown from error
    if not _CONTEXT.isfinite(value):
        raise _Unknown
    return value


def _evaluate(expression: Any, point: Mapping[str, Number]) -> Number:
    if isinstance(expression, sympy.Float):
        return _CONTEXT.mpf(str(expression))
    if isinstance(expression, sympy.Rational):
        if expression.p.bit_length() + expression.q.bit_length() > _EXTREME_BITS:
            raise _Extreme
        return _CONTEXT.mpf(int(expression.p)) / int(expression.q)
    if isinstance(expression, sympy.Symbol):
        if expression.name not in point:
            raise _Unknown
        return point[expression.name]
    if expression is sympy.pi:
        return +_CONTEXT.pi
    if expression is sympy.E:
        return +_CONTEXT.e
    if expression is sympy.I:
        return _CONTEXT.mpc(0, 1)
    if isinstance(expression, sympy.Add):
        try:
            return _CONTEXT.fsum(_evaluate(a, point) for a in expression.args)
        except _Extreme as error:  # it may cancel
            raise _Unknown from error
    if isinstance(expression, sympy.Mul):
        return _product(expression, point)
    if isinstance(expression, sympy.Pow):
        return _power(_evaluate(expression.base, point), _evaluate(expression.exp, point))
    return _function(expression, point)


def _product(expression: Any, point: Mapping[str, Number]) -> Number:
    extreme, value = 0, _CONTEXT.mpf(1)
    for argument in expression.args:
        try:
            value *= _evaluate(argument, point)
        except _Extreme:
            extreme += 1
    if not extreme:
        return value
    if extreme > 1 or not value:  # a quotient of two may be anything
        raise _Unknown
    raise _Extreme


def _power(base: Number, exponent: Number) -> Number:
    if not base and not exponent:
        raise _Unknown  # a convention, not a value
    if base and abs(exponent) * abs(_CONTEXT.log(abs(base), 2)) > _EXTREME_BITS:
        raise _Extreme
    return base**exponent


def _function(expression: Any, point: Mapping[str, Number]) -> Number:
    name = type(expression).__name__
    if not isinstance(expression, (sympy.Function, sympy.core.expr.Expr)):
        raise _Unknown
    try:
        arguments = [_evaluate(a, point) for a in expression.args]
    except _Extreme as error:
        raise _Unknown from error
    if name == "exp":
        return _power(+_CONTEXT.e, arguments[0])
    if name == "log":
        if len(arguments) == 2:
            return _CONTEXT.log(arguments[0]) / _CONTEXT.log(arguments[1])
        return _CONTEXT.log(arguments[0])
    if name in ("factorial", "gamma"):
        shifted = arguments[0] + (1 if name == "factorial" else 0)
        if abs(shifted) > 10_000:
            raise _Extreme
        return _CONTEXT.gamma(shifted)
    if name == "binomial":
        if any(abs(a) > 10_000 for a in arguments):
            raise _Unknown
        return _CONTEXT.binomial(*arguments)
    if name not in _FUNCTIONS:
        raise _Unknown
    return _FUNCTIONS[name](*arguments)


def same_number(left: Number, right: Number) -> bool:
    """Equal to 40 significant digits; what cancels to below 1e-50 is zero."""
    difference = abs(left - right)
    largest = max(abs(left), abs(right))
    if not left or not right:
        return bool(largest < _CONTEXT.mpf(10) ** -50)
    return bool(difference <= _AGREE * largest)


def is_complex(*texts: str) -> bool:
    """Whether math-verify would read one of them as complex (symbols then lose `real`)."""
    return any(should_treat_as_complex(text) for text in texts)


def rational(value: Fraction) -> Any:
    """The sympy number of a fraction."""
    return sympy.Rational(value.numerator, value.denominator)


def equal(gold: Any, answer: Any, gold_text: str, answer_text: str) -> tuple[bool | None, str]:
    """Whether two parsed values are the same, and the rule that decided.

    Returns:
        None where math-verify itself has no answer (an undefined value such as 0/0).
    """
    if is_complex(gold_text) != is_complex(answer_text):
        gold, answer = parse(gold_text, True) or gold, parse(answer_text, True) or answer
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return math_verify_says(gold, answer), "math-verify"
    if not gold.free_symbols and not answer.free_symbols:
        decided = _equal_constants(gold, answer)
        if decided is not None:
            return decided, "number"
        return math_verify_says(gold, answer), "math-verify"
    if _is_unexpanded(gold, answer):
        return False, "unexpanded"
    agreed, differ = _compare_at_points(gold, answer)
    if differ:
        imaginary = any(s.name == "i" for s in gold.free_symbols | answer.free_symbols)
        if imaginary and _equal_with_unit(gold, answer):
            return True, "imaginary-unit"
        return False, "witness"
    if agreed and (gold.count_ops() > _LARGE or answer.count_ops() > _LARGE):
        return True, "identity"
    if math_verify_says(gold, answer):
        return True, "math-verify"
    return agreed, "identity" if agreed else "math-verify"


def equal_equations(gold: Any, answer: Any) -> bool | None:
    """Rule `equation`: other variables, another equation; a constant multiple, the same one.

    Returns:
        None where neither holds, or one side is no equation between expressions.
    """
    if not isinstance(gold, sympy.Eq) or not isinstance(answer, sympy.Eq):
        return None
    names = [sorted(s.name for s in side.free_symbols) for side in (gold, answer)]
    if names[0] != names[1]:
        return False
    ratios: list[Number] = []
    for number in range(_POINTS):
        point = {name: _coordinate(name, number, False) for name in names[0]}
        try:
            left, right = (evaluate(s.lhs, point) - evaluate(s.rhs, point) for s in (gold, answer))
        except (_Unknown, _Extreme, AttributeError):
            continue
        if not left or not right:
            continue
        ratios.append(left / right)
    if len(ratios) >= _ENOUGH and all(same_number(r, ratios[0]) for r in ratios[1:]):
        return True
    return None


def _is_unexpanded(gold: Any, answer: Any) -> bool:
    """A gold written out in more than five terms, answered by a product of three or more sums.

    Such an answer repeats the question ("multiply out"). A factored short polynomial is fine.
    """
    terms = _flat(gold, sympy.Add)
    if len(terms) <= _WRITTEN_OUT or any(term.has(sympy.Add) for term in terms):
        return False
    factors = _flat(answer, sympy.Mul)
    return sum(isinstance(f, sympy.Add) and bool(f.free_symbols) for f in factors) > 2


def _flat(expression: Any, kind: Any) -> list[Any]:
    """Terms or factors, through the nesting that unevaluated parsing leaves."""
    if not isinstance(expression, kind):
        return [expression]
    return [part for argument in expression.args for part in _flat(argument, kind)]


def math_verify_says(gold: Any, answer: Any) -> bool:
    """math-verify's verdict, without its timeouts (they use SIGALRM; the pool has its own)."""
    return bool(verify(gold, answer, timeout_seconds=None))


def _equal_constants(gold: Any, answer: Any) -> bool | None:
    if isinstance(gold, sympy.Rational) and isinstance(answer, sympy.Rational):
        return bool(gold == answer)
    whole = exact(gold), exact(answer)
    if whole[0] is not None and whole[1] is not None:
        return whole[0] == whole[1]
    values: list[Number | None] = []
    for side in (gold, answer):
        try:
            values.append(evaluate(side))
        except _Unknown:
            return False if _zero_power(side) else None
        except _Extreme:
            values.append(None)
    if values[0] is None and values[1] is None:
        return True if gold == answer else None
    if values[0] is None or values[1] is None:
        return False
    if not same_number(values[0], values[1]):
        return False
    return True if gold == answer else same_in_full(gold, answer)


_MORE_DIGITS, _MOST_DIGITS = 300, 4000


def same_in_full(gold: Any, answer: Any) -> bool | None:
    """Two constants that agree to 40 digits, with digits enough for what they are written with.

    `\\sqrt{2} + 10^{-50}` is not `\\sqrt{2}`, nor `e^{2010} - 1` the same as `e^{2010} - 2`.

    Returns:
        None where that would take too many digits. A number too small for them is a difference.
    """
    try:
        spans = [*_span(gold), *_span(answer)]
    except (_Unknown, _Extreme):
        return True
    if -min(spans) > _MOST_DIGITS or max(spans) > _MOST_DIGITS:
        return False if -min(spans) > _MOST_DIGITS else None
    widest = max(max(spans), -min(spans))
    digits = min(max(_MORE_DIGITS, 2 * widest + 30), _MOST_DIGITS)  # roots halve it
    with _CONTEXT.workdps(_CONTEXT.dps + digits):
        try:
            left, right = evaluate(gold), evaluate(answer)
        except (_Unknown, _Extreme):
            return True
        size = max(abs(left), abs(right))
        return bool(abs(left - right) * _CONTEXT.mpf(10) ** (digits + 10) <= size)


def _span(expression: Any) -> tuple[int, int]:
    """Decimal places of the smallest (at most 0) and largest power among a constant's parts."""
    places = [0]
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow | sympy.exp | sympy.Rational) and not part.free_symbols:
            value = abs(evaluate(part))
            places.append(int(_CONTEXT.log10(value)) if value else 0)
    return min(places), max(places)


def _zero_power(expression: Any) -> bool:
    """Whether it holds `0^0`, which is a convention and no value."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow) and not part.free_symbols:
            try:
                if not evaluate(part.exp) and not evaluate(part.base):
                    return True
            except (_Unknown, _Extreme):
                continue
    return False


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


def _compare_at_points(gold: Any, answer: Any) -> tuple[bool, bool]:
    """(enough real points agree, some real point differs)."""
    names = sorted({s.name for s in gold.free_symbols | answer.free_symbols})
    kinds = {
        type(node).__name__ for side in (gold, answer) for node in sympy.preorder_traversal(side)
    }
    stepped = bool(kinds & {"floor", "ceiling"})
    whole = {n for n in names if kinds & _INTEGER_ONLY or (stepped and n in _COUNTS)}
    agreed = 0
    for number in range(2 * _POINTS if stepped else _POINTS):
        point = {name: _coordinate(name, number, name in whole) for name in names}
        try:
            left, right = evaluate(gold, point), evaluate(answer, point)
        except (_Unknown, _Extreme):
            continue
        if any(abs(_CONTEXT.im(v)) > _AGREE * (1 + abs(v)) for v in (left, right)):
            continue  # off the real domain, branches may differ
        if not same_number(_CONTEXT.re(left), _CONTEXT.re(right)):
            return False, True
        agreed += 1
    return agreed >= _ENOUGH, False


def _coordinate(name: str, number: int, whole: bool) -> Number:
    """A fixed pseudo-random value: in (0, 1), then (1, 4), then (-3, 0), or a small integer."""
    digest = hashlib.sha256(f"{name}\x1f{number}".encode()).digest()
    unit = Fraction(int.from_bytes(digest[:6], "big") | 1, 1 << 48)
    if whole:
        return _CONTEXT.mpf(1 + int(unit * 9))
    low, width = ((0, 1), (1, 3), (-3, 3))[number % 3]
    value = low + width * unit
    return _CONTEXT.mpf(value.numerator) / value.denominator


def _equal_with_unit(gold: Any, answer: Any) -> bool:
    names = {s.name for s in gold.free_symbols | answer.free_symbols}
    for number in range(4):
        point = {name: _coordinate(name, number, False) for name in names}
        point["i"] = _CONTEXT.mpc(0, 1)
        try:
            if not same_number(evaluate(gold, point), evaluate(answer, point)):
                return False
        except (_Unknown, _Extreme):
            return False
    return True


def constant(expression: Any) -> Fraction | None:
    """A real constant as a fraction (60 digits are enough for any rounding), else None."""
    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return None
    if isinstance(expression, sympy.Rational):
        return Fraction(int(expression.p), int(expression.q))
    try:
        value = evaluate(expression)
    except (_Unknown, _Extreme):
        return None
    if abs(_CONTEXT.im(value)) > _AGREE:
        return None
    real = _CONTEXT.re(value)
    if abs(real) > _CONTEXT.mpf(10) ** 300 or (real and abs(real) < _CONTEXT.mpf(10) ** -300):
        return None
    sign, mantissa, exponent, _ = real._mpf_
    result = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -result if sign else result
