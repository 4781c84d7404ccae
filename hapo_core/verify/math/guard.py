"""What no rule may pass over: a tally of both sides by a tokenizer that shares nothing with them.

Numbers, letters (case kept), relations, quantifiers, connectives and words are counted in what was
written, before anything is simplified. `lost` names what one side has and the other has not, and
what no rule of this package takes into account: with it a pair is never `correct`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from hapo_core.verify.math import names
from hapo_core.verify.math.structure import split_top

_TOKEN = re.compile(
    r"\\(?:begin|end)\s*\{\w+\*?\}|\\[a-zA-Z]+|\\[{}|]|[0-9]+(?:\.[0-9]+)?"
    r"|[A-Za-z]+(?:[.-][A-Za-z]+)*\b|\.\.\.|[^\s]",
)
_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "≤": "le",
    "≥": "ge",
    "≠": "ne",
    "∈": "in",
    "∉": "notin",
    **{
        f"\\{a}": b
        for a, b in [
            ("le", "le"),
            ("leq", "le"),
            ("leqslant", "le"),
            ("ge", "ge"),
            ("geq", "ge"),
            ("geqslant", "ge"),
            ("ne", "ne"),
            ("neq", "ne"),
            ("in", "in"),
            ("notin", "notin"),
            ("subset", "subset"),
            ("subseteq", "subset"),
            ("supset", "supset"),
            ("supseteq", "supset"),
            ("equiv", "equiv"),
            ("sim", "sim"),
            ("perp", "perp"),
            ("parallel", "parallel"),
            ("cong", "cong"),
            ("lt", "<"),
            ("gt", ">"),
        ]
    },
}
_CHANGING_CONNECTIVES = """
not if then unless except only neither nor but iff otherwise never without less fewer more
greater least most under over above below before after maybe perhaps possibly probably likely
either alternatively else instead wrong incorrect false impossible unknown undefined rather than
almost nearly modulo mod remainder excluding including up between within divided minus plus
negative positive imaginary approaching inverse opposite reciprocal cannot don't isn't untrue
another guess sorry wait hmm actually no non
"""
"""Words that turn what stands beside them into something else, or into a guess."""
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
hundred hundreds hundredth hundredths thousand thousands thousandth thousandths million millions
millionth billion billions trillion dozen dozens dozenth score scores gross pair pairs couple
couples triple triples triplet triplets quadruple half halves third thirds quarter quarters
fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth
tenths twelfth twelfths double doubled doubles twice thrice tripled halved squared cubed
factorial squares cubes root roots square cube tens twins several few many both all none first
second percent percents permille decades decade centuries century fortnights lakh crore mega
giga kilo milli micro baker's choose power powers exponent log ln cubic sum product
"""
"""Words that are numbers, multiply or divide."""
_QUANTIFIERS = {"\\forall": "all", "∀": "all", "\\exists": "some", "∃": "some", "\\nexists": "none"}
_CONNECTIVES = {
    "\\implies": "then",
    "\\Rightarrow": "then",
    "\\Longrightarrow": "then",
    "⇒": "then",
    "\\therefore": "then",
    "\\iff": "iff",
    "\\Leftrightarrow": "iff",
    "⇔": "iff",
    "\\neg": "not",
    "\\lnot": "not",
    "¬": "not",
    "\\not": "not",
    "\\nsubseteq": "not",
    "\\land": "both",
    "\\wedge": "both",
    "\\mapsto": "to",
    "⟹": "then",
    **{word: word for word in _CHANGING_CONNECTIVES.split()},
}
_UNIT_LIKE = {
    "second",
    "percent",
    "first",
    "all",
    "both",
    "million",
    "millions",
    "billion",
    "billions",
    "trillion",
    "thousand",
    "thousands",
    "sum",
    "product",
    "log",
    "ln",
    "cube",
    "cubes",
    "power",
}
_MARKS = {
    "'": "prime",
    "′": "prime",
    "’": "prime",
    "\\prime": "prime",
    "!": "factorial",
    "\\lfloor": "floor",
    "\\lceil": "ceiling",
    "⌊": "floor",
    "⌈": "ceiling",
    "\\lVert": "norm",
    "\\Vert": "norm",
    "‖": "norm",
    "\\ldots": "dots",
    "\\dots": "dots",
    "\\cdots": "dots",
    "...": "dots",
    "…": "dots",
    "\\pmod": "mod",
    "\\bmod": "mod",
    "\\mod": "mod",
    "?": "question",
    "\\sum": "sum",
    "\\prod": "product",
    "\\int": "integral",
    "\\lim": "limit",
    "\\cap": "cap",
    "∩": "cap",
}


