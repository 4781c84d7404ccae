"""Rules on the written form: one spelling for each thing, before anything is parsed.

Nothing here knows mathematics. Every rule maps notations that mean the same to one of them.
"""

from __future__ import annotations

import re
import unicodedata

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
    "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    **{c: f"^{{{d}}}" for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True)},
    **{chr(0x2460 + i): f"{i + 1}," for i in range(20)},  # circled numbers stand as a list
}
_CHARACTER_MAP = str.maketrans(_CHARACTERS)
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
        (r"\\text\s*\{\s*(" + _FUNCTIONS + r")\s*\}", r"\\\1 "),
        (r"\\operatorname\*?\s*\{\s*(" + _FUNCTIONS + r")\s*\}", r"\\\1 "),
        (r"\\(?:left|right|m?right|[bB]ig{1,2}[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|bm|boldsymbol|phantom)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\binom\s*(\w)\s*(\w)", r"\\binom{\1}{\2}"),
        (r"\\(?:text)?color\s*\{[a-zA-Z]+\}|\\(?:underline|mathstrut)(?![a-zA-Z])", ""),
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
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
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
        (r"\\(?:longrightarrow|Rightarrow|implies|iff)(?![a-zA-Z])", r"\\implies "),
    ]
]
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:normal|bf|it|rm|sf|tt|up)?|math(?:rm|bf|it|sf)|mbox|hbox|operatorname\*?)\s*\{"
    r"([^{}]*)\}"
)
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
_THOUSANDS = re.compile(r"(?<![\d.,_^])(?<![_^]\{)\d{1,3}(?:,\d{3})+(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,_])\d{1,3}(?: \d{3})+(?!\d)")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+\.?\d*|\.\d+)[eE]([+-]?\d{1,4})(?![\d.])")
_PERCENT = re.compile(r"\\%|(?<=[\d}\s])\s*(?:percentage|percent|pct)\b|\\text\{\s*%\s*\}")
_QUALIFIER = re.compile(
    r",?\s*(?:\\text\{\s*)?(?<![A-Za-z])for (?:some|any|all|every|each)(?![A-Za-z]).*$", re.DOTALL
)
_DOMAIN = re.compile(
    r"\s*(?:,|\(|where|with)+\s*[a-z](?:\s*,\s*[a-z])*\s*\\in\s*\\mathbb\s*\{?[ZN]\}?[^,()]{0,6}\)?$"
)
"""`..., k \\in \\mathbb{Z}`: what the free integer of a family of solutions is."""
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
    text = _OPEN_BOX.sub("", text)
    text = text.replace(r"\$", "").replace("$", " ")
    text = _STARS.sub(r"\1", text) if text.startswith("**") else text
    text = _OLD_FONT.sub(lambda m: f"\\text{{{m.group(1) or m.group(2) or ''}}}", text)
    text = _TEXT_COMMAND.sub(_text_or_letter, text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _PERCENT.sub("%", text)
    text = _SPACED_THOUSANDS.sub(lambda m: m.group().replace(" ", ""), text)
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _MIXED.sub(r"\1 \\frac{\2}{\3}", text)
    text = _REPEATING.sub(_as_fraction, text)
    text = _SCALED.sub(_power_of_ten, text)
    text = _LEADING_DOT.sub("0.", text)
    text = _TRAILING_DOT.sub("", text)
    text = _QUALIFIER.sub("", text) or text
    text = _DOMAIN.sub("", text) or text
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"(?<!\\)(?:\\\\)+$", "", text).rstrip()  # a line break at the end
    while text and (text[-1] in ".,;:^ " or (text[-1] == "\\" and not text.endswith("\\\\"))):
        text = text[:-1].rstrip()
    text = text.lstrip(",;: ")
    return r"\mathbb{R}" if _ALL_REALS.fullmatch(text) else text


def _power_of_ten(match: re.Match[str]) -> str:
    """`1.2 million dollars` is a number with a unit, whether or not its words are in `\\text`."""
    opened, word, closed = match.groups()
    rest = "\\text{" if opened and not closed else ("}" if closed and not opened else "")
    return f" \\times 10^{{{_SCALE_WORDS[word.lower()]}}} {rest}"


def _as_fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction: whole, the digits before the bar, the repeating ones."""
    whole, fixed, period = match.groups()
    scale, nines = 10 ** len(fixed), 10 ** len(period) - 1
    above = (int(whole or 0) * scale + int(fixed or 0)) * nines + int(period)
    return f"\\frac{{{above}}}{{{scale * nines}}}"


def join_thousands(text: str) -> str:
    """`1,234,567` as one number. Ambiguous with a list, so the caller tries both readings."""
    return _THOUSANDS.sub(lambda m: re.sub(r"[,\s]", "", m.group()), text)


def compact(text: str) -> str:
    """For comparing spellings: no spaces, no braces around single characters, no `\\text`."""
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\cdot|\\times", "*", re.sub(r"\{(\w)\}", r"\1", text))
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
    if len(content) == 1 and (content in "eiE" or not (before.isdigit() or before == "}")):
        return f" {content} " if before.isalpha() else content
    return f"\\text{{{content}}}" if content else " "
