"""Rules on the written form: one spelling for each thing, before anything is parsed.

Nothing here knows mathematics. Every rule maps notations that mean the same to one of them.
"""

from __future__ import annotations

import re
import unicodedata

from hapo_core.verify.math import spelling

_CHARACTERS = {
    **dict.fromkeys("−–—‒﹣", "-"),
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": "/",
    "∕": "/",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "∞": r"\infty ",
    "√": r"\sqrt ",
    "±": r"\pm ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "π": r"\pi ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "λ": r"\lambda ",
    "′": "'",
    "’": "'",
    "ℝ": r"\mathbb{R}",
    "‰": r"\text{ permille}",
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    **{c: f"^{{{d}}}" for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    **{chr(0x2460 + i): f"{i + 1}," for i in range(20)},  # circled numbers stand as a list
}
_CHARACTER_MAP = str.maketrans(_CHARACTERS | spelling.CHARACTERS)
_BLANKS = re.compile(r" {2,}|\n{2,}")
_ESCAPED_CHARACTER = re.compile(r"\\u([0-9a-fA-F]{4})")
_LOST_ESCAPES = [
    (re.compile("\t(?=(?:ext\\s*\\{|extcirc|imes|heta|au|an)(?![a-z]))"), r"\\t"),
    (re.compile("\f(?=(?:rac|orall))"), r"\\f"),
    (re.compile("\b(?=(?:eta|oxed|egin|inom|ar|mod))"), r"\\b"),
    (re.compile("\r(?=(?:ight|ho|angle))"), r"\\r"),
]
"""`\\text` read as tab + `ext`: a backslash escape that a JSON or Python reader swallowed."""

_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|ln|log|exp|min|max|gcd|lcm|det|sinh|cosh"
_REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"<sup>(.*?)</sup>", r"^{\1}"),
        (r"<sub>(.*?)</sub>", r"_{\1}"),
        (r"(?<![\d}])(?<![\d}] )\\text\s*\{\s*(" + _FUNCTIONS + r")\s*\}", r"\\\1 "),
        (r"\\operatorname\*?\s*\{\s*(" + _FUNCTIONS + r")\s*\}", r"\\\1 "),
        (
            r"\\(?:operatorname\*?\s*\{\s*diag\s*\}|text\s*\{\s*diag\s*\})\s*\(([^()]*)\)",
            r"diag(\1)",
        ),
        (r"\\(?:left|right|m?right|[bB]ig{1,2}[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|bm|boldsymbol)(?![a-zA-Z])", ""),
        (r"\\[hv]?phantom\s*\{[^{}]*\}", ""),  # nobody sees it
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\{([^{}]*?)\\choose(?![a-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\\binom\s*(\w)\s*(\w)", r"\\binom{\1}{\2}"),
        (
            r"\\(?:text)?color\s*\{[a-zA-Z]+\}|(?<!\^)(?<!\^\{)\\underline(?![a-zA-Z])"
            r"|\\mathstrut(?![a-zA-Z])",
            "",
        ),
        (r"\\varnothing(?![a-zA-Z])|(?<![a-zA-Z}])\\\{\s*\\\}", r"\\emptyset "),
        (r"\\log\s*_\s*(?:e(?![a-zA-Z])|\{\s*e\s*\})", r"\\ln "),
        (r",\s*\\!\s*", ","),
        (r"(?<!\\)\\!|\\/|\{\s*\}", ""),
        (r"(?<!\\)\\[,;:> ]|~|\\q?quad|\\(?:thin|med|thick)space(?![a-zA-Z])", " "),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[()\[\]]", " "),
        (r"\\(?:lbrace|lcb)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace|rcb)(?![a-zA-Z])", r"\\}"),
        (r"\\(?:leq|leqslant|leqq)(?![a-zA-Z])|<=|=<", r"\\le "),
        (r"\\(?:geq|geqslant|geqq)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\neq(?![a-zA-Z])|!=|\\not\s*=", r"\\ne "),
        (r"\\(?:mid|vert|lvert|rvert)(?![a-zA-Z])", "|"),
        (r"\\(?:text)?(?:circ|degree)(?![a-zA-Z])", r"\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ", r"^\\circ "),
        (r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
        (r"\+\s*\\infty", r"\\infty "),
        (r"\\to(?![a-zA-Z])", r"\\to "),
        (r"\\ast(?![a-zA-Z])|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\*\*", "^"),
        # `\cos t \cdot x` is (cos t) x; the grammar would take the whole product as argument
        (
            r"(\\(?:" + _FUNCTIONS + r")(?:\s*[\^_]\s*(?:\{[^{}]*\}|\w)){0,2})"
            r"\s+([A-Za-z]|\\[a-z]+)\s*(?=\\cdot|\\times)",
            r"\1(\2) ",
        ),
        (
            r"\\(?:longrightarrow|Longrightarrow|Rightarrow|implies|therefore)(?![a-zA-Z])|=>",
            r"\\implies ",
        ),
        (r"\\(?:Longleftrightarrow|Leftrightarrow|iff)(?![a-zA-Z])|<=>", r"\\iff "),
        (r"\\(?:lVert|rVert|Vert|\|)(?![a-zA-Z])", r"\\Vert "),
        (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
        (r"\\(?:rightarrow|longrightarrow)(?![a-zA-Z])", r"\\to "),
        (r"(?<=\))\s*\^\s*\{?\s*(?:T|\\top|\\intercal|\\mathsf\s*\{?T\}?)\s*\}?\s*$", ""),
    ]
]
_ANGLES = re.compile(r"\\langle(?![a-zA-Z])((?:(?!\\[lr]angle).)*)\\rangle(?![a-zA-Z])")
"""A tuple in angle brackets; without a comma they are a mean, and stay."""
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:normal|bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf)|mbox|hbox|operatorname\*?)\s*\{"
    r"([^{}]*)\}"
)
_UNITS_WITH_POWERS = re.compile(
    r"(?<=[\d} ~,;])\\(?:mathrm|text|rm)\s*"
    r"\{((?:[A-Za-z/ ~.]|\\[,;: ]|\\cdot(?![a-z])|\^\{?-?\d\}?)*)\}"
)
"""`9.8 \\mathrm{m\\,s^{-2}}`."""
_JOINED_WORDS = re.compile(r"((?:(?<=[\s,])(?:and|or)(?=\s*$))|(?:^(?:and|or)\b))")
_UNIT_BEFORE = re.compile(
    r"\d[\s~\\,;!]*(?:\\(?:text|mathrm)\s*\{[^{}]*\}[\s\\,~]*(?:\\cdot|/)\s*)+$"
)
"""The rest of a compound unit, `5\\text{m}/\\text{s}`: a letter there is no variable."""
_OLD_FONT = re.compile(r"\{\\(?:rm|bf|it)\s+([^{}]*)\}|\\(?:rm|bf|it)\s*\{([^{}]*)\}")
_STARS = re.compile(r"\*\*(?!\s)([^*]+)\*\*")
_ALL_REALS = re.compile(
    r"(?:\\text\{\s*)?(?:[a-z] (?:is|can be) )?(?:all|any) (?:the )?reals?(?: numbers?)?\s*\}?",
    re.IGNORECASE,
)
_MIXED = re.compile(r"(?<![\d.)}\w])(\d+) +(\d+)\s*/\s*(\d+)(?![\d.])")
_REPEATING = re.compile(r"(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*\{?\s*(\d+)\s*\}?")
_REPEATED = re.compile(r"(\d\.\d{0,20}?)(\d{1,6}?)\2{2,8}\s*(?:\\[lc]?dots(?![a-z])|\.\.\.|…)\s*$")
"""`0.333\\ldots`: what stands there three times repeats."""
_THOUSANDS = re.compile(r"(?<![\d.,_^])(?<![_^]\{)\d{1,3}(?:,\d{3})+(?![\d,])")
_BRACKET_OR_GROUP = re.compile(r"\\?[()\[\]{}]|" + _THOUSANDS.pattern)
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,_])\d{1,3}(?: \d{3})+(?!\d)")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,4})(?!\.?\d)")
_PERCENT = re.compile(r"\\%|(?<=[\d}\s])\s*(?:percentage|percent|pct)\b|\\text\{\s*%\s*\}")
_SCALE_WORDS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(
    r"(?<=\d)\s*(?:(\\text\{)\s*)?(thousand|million|billion|trillion)s?\b\s*(\})?", re.IGNORECASE
)
_OPEN_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{(?![^{}]*\})")
_TRAILING_DOT = re.compile(r"(?<=\d)\.(?=[/)*+^-])")
_LEADING_DOT = re.compile(r"(?<![\d\w}])\.(?=\d)")


