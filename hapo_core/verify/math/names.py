r"""Names that a grammar reads as products or passes over: points, and variables of integration.

`\angle ABC` is no `\angle ACB`, `AB \cdot CD` no `AC \cdot BD`, `\int x\,dy` no `\int y\,dx`. To
math-verify the first two are products of letters, and both integrals are `xy`.
"""

from __future__ import annotations

import re

_NO_WORDS = re.compile(r"\\text\s*\{[^{}]*\}|\\begin\s*\{\w+\*?\}|\\end\s*\{\w+\*?\}")
_POINTS = re.compile(r"(\\?[A-Za-z]+|[\[_])?\s*\{?\s*(?<![A-Za-z])([A-Z]{2,6})(?![A-Za-z])")
_AREAS = {"[", "_", "\\triangle", "\\Delta"}
"""Before the letters of a triangle, whose order says nothing."""
_ROUND = {"\\square", "\\odot", "\\Box"}
"""Before the corners of a polygon: read round, either way."""
_VARIABLE = re.compile(r"(?<![A-Za-z\\])d\s*(?:\{\s*)?(\\?[A-Za-z]+)")
_OPEN_INTEGRAL = re.compile(r"\\i{0,2}int(?![a-zA-Z])(?!\s*(?:\\limits)?\s*_)|\\oint(?![a-zA-Z])")
_OPERATOR = re.compile(r"\\frac\s*\{\s*d\s*(?:\^[^{}]*)?\}\s*\{\s*d")


def differ(gold: str, answer: str) -> str:
    """What two sides name differently with the same letters, or an empty string."""
    points = _points(gold), _points(answer)
    if points[0] and points[1] and set(points[0]) != set(points[1]):
        letters = [sorted("".join(side)) for side in points]
        if letters[0] == letters[1]:
            return "the order of points"
    variables = _variables(gold), _variables(answer)
    if variables[0] and variables[1] and variables[0] != variables[1]:
        return "the variable of an integral or derivative"
    return ""


def _points(text: str) -> list[str]:
    """Runs of capitals in one spelling each: `BA` is `AB`, and `CBA` is `ABC`."""
    return [
        _one_spelling(before, letters)
        for before, letters in _POINTS.findall(_NO_WORDS.sub(" ", text))
    ]


def _one_spelling(before: str, letters: str) -> str:
    if len(letters) == 3 and before in _AREAS:
        return "".join(sorted(letters))
    turned = [letters]
    if len(letters) > 3 or before in _ROUND:
        turned = [letters[place:] + letters[:place] for place in range(len(letters))]
    return min(turned + [word[::-1] for word in turned])


def _variables(text: str) -> list[str]:
    """The variables of integrals without bounds and of operators `d/dx`."""
    if not (_OPEN_INTEGRAL.search(text) or _OPERATOR.search(text)):
        return []
    return sorted(_VARIABLE.findall(text))