@dataclass(frozen=True)
class Tally:
    """Counts of one side, by class."""

    numbers: Counter[str]
    letters: Counter[str]
    relations: Counter[str]
    quantifiers: Counter[str]
    connectives: Counter[str]
    marks: Counter[str]
    words: Counter[str]
    others: Counter[str]


def tally(text: str) -> Tally:
    """Count what a side is written with. A plain `or` or `and` joins answers and is not counted."""
    numbers, letters, relations, quantifiers = (
        Counter[str](),
        Counter[str](),
        Counter[str](),
        Counter[str](),
    )
    connectives, marks, words, others = (
        Counter[str](),
        Counter[str](),
        Counter[str](),
        Counter[str](),
    )
    for token in _TOKEN.findall(_UNIT_POWER.sub(" ", text)):
        lower = token.lower()
        if token[0] in "0123456789":
            numbers[token] += 1
        elif token in _RELATIONS:
            relations[_RELATIONS[token]] += 1
        elif token in _QUANTIFIERS:
            quantifiers[_QUANTIFIERS[token]] += 1
        elif lower in _CONNECTIVES or token in _CONNECTIVES:
            connectives[_CONNECTIVES.get(token) or _CONNECTIVES[lower]] += 1
        elif token in _MARKS:
            marks[_MARKS[token]] += 1
        elif token[0].isalpha():
            (letters if len(token) == 1 else words)[token if len(token) == 1 else lower] += 1
        elif token not in _LAYOUT:
            others[token] += 1
    return Tally(numbers, letters, relations, quantifiers, connectives, marks, words, others)


_UNIT_POWER = re.compile(
    r"(?<![A-Za-z])(?:square|cubic|sq\.?|cu\.?)\s+(?=[a-z]{1,})|(?<=[A-Za-z]{2})\s+(?:squared|cubed)(?![A-Za-z])"
)
"""`square metres` and `metres squared` are units; `5 squared` is not."""
_LAYOUT = {
    "{",
    "}",
    "$",
    "\\left",
    "\\right",
    "\\text",
    "\\mathrm",
    "\\",
    "\\quad",
    "\\displaystyle",
}
_FREE = {"prime", "factorial", "sum", "product", "integral", "limit", "floor", "ceiling", "mod"}
"""Read by the grammar, as `symbols` hands them over; or refused by it."""


def lost(gold: str, answer: str) -> str:
    """What one side says and no rule compares, or an empty string."""
    left, right = tally(gold), tally(answer)
    if left.quantifiers != right.quantifiers:
        return "quantifiers"
    if left.connectives != right.connectives:
        differ = (left.connectives - right.connectives) + (right.connectives - left.connectives)
        return f"connective {min(differ)!r}"
    for name in (left.marks - right.marks) + (right.marks - left.marks):
        if name not in _FREE:
            return name
    if bool(_EXTREME.search(gold)) != bool(_EXTREME.search(answer)):
        return "max"
    if _whole_parts(gold) != _whole_parts(answer):
        return "brackets"
    ways = [set(side.words) & _DIRECTIONS for side in (left, right)]
    if ways[0] and ways[1] and ways[0] != ways[1]:
        return f"word {min(ways[0] ^ ways[1])!r}"
    if _SHAPE.search(gold + " " + answer) and _SIDES.findall(gold) != _SIDES.findall(answer):
        return "sides"
    if _modulus(gold) != _modulus(answer):
        return "modulus"
    named = names.differ(gold, answer)
    if named:
        return named
    changing = {
        w for w in (left.words - right.words) + (right.words - left.words) if w in _CHANGING
    }
    return f"word {min(changing)!r}" if changing else ""


