"""Spelling to sympy objects: math-verify's grammar, and what is rewritten before it reads."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify.grader import should_treat_as_complex

from hapo_core.verify.math import symbols

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_BARE_DENOMINATOR = re.compile(
    r"(\\frac\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})\s*([A-Za-z0-9])"
)
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.)}])(\d{1,2})!!(?!!)")
"""`5!!` is 5 * 3 * 1; the grammar would take it for `(5!)!`."""
_BESIDE_A_FACTOR = re.compile(
    r"(?<![_^])(?:\(\s*-?\d+(?:\.\d+)?(?:/\d+)?\s*\)|\\binom\s*\{[^{}]*\}\s*\{[^{}]*\}"
    r"|\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\})(?=\s*(?:[(\[\d]|\\binom|\\frac))"
    r"|(?<![\w.^_\\])\d+(?:\.\d+)?(?=\s*(?:[(\[]\s*-?\d|\\binom))"
)
"""`(2)(3)`, `2\\binom{6}{2}`: the grammar adds two numbers side by side, as in `2 1/2`."""


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
    text = _BESIDE_A_FACTOR.sub(r"\g<0>\\cdot ", text)
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


def is_complex(*texts: str) -> bool:
    """Whether math-verify would read one of them as complex (symbols then lose `real`)."""
    return any(should_treat_as_complex(text) for text in texts)