def tidy(text: str) -> str:
    """The canonical spelling of an answer, one line, no dollar signs and no outer punctuation."""
    text = _BLANKS.sub(" ", text.strip(" \n"))  # a megabyte of blanks costs nothing later
    text = _ESCAPED_CHARACTER.sub(lambda m: chr(int(m.group(1), 16)), text)
    text = text.translate(_CHARACTER_MAP)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_CHARACTER_MAP)
    for pattern, replacement in _LOST_ESCAPES:
        text = pattern.sub(replacement, text)
    if any(ord(c) < 32 or ord(c) > 126 for c in text):
        text = "".join(_visible(c) for c in text)
    if not re.search(r"\\begin|\\\\\s", text):
        text = re.sub(r"\\\\(?=[a-zA-Z{}%])", r"\\", text)  # escaped twice
    text = spelling.unworded(_OPEN_BOX.sub("", text))
    text = text.replace(r"\$", "").replace("$", " ")
    text = _STARS.sub(r"\1", text) if text.startswith("**") else text
    text = spelling.plain(text)
    text = _BASE_WORD.sub(lambda m: f"_{{{_BASES[m.group(1)]}}}", text)
    text = _OLD_FONT.sub(lambda m: f"\\text{{{m.group(1) or m.group(2) or ''}}}", text)
    text = _UNITS_WITH_POWERS.sub(_unit_by_unit, text)
    text = _TEXT_COMMAND.sub(_text_or_letter, text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if "langle" in text:
        text = _ANGLES.sub(lambda m: f"({m[1]})" if "," in m[1] else m[0], text)
    text = _PERCENT.sub("%", text)
    text = _SPACED_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _REPEATED.sub(r"\1\\overline{\2}", text)
    text = _MIXED.sub(r"\1 \\frac{\2}{\3}", text)
    text = _REPEATING.sub(_as_fraction, text)
    text = _SCALED.sub(_power_of_ten, text)
    text = _LEADING_DOT.sub("0.", text)
    text = _TRAILING_DOT.sub("", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<!\\)(?:\\\\)+$", "", text).rstrip()  # a line break at the end
    while text and (text[-1] in ".,;:^ " or (text[-1] == "\\" and not text.endswith("\\\\"))):
        text = text[:-1].rstrip()
    text = spelling.french(text.lstrip(",;: "))
    text = _DIAGONAL.sub(_diagonal, text)
    return r"\mathbb{R}" if _ALL_REALS.fullmatch(text) else text


def _unit_by_unit(match: re.Match[str]) -> str:
    """Where it has powers in it, every unit in a `\\text` of its own."""
    content = match.group(1)
    if "^" not in content:
        return match.group()
    return re.sub(r"(?<![\\A-Za-z])[A-Za-z]+", r"\\text{\g<0>}", content)


_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
_BASE_WORD = re.compile(
    r"_\s*\{?\s*\\(?:text|mathrm)\s*\{\s*(" + "|".join(_BASES) + r")\s*\}\s*\}?"
)
_TWO_PRODUCTS = re.compile(r"\\(?:nabla|vec|overrightarrow|mathbf|hat)|[A-Z]\s*\\times\s*[A-Z]")
"""Vectors have two products, and sets one that is no multiplication."""
_DIAGONAL = re.compile(r"(?:\\text\{\s*diag\s*\}|(?<![A-Za-z])diag)\s*\(([^()]*)\)")


def _diagonal(match: re.Match[str]) -> str:
    """`diag(2, 3)` written out."""
    values = [value.strip() for value in match.group(1).split(",")]
    rows = (
        "&".join(value if i == j else "0" for j in range(len(values)))
        for i, value in enumerate(values)
    )
    return "\\begin{pmatrix}" + "\\\\".join(rows) + "\\end{pmatrix}"


def _power_of_ten(match: re.Match[str]) -> str:
    """`1.2 million dollars` is a number with a unit, whether or not its words are in `\\text`."""
    opened, word, closed = match.groups()
    rest = "\\text{" if opened and not closed else ("}" if closed and not opened else "")
    return f" \\times 10^{{{_SCALE_WORDS[word.lower()]}}} {rest}"


_LONGEST_PERIOD = 1000
"""Digits; Python refuses to write integers of more than 4,300."""


def _as_fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction: whole, the digits before the bar, the repeating ones."""
    whole, fixed, period = match.groups()
    if len(match.group()) > _LONGEST_PERIOD:
        return match.group()
    scale, nines = 10 ** len(fixed), 10 ** len(period) - 1
    above = (int(whole or 0) * scale + int(fixed or 0)) * nines + int(period)
    return f"\\frac{{{above}}}{{{scale * nines}}}"


_TAKES_VALUES = re.compile(r"\\(?:frac|sqrt\s*(?:\[[^\[\]]*\])?)\s*$")
"""Commands whose arguments in braces are one value each."""
_NAME_AND_INDEX = 40
"""Characters before a brace in which such a command must stand."""


def join_thousands(text: str) -> str:
    """`1,234,567` as one number, outside brackets: in them a comma separates. The braces of a
    fraction's or a root's arguments hold one value, and separate nothing."""
    if "," not in text:
        return text
    out, place = [], 0
    separating: list[bool] = []  # of every open bracket
    argument_ended = -1  # where the last argument's brace closed
    for match in _BRACKET_OR_GROUP.finditer(text):
        token = match.group()
        if token[-1] in "([{":
            start = match.start()
            again = argument_ended >= 0 and not text[argument_ended:start].strip()
            argument_ended = -1  # what lies between is looked at once
            before = text[max(0, start - _NAME_AND_INDEX) : start]
            argument = token == "{" and (again or _TAKES_VALUES.search(before))
            separating.append(not argument)
        elif token[-1] in ")]}":
            if separating and not separating.pop():
                argument_ended = match.end()
        elif not (separating and separating[-1]) and _THOUSANDS.match(text, match.start()):
            out.append(text[place : match.start()] + token.replace(",", ""))
            place = match.end()
    return "".join(out) + text[place:]


def groups_only(gold: str, answer: str) -> bool:
    """Whether commas between digit groups may separate: no group is padded, and the gold can be
    a list (it has blanks after its commas, or three groups and more)."""
    if any(re.search(r"\d,0\d", side) for side in (gold, answer)):
        return False
    return ", " in gold or gold.count(",") > 1 or "," in join_thousands(gold)


def compact(text: str) -> str:
    """For comparing spellings: no spaces, no braces around single characters, no `\\text`."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)", "_~", text)  # `1 2` is no 12
    text = re.sub(r"\{(\w)\}", r"\1", text)
    if not _TWO_PRODUCTS.search(text):
        text = re.sub(r"\\cdot|\\times", "*", text)
    return re.sub(r"\s+", "", text)


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\n\r\t\f\v" or category in ("Zs", "Zl", "Zp"):
        return " "
    if category in ("Cc", "Cf", "Cs"):
        return ""
    if category == "Nd":  # digits of any script
        return str(unicodedata.digit(character))
    return character


def _text_or_letter(match: re.Match[str]) -> str:
    """Upright constants and single-letter names are letters; after a digit they are units."""
    content = match.group(1).strip()
    before = match.string[: match.start()].rstrip(" ~\\,;!")
    if _UNIT_BEFORE.search(before):
        return f"\\text{{{content}}}"
    before = before[-1:]
    if content.lower() in ("and", "or"):
        return f" {content.lower()} "
    if content in ("%", "percent"):
        return "%"
    if any(c.isdigit() for c in content) or "\\" in content:
        return f" {content} "
    if _JOINED_WORDS.search(content):  # `apples and`, `or six`: the connective joins two answers
        pieces = _JOINED_WORDS.split(content)
        return " ".join(
            f" {p.lower()} " if i % 2 else (f"\\text{{{p.strip(' ,')}}}" if p.strip(" ,") else "")
            for i, p in enumerate(pieces)
        )
    if len(content) == 1 and (content in "eiE" or not (before.isdigit() or before == "}")):
        return f" {content} " if before.isalpha() else content
    return f"\\text{{{content}}}" if content else " "
