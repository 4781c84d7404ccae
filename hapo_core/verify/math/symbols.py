"""Names as the grammar must see them: it merges `R` with `r`, drops primes and words.

`explicit` gives every symbol a spelling of its own (`R` -> `r_{cap}`, `x'` -> `x_{prime}`), and
refuses text with anything in it that the grammar is known to pass over in silence: what is not in
the parse cannot have been compared.
"""

from __future__ import annotations

import re

_PASSED_OVER = re.compile(
    r"\\text|\\(?:forall|n?exists|neg|lnot|implies|iff|land|lor|Vert|mid|pmod|bmod|mod|notin|subset\w*|perp|"
    r"parallel|cong|sim|equiv|[lcv]?dots|cap|cup|setminus|quad|circ|not|substack|underbrace|overbrace)(?![a-zA-Z])"
    r"|\\to(?![a-zA-Z])(?![^{}]*\})|\.\.\.|[?;\"`@#&~]|(?<![A-Za-z\\])(?:or|and|not|if|is|to|of)(?![A-Za-z])|[^\x00-\x7f]"
    r"|!!|\\(?:partial|nabla|underline|langle)(?![a-zA-Z])|(?<![_^]\d)(?<=\d)\s+(?=\d)|(?<![\d.])0\s*\^\s*\{?\s*0\s*\}?(?![\d.])"
    r"|(?<![A-Za-z}\d]\d)(?<=\d)_\s*\{?\s*(?:\\text|[A-Za-z])"
    r"|(?<![A-Za-z\\{_])[A-Za-z]{6,}|(?<![\w.])0[bBoOxX][\dA-Fa-f]"
)
"""Words and signs that change a meaning and leave no trace in the parse."""
_VECTOR = re.compile(r"\\(?:vec|overrightarrow|mathbf|hat|boldsymbol)(?![a-z])")
_UNFINISHED = re.compile(r"(?:[+\-*/^_=]|\\(?:cdot|times|pm|mp|div|frac|sqrt))\s*$")
_RAISED_FIRST = re.compile(
    r"(?<=[A-Za-z}])\s*\^\s*(\{(?:[^{}]|\{[^{}]*\})*\}|[A-Za-z0-9])"
    r"\s*_\s*(\{(?:[^{}]|\{[^{}]*\})*\}|[A-Za-z0-9])"
)
"""`C^{m}_{n+k}`: the grammar drops an index behind a power, so it goes before it."""
_SUBSCRIPT = re.compile(r"_\s*(?:\{([^{}]*)\}|([A-Za-z0-9]))")
_PRIMED = re.compile(r"(\\?[A-Za-z]+)((?:_\{[^{}]*\})?)\s*('+)")
_CAPITAL = re.compile(r"(\\[A-Za-z]+)|([A-Z])((?:_\{([^{}]*)\})?)")
_GREEK = "gamma delta theta lambda xi pi sigma upsilon phi psi omega"
_CAPITAL_GREEK = {name.capitalize(): name for name in _GREEK.split()}
_LINED = re.compile(r"\\(overline|bar|hat|dot|ddot|vec|tilde|"
                    r"widehat|overrightarrow|widetilde|mathbf|mathcal)\s*"
                    r"(?:\{\s*([A-Za-z]{1,3})\s*\}|([A-Za-z]))")  # fmt: skip


def explicit(text: str) -> str | None:
    """The text with names that the grammar keeps apart; None if it would pass something over."""
    if _VECTOR.search(text) and "\\times" in text:
        return None  # it would become the scalar product
    if _PASSED_OVER.search(text) or _UNFINISHED.search(text):
        return None
    text = _RAISED_FIRST.sub(r"_\2^\1", text)
    text = _OF_A_FUNCTION.sub(_of_a_function, text)
    text = _COMMON.sub(_common, _DERIVATIVE.sub(r"{\1_{d\2}}", text))
    if _COMMON_OF_LETTERS.search(text):
        return None
    if not re.search(r"[A-Z']|\\(?:overline|bar|hat|d?dot|vec|tilde|wide|overright|math)", text):
        return text
    text = _LINED.sub(lambda m: _lined(m.group(1), m.group(2) or m.group(3)), text)
    text = _SUBSCRIPT.sub(lambda m: "_{" + _lower(m.group(1) or m.group(2)) + "}", text)
    text = _PRIMED.sub(_primed, text)
    return None if "'" in text else _CAPITAL.sub(_capital, text)


_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d\s*([A-Za-z])\s*\}\s*\{\s*d\s*([A-Za-z])\s*\}")
"""`dy/dx` is a name of its own: the grammar takes the derivative of the letter y, which is 0."""
_COMMON = re.compile(r"\\(gcd|lcm)\s*\(\s*([A-Za-z])\s*,\s*([A-Za-z])\s*\)")
_COMMON_OF_LETTERS = re.compile(r"\\(?:gcd|lcm)(?![a-z])(?!\s*\(\s*\d+(?:\s*,\s*\d+)*\s*\))")
"""Of letters sympy takes the divisor of polynomials: 1 for `\\gcd(a, b)`."""


def _common(match: re.Match[str]) -> str:
    """`\\gcd(a, b)` and `\\gcd(b, a)` as one symbol."""
    name = {"gcd": "divisor", "lcm": "multiple"}[match.group(1)]
    return f"{{c_{{{name}{''.join(sorted(match.groups()[1:]))}}}}}"


_OF_A_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])([fgFG])\s*\^\s*(?:\{\s*(-1|\(\s*\w+\s*\))\s*\}|(\(\w+\)))\s*(?=\()"
)


def _of_a_function(match: re.Match[str]) -> str:
    """`f^{-1}(x)` is no `1/f(x)`, and `f^{(2)}(x)` no square."""
    mark = match.group(2) or match.group(3)
    return f"{match.group(1)}_{{{'inverse' if mark == '-1' else 'derived' + mark.strip('() ')}}}"


def _lined(sign: str, letters: str) -> str:
    """`\\vec{a}` as a letter with an index; a line over several letters names one thing."""
    if len(letters) > 1 and sign in ("mathbf", "mathcal"):
        return letters
    return f"{letters[0]}_{{{sign}{letters[1:]}}}"


def _lower(index: str) -> str:
    return re.sub(
        r"(\\[A-Za-z]+)|([A-Z])", lambda m: m.group(1) or m.group(2).lower() + "cap", index
    )


def _primed(match: re.Match[str]) -> str:
    name, index, primes = match.groups()
    inside = index[2:-1] if index else ""
    last = name if name.startswith("\\") else name[-1]
    return f"{name[: len(name) - len(last)]}{last}_{{{inside}{'prime' * len(primes)}}}"


def _capital(match: re.Match[str]) -> str:
    command, letter, index, inside = match.groups()
    if command:
        name = _CAPITAL_GREEK.get(command[1:])
        following = match.string[match.end() :].lstrip()[:1]
        if name is None or (name == "gamma" and following == "("):
            return command
        return f"\\{name}_{{cap}}"
    small = "q" if letter == "E" else letter.lower()  # `e_{...}` is the constant with an index
    mark = "cape" if letter == "E" else "cap"
    return f"{small}_{{{inside or ''}{mark}}}" if index else f"{small}_{{{mark}}}"
