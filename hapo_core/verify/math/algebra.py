"""Whether two parsed values are the same: math-verify, with two numeric rules around it.

`number`: two constants are compared exactly, or to 40 digits. `witness`: two expressions that
differ at one real point are different; that is cheap and needs no simplifier. Where no point
separates them, math-verify decides, and what it cannot simplify counts as equal if at least four
real points agree to 40 digits (`identity`).
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

import sympy
from math_verify import verify

from hapo_core.verify.math.numeric import (
    AGREE,
    CONTEXT,
    Extreme,
    Number,
    Unknown,
    evaluate,
    exact,
    same_in_full,
    same_number,
)
from hapo_core.verify.math.parsing import is_complex, parse

_POINTS, _ENOUGH = 10, 4
_WRITTEN_OUT = 5
_LARGE = 150
"""Expressions with more operations than this are not handed to the simplifier once `identity`
holds for them: it may take minutes for what the points have shown."""
_INTEGER_ONLY = {"factorial", "binomial", "Mod", "gamma"}
_COUNTS = frozenset("ijklmnpqN")
"""Names of whole numbers by custom: only these are sampled at integers beside floor and ceiling."""


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
        except (Unknown, Extreme, AttributeError):
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
        except Unknown:
            return False if _zero_power(side) else None
        except Extreme:
            values.append(None)
    if values[0] is None and values[1] is None:
        return True if gold == answer else None
    if values[0] is None or values[1] is None:
        return False
    if not same_number(values[0], values[1]):
        return False
    return True if gold == answer else same_in_full(gold, answer)


def _zero_power(expression: Any) -> bool:
    """Whether it holds `0^0`, which is a convention and no value."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Pow) and not part.free_symbols:
            try:
                if not evaluate(part.exp) and not evaluate(part.base):
                    return True
            except (Unknown, Extreme):
                continue
    return False


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
        except (Unknown, Extreme):
            continue
        if any(abs(CONTEXT.im(v)) > AGREE * (1 + abs(v)) for v in (left, right)):
            continue  # off the real domain, branches may differ
        if not same_number(CONTEXT.re(left), CONTEXT.re(right)):
            return False, True
        agreed += 1
    return agreed >= _ENOUGH, False


def _coordinate(name: str, number: int, whole: bool) -> Number:
    """A fixed pseudo-random value: in (0, 1), then (1, 4), then (-3, 0), or a small integer."""
    digest = hashlib.sha256(f"{name}\x1f{number}".encode()).digest()
    unit = Fraction(int.from_bytes(digest[:6], "big") | 1, 1 << 48)
    if whole:
        return CONTEXT.mpf(1 + int(unit * 9))
    low, width = ((0, 1), (1, 3), (-3, 3))[number % 3]
    value = low + width * unit
    return CONTEXT.mpf(value.numerator) / value.denominator


def _equal_with_unit(gold: Any, answer: Any) -> bool:
    names = {s.name for s in gold.free_symbols | answer.free_symbols}
    for number in range(4):
        point = {name: _coordinate(name, number, False) for name in names}
        point["i"] = CONTEXT.mpc(0, 1)
        try:
            if not same_number(evaluate(gold, point), evaluate(answer, point)):
                return False
        except (Unknown, Extreme):
            return False
    return True
