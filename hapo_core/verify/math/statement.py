"""Rule `statement`: what is said about values is compared word by word, the values as values.

Quantifiers, implications, norms, named sets, dots, cases and sentences have no parser here. Such a
text is cut at everything that is no value (relations, quantifiers, connectives, words, commas,
braces); the cuts must be the same on both sides, in their order, and the values between them equal.
Anything else is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from hapo_core.verify.math.text import compact

Equal = Callable[[str, str], bool | None]
_MARKS = re.compile(
    r"\\(?:forall|n?exists|implies|iff|neg|lnot|Vert|pmod|bmod|equiv|notin|subset\w*|supset\w*|perp|parallel|cong|"
    r"sim|[lcv]?dots|mapsto|land|lor|therefore)(?![a-zA-Z])|\.\.\.|…|\\begin\{cases\}[^&]*&"
    r"|\\\{\s*\\begin\{(?:array|aligned)\}[^&]*&"
    r"|[A-Z]\s*\\(?:cap|cup|setminus|times|triangle)(?![a-z])|P\([^()]*(?:\||\\mid)[^()]*\)"
)
_WORDY = re.compile(
    r"(?<![A-Za-z])(?:if|then|iff|implies|there exists?|such that|unless)(?![A-Za-z])",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"^\W*(?:\\text\{\s*)?for (?:all|any|every|each|some)(?![A-Za-z])", re.IGNORECASE
)
_TOKEN = re.compile(
    r"\\text\{([^{}]*)\}|(\\(?:begin|end)\{\w+\*?\}(?:\{[lcr|]*\})?)|(\\(?:[a-zA-Z]+|.))|(\.\.\.|…)"
    r"|((?<![A-Za-z_{\\])[A-Za-z]{2,}(?![A-Za-z]))|(.)",
    re.DOTALL,
)
_CUT_NAMES = """
forall exists nexists implies iff neg lnot Vert pmod bmod equiv notin subset subseteq subsetneq
supset supseteq perp parallel cong sim ldots cdots dots vdots lim to mapsto land lor therefore
cap cup setminus in le ge ne approx mid mathbb emptyset complement lfloor rfloor lceil rceil
angle triangle { }
"""
_CUTS = set(_CUT_NAMES.split()) | {"\\", "|"}
_CUT_SIGNS = set("<>=,;:&|'!?[]")
_SAME_CUT = {
    "\\cdots": "\\dots",
    "\\ldots": "\\dots",
    "...": "\\dots",
    "…": "\\dots",
    "\\mid": "|",
    ":": "|",
    "\\lnot": "\\neg",
    "\\subseteq": "\\subset",
}
_ARTICLES = {"the", "a", "an", "that", "we", "have"}
_FUNCTIONS = {"sin", "cos", "tan", "ln", "log"}


def marked(text: str) -> bool:
    """Whether something in the text says more than values, lists and regions do."""
    return (
        bool(_MARKS.search(text))
        or bool(_LEADING.match(text))
        or bool(_WORDY.search(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)))
    )


_DENIAL = re.compile(
    r"\\(?:nexists|neg|emptyset)(?![a-zA-Z])|(?<![A-Za-z])(?:no|not|none|never|neither|nowhere|impossible|empty|does)"
    r"(?![A-Za-z])",
    re.IGNORECASE,
)


def denies(text: str) -> bool:
    """Whether a statement may say that there is nothing."""
    return bool(_DENIAL.search(text))


def skeleton(text: str) -> tuple[list[str], list[str]]:
    """(cuts, values): one value, perhaps empty, before each cut and one after the last."""
    cuts: list[str] = []
    values, value = [], ""
    for match in _TOKEN.finditer(text):
        words, environment, command, dots, bare, sign = match.groups()
        found = _cut(words, environment, command, dots, bare, sign)
        if not found:
            value += match.group() if words is None else ""
            continue
        for cut in found:
            cuts.append(cut)
            values.append(value.strip())
            value = ""
    return cuts, [*values, value.strip()]


def _cut(
    words: str | None, environment: str | None, command: str | None, dots: str | None,
    bare: str | None, sign: str,
) -> list[str]:  # fmt: skip
    if words is not None:
        return _words(words)
    if bare is not None:  # `AB` and `abc` are products or points: values
        known = len(bare) > 3 or bare.lower() in _SMALL_WORDS
        return _words(bare) if known and bare not in _FUNCTIONS else []
    if environment or dots:
        return [_SAME_CUT.get(environment or dots or "", environment or dots or "")]
    if command is not None:
        return [_SAME_CUT.get(command, command)] if command[1:] in _CUTS else []
    return [_SAME_CUT.get(sign, sign)] if sign in _CUT_SIGNS else []


_SMALL = """
if is no not or and for all any of to in on by has the at are iff a.m be odd it we as but then
so do he my an up
"""
_SMALL_WORDS = set(_SMALL.split())


def _lower(match: re.Match[str]) -> str:
    word = match.group().lower()
    named = word not in _SMALL_WORDS and (len(word) == 2 or match.group()[1:] != word[1:])
    return match.group() if named else word


def _words(text: str) -> list[str]:
    """In lower case, but for names and units: `m` and `M`, `mm` and `Mm` are two."""
    text = re.sub(r"(?<![A-Za-z])A(?= [a-z]{2})", "a", text)
    text = re.sub(r"[A-Za-z]{2,}", _lower, text)
    return [w for w in re.findall(r"[^\W_]+|[^\w\s.,]", text) if w not in _ARTICLES]


def decide(gold: str, answer: str, same: Equal) -> bool | None:
    """Whether two statements are the same; None where they are built differently.

    Args:
        same: compares two values.
    """
    left, right = skeleton(gold), skeleton(answer)
    if left[0] != right[0]:
        return None
    unknown = False
    for one, other in zip(left[1], right[1], strict=True):
        if compact(one) == compact(other):
            continue
        comparable = one and other and not _SETS_PRODUCT.search(one + " " + other)
        equal = same(one, other) if comparable and _whole(one) and _whole(other) else None
        if equal is False:
            return False
        unknown = unknown or equal is None
    return None if unknown else True


_SETS_PRODUCT = re.compile(r"[A-Z]\s*\\times\s*[A-Z]")
"""`A \\times B` is no `B \\times A`."""


def _whole(text: str) -> bool:
    return text.count("(") == text.count(")") and text.count("{") == text.count("}")


def named(text: str) -> tuple[str, str] | None:
    """(name, value) of `A \\cap B = \\{1, 2\\}`, `P(A \\mid B) = 1/3`, `f'(x) = 2x`; else None."""
    match = _NAMED.match(text)
    return (match.group(1).strip(), match.group(2).strip()) if match else None


_SETS = (
    r"(?:\\complement\s*(?:_\{?\w+\}?)?\s*|\(|\)|\\overline\s*\{?)*"
    r"[A-Z](?:_\{?\w+\}?)?'*\}?(?:\^\s*\{?\w\}?)?\)*"
)
_NAMED = re.compile(
    rf"^({_SETS}(?:\s*\\(?:cap|cup|setminus|times|triangle|backslash)\s*{_SETS})+|\\complement[^=]*"
    r"|(?:P|Pr|E|\\mathbb\{[PE]\}|Var)\s*[(\[](?=[^=]*[A-Z<>|])[^=]*[)\]]"
    r"|\\overline\s*\{?\s*[A-Z]\s*\}?\s*"
    r"|\\?[A-Za-z]+(?:_\{?\w+\}?)?\s*'+\s*(?:\([^=()]*\))?"
    r"|\\Vert[^=]*\\Vert\s*|\\lim[^=]*|\|[^=|]*[A-Za-z][^=|]*\|)\s*=\s*([^=]+)$",
    re.DOTALL,
)
