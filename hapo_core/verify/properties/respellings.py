"""Answers that are written otherwise than a gold and mean the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from hapo_core.verify.properties.tokens import Variant, bare, is_number, is_prose, is_value, members

_SIMPLE_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_UNICODE = {
    "\\pi": "π", "\\infty": "∞", "\\cup": "∪", "\\leq": "≤", "\\geq": "≥", "\\le": "≤", "\\ge": "≥",
    "\\cdot": "·", "\\times": "×", "\\neq": "≠", "\\ne": "≠", "\\pm": "±", "\\in": "∈",
    "\\theta": "θ", "\\alpha": "α", "\\emptyset": "∅", "\\varnothing": "∅",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("0123456789n", "⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ")


def respell(gold: str) -> list[Variant]:
    """The same answer in other spellings, each with its kind; few for a sentence."""
    text = bare(gold)
    found: dict[str, Variant] = {}
    for make in _MAKERS:
        for variant in make(text):
            if variant.text != text:
                found.setdefault(variant.kind, variant)
    return list(found.values())


def _outside(text: str) -> Iterator[Variant]:
    yield Variant("dollars", f"${text}$")
    yield Variant("blanks-around", f"  {text} ")
    if is_prose(text):
        return
    yield Variant("full-stop", text + ".")
    if "$" in text:
        return
    yield Variant("round-mark", f"\\({text}\\)")
    yield Variant("square-mark", f"\\[{text}\\]")
    yield Variant("displaystyle", f"\\displaystyle {text}")
    yield Variant("box-inside", f"\\boxed{{{text}}}")
    yield Variant("double-dollars", f"$${text}$$")


def _commands(text: str) -> Iterator[Variant]:
    yield Variant("dfrac", re.sub(r"\\[dt]?frac(?![a-z])", r"\\dfrac", text))
    yield Variant("tfrac", re.sub(r"\\[dt]?frac(?![a-z])", r"\\tfrac", text))
    yield Variant("frac", re.sub(r"\\[dt]frac(?![a-z])", r"\\frac", text))
    yield Variant("frac-bare", re.sub(r"\\[dt]?frac\s*\{(\d)\}\s*\{(\d)\}", r"\\frac\1\2", text))
    yield Variant("frac-half-bare", re.sub(r"\\[dt]?frac\s*\{(\d)\}\s*\{", r"\\frac\1{", text))
    yield Variant(
        "frac-pi-bare", re.sub(r"\\[dt]?frac\s*\{\s*\\pi\s*\}\s*\{(\d)\}", r"\\frac\\pi\1", text)
    )
    yield Variant("sqrt-bare", re.sub(r"\\sqrt\s*\{(\d)\}(?!\d)", r"\\sqrt\1", text))
    if not re.search(r"\\(?:left|right|begin)|[\[(][^\])]*[(\[]|\|", text):
        fenced = re.sub(r"(?<!\\)([(\[])", r"\\left\1", text)
        yield Variant("left-right", re.sub(r"(?<!\\)([)\]])", r"\\right\1", fenced))
    yield Variant("no-left-right", re.sub(r"\\(?:left|right)(?=[()\[\]|])", "", text))
    yield Variant("leq", re.sub(r"\\le(?:qslant|q)?(?![a-z])", r"\\leqslant", text))
    yield Variant("geq", re.sub(r"\\ge(?:qslant|q)?(?![a-z])", r"\\geq", text))
    yield Variant("cdot", re.sub(r"\\cdot(?![a-z])", r"\\times", text))
    yield Variant(
        "mathrm", re.sub(r"\\text\s*\{", r"\\mathrm{", text) if not is_prose(text) else text
    )
    yield Variant("mbox", re.sub(r"\\text\s*\{", r"\\mbox{", text) if not is_prose(text) else text)
    yield Variant(
        "varnothing", re.sub(r"\\(?:emptyset|varnothing)(?![a-z])", r"\\varnothing", text)
    )
    yield Variant("mid", re.sub(r"(?<=\w)\s*\\mid(?![a-z])", r" | ", text))


def _plain_text(text: str) -> Iterator[Variant]:
    unicode = re.sub(r"\\[a-z]+", lambda m: _UNICODE.get(m.group(), m.group()), text)
    yield Variant("unicode", unicode)
    yield Variant("unicode-minus", text.replace("-", "−") if "\\text" not in text else text)
    yield Variant(
        "superscript",
        re.sub(
            r"\^(?:\{([\dn])\}|([\dn])(?![\w}]))",
            lambda m: (m.group(1) or m.group(2)).translate(_SUPERSCRIPTS),
            text,
        ),
    )
    if is_value(text) or members(text):
        plain = _SIMPLE_FRACTION.sub(r"(\1/\2)", text)
        plain = re.sub(r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", plain)
        plain = re.sub(r"\\pi(?![a-z])\s*", "pi", plain)
        plain = re.sub(r"\\(sin|cos|tan|ln|log)(?![a-z])\s*\{?(\w+)\}?", r"\1(\2)", plain)
        plain = plain.replace("\\cdot", "*").replace("\\left", "").replace("\\right", "")
        if "\\" not in plain.replace("\\{", "").replace("\\}", "") and "\\" in text:
            yield Variant("plain-text", plain)


def _spacing(text: str) -> Iterator[Variant]:
    if (
        "\\text" in text
        or "\t" in text
        or "ext{" in text
        or is_prose(text)
        or "\\begin" in text
        or re.search(r"\d\s+[\d\\]", text)
    ):
        return
    yield Variant(
        "spaced",
        re.sub(r"(?<!\\)([+=<>,])", r" \1 ", text) if not re.search(r"\d,\d{3}", text) else text,
    )
    yield Variant("thin-spaces", re.sub(r"(?<!\\)\s*([+=])\s*", r"\\,\1\\,", text))
    squeezed = re.sub(r"(?<![a-zA-Z])\s+|\s+(?![a-zA-Z])", "", text)
    yield Variant("squeezed", squeezed)


def _numbers(text: str) -> Iterator[Variant]:
    if re.fullmatch(r"-?\d{4,}", text):
        yield Variant("thousands", f"{int(text):,}")
        yield Variant("thousands-braced", f"{int(text):,}".replace(",", "{,}"))
        yield Variant("thousands-thin", f"{int(text):,}".replace(",", "\\,"))
        yield Variant("thousands-bang", f"{int(text):,}".replace(",", ",\\!"))
    if re.fullmatch(r"-?\d+", text):
        yield Variant("point-zero", text + ".0")
        yield Variant("plus" if not text.startswith("-") else "minus-parenthesised",
                      "+" + text if not text.startswith("-") else f"({text})")  # fmt: skip
        yield Variant("over-one", f"\\frac{{{text}}}{{1}}")
        yield Variant("leading-zero", text if text.startswith("-") else "0" + text)
    if is_number(text):
        yield Variant("named", f"x = {text}")
        yield Variant("answer-is", f"\\text{{The answer is }} {text}")
        yield Variant("unit-added", f"{text} \\text{{ units}}")
        yield Variant("bold", f"\\mathbf{{{text}}}")
    if re.fullmatch(r"-?\d+\.\d+", text):
        yield Variant("zero-added", text + "0")
        value = Fraction(text)
        sign = "-" if value < 0 else ""
        exact = f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
        yield Variant("as-fraction", exact)
    fraction = re.fullmatch(r"(-?)" + _SIMPLE_FRACTION.pattern, text)
    if fraction and int(fraction.group(3)):
        sign, above, below = fraction.groups()
        value = Fraction(int(above), int(below))
        yield Variant("slash", f"{sign}{above}/{below}")
        yield Variant("sign-above", f"\\frac{{{sign}{above}}}{{{below}}}")
        yield Variant("not-reduced", f"{sign}\\frac{{{3 * int(above)}}}{{{3 * int(below)}}}")
        places = next((p for p in range(1, 6) if (value * 10**p).denominator == 1), None)
        if places is not None:
            yield Variant("as-decimal", f"{sign}{float(value):.{places}f}")
        if value > 1 and value.denominator > 1 and not sign:
            whole, rest = divmod(value, 1)
            yield Variant("mixed", f"{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}")


def _units(text: str) -> Iterator[Variant]:
    if is_prose(text):
        return
    if re.fullmatch(r"[^\\]*\d\s*\^\s*\{?\s*\\circ\s*\}?", text):
        number = re.sub(r"\s*\^\s*\{?\s*\\circ\s*\}?", "", text)
        yield Variant("degree-sign", number + "°")
        yield Variant("degree-dropped", number)
        yield Variant("degree-word", f"{number} \\text{{ degrees}}")
        yield Variant("degree-braced", f"{number}^{{\\circ}}")
    if re.fullmatch(r"[\d.]+\s*\\?%", text):
        number = text.rstrip("\\% ")
        yield Variant("percent-word", number + " \\text{ percent}")
        yield Variant("percent-sign", number + "%")
    unit = re.fullmatch(r"([\d.]+)\s*\\(?:text|mbox|mathrm)\s*\{[\s~]*([a-z ]+?)\s*\}", text)
    if unit:
        yield Variant("unit-dropped", unit.group(1))
        yield Variant("unit-bare", f"{unit.group(1)} {unit.group(2)}")
    money = re.fullmatch(r"\\?\$\s*([\d.,]+)", text)
    if money:
        yield Variant("currency-dropped", money.group(1))


def _balanced(text: str) -> bool:
    return text.count("{") == text.count("}")


def _orders(text: str) -> Iterator[Variant]:
    parts = members(text)
    if parts and re.match(r"\s*(?:\\left\s*)?\\\{", text):
        yield Variant("set-order", "\\{" + ", ".join(reversed(parts)) + "\\}")
        yield Variant("set-bare", ", ".join(parts))
    elif parts and not re.match(r"\s*(?:\\left\s*)?[(\[]", text):
        yield Variant("list-order", ", ".join(reversed(parts)))
        yield Variant("list-and", " \\text{ and } ".join(parts) if len(parts) == 2 else text)
        yield Variant("list-as-set", "\\{" + ", ".join(parts) + "\\}")
    sum_ = re.fullmatch(r"([\w\\{}^]+)\s*\+\s*([\w\\{}^]+)", text)
    if sum_ and is_value(text) and all(_balanced(part) for part in sum_.groups()):
        yield Variant("sum-order", f"{sum_.group(2)} + {sum_.group(1)}")
    if is_value(text) and not is_number(text):
        yield Variant("parentheses", f"({text})")
        yield Variant("times-one", f"1 \\cdot ({text})")
    word = re.fullmatch(r"\\text\s*\{([A-Za-z ]+)\}", text)
    if word and not is_prose(text):
        yield Variant("text-dropped", word.group(1).strip())
        yield Variant("word-case", f"\\text{{{word.group(1).upper()}}}")
    choice = re.fullmatch(r"(?:\\text\s*\{)?\(?([A-E])\)?\}?", text)
    if choice:
        yield Variant("choice", f"({choice.group(1)})")
        yield Variant("choice-text", f"\\text{{{choice.group(1)}}}")


_MAKERS: tuple[Callable[[str], Iterator[Variant]], ...] = (
    _outside, _commands, _plain_text, _spacing, _numbers, _units, _orders,
)  # fmt: skip