_DIRECTION_WORDS = """
north south east west northeast northwest southeast southwest northward southward eastward
westward left right upward upwards downward downwards down clockwise counterclockwise
anticlockwise forward forwards backward backwards inward outward uphill downhill gain loss profit
deficit surplus increase decrease increased decreased rise fall earlier later early late ahead
behind owed deposit withdrawal debit credit won lost bc ad bce ce ago now wins losses heads tails
boys girls men women males females husband wife celsius fahrenheit kelvin noon midnight
"""
_DIRECTIONS = set(_DIRECTION_WORDS.split())
"""Words behind a value that turn it around; one side may leave them out."""


def _modulus(text: str) -> bool:
    """Whether it takes the modulus of a complex number: z or w, where no x or y is near."""
    return any(map(_COMPLEX.search, _BARS.findall(text))) and not re.search(
        r"(?<![A-Za-z\\])[xy](?![A-Za-z])", text
    )


_SHAPE = re.compile(
    r"(?<![A-Za-z])(?:matri|grid|board|rectang|table|array|lattice|block|checker|chess|tile)"
)
_SIDES = re.compile(r"(?<!\d)(\d+)\s*(?:\\times|x|by)\s*(?=(\d+))")
"""`3 \\times 4 \\text{ matrix}`: sides, and no product."""
_BARS = re.compile(r"\|([^|]*)(?=\|)")
_COMPLEX = re.compile(r"(?<![A-Za-z\\])[wz](?![A-Za-z])")


def hedged(gold: str, answer: str) -> str:
    """A remark in brackets that gives or doubts a value on one side only, or an empty string.

    Unlike `lost` it is asked after every rule, those included that compare words or a letter.
    """
    left, right = Counter(_remarks(gold)), Counter(_remarks(answer))
    differ = (left - right) + (right - left)
    return f"remark {min(differ)!r}" if differ else ""


_BRACKETED = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_DOUBT = re.compile(
    r"^\s*(?:or|also|alternatively|else|maybe|perhaps|possibly|probably|otherwise|unless|instead|but|"
    r"not|actually|rather|likely|and|resp|respectively|wrong|approx\w*\s+not|if not)(?![A-Za-z])",
    re.IGNORECASE,
)


def _remarks(text: str) -> list[str]:
    """The first words of what stands in brackets and is no value: `(or 7)`, `[maybe six]`."""
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text)
    return [
        " ".join(inside.lower().split())
        for inside in _BRACKETED.findall(bare)
        if _DOUBT.match(inside)
    ]


_WHOLE_PART = re.compile(r"(?<!\\sqrt)(?<!\\sqrt )\[\s*([^\[\](),;]*)\]")
"""`[x]` may be the whole part of x, where no other bracket inside makes it a second pair."""


def _whole_parts(text: str) -> int:
    """Brackets around one value with a letter in it."""
    bare = re.sub(r"\\text\s*\{[^{}]*\}|\\begin\{.*?\\end\{\w+\}", " ", text, flags=re.DOTALL)
    inside = (re.sub(r"\\[a-zA-Z]+|[A-Za-z]{2,}", " ", part) for part in _WHOLE_PART.findall(bare))
    return sum(bool(re.search(r"[A-Za-z]", part)) for part in inside)


_EXTREME = re.compile(r"\\(?:max|min)\s*\\?[({]")
"""`\\max(12, x)` is 12 at every point that a rule may try."""
_CHANGING = set(_NUMBER_WORDS.split()) - _UNIT_LIKE


def same_tokens(gold: str, answer: str) -> bool:
    """Whether both sides are written with the same tokens in the same order."""
    return _sequence(gold) == _sequence(answer)


def _sequence(text: str) -> list[str]:
    found = (t for t in _TOKEN.findall(text) if t not in _LAYOUT)
    return [_RELATIONS.get(t) or _MARKS.get(t) or _CONNECTIVES.get(t) or t for t in found]


_BINDERS = re.compile(
    r"\\(?:sum|prod|int|iint|oint|lim|det)(?![a-zA-Z])"
    r"|\\frac\s*\{\s*d(?![a-zA-Z]\s*\})[^{}]*\}\s*\{\s*d\s*[a-zA-Z]\s*\}"
)
"""Of derivatives those of a written function; `\\frac{dy}{dx}` is a name."""


def unevaluated(text: str) -> bool:
    """Whether a sum, product, integral, limit, determinant or derivative is left to be worked out.

    `\\sum_{k=1}^{100} k = 5050` is worked out: the last side of a chain counts.
    """
    return bool(_BINDERS.search(split_top(text, {"="})[-1]))
