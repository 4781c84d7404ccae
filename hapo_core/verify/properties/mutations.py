"""Answers that look like a gold and mean something else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from hapo_core.verify.properties.tokens import (
    Variant,
    bare,
    bumped,
    is_number,
    is_prose,
    is_value,
    letters,
    members,
    tokens,
)

_RELATIONS = {
    "<": (">", "\\le "), ">": ("<", "\\ge "), "=": ("\\ne ", "<"), "\\le": ("\\ge ", "<"),
    "\\leq": ("\\geq ", "<"), "\\ge": ("\\le ", ">"), "\\geq": ("\\leq ", ">"), "\\ne": ("=", "<"),
    "\\neq": ("=", ">"), "\\leqslant": ("\\geqslant ", "<"), "\\geqslant": ("\\leqslant ", ">"),
    "\\in": ("\\notin ",), "\\subset": ("\\supset ",), "\\subseteq": ("\\supseteq ",),
    "\\perp": ("\\parallel ",), "\\parallel": ("\\perp ",), "\\cong": ("\\not\\cong ",),
}  # fmt: skip
_FUNCTIONS = {
    "\\sin": "\\cos", "\\cos": "\\sin", "\\tan": "\\cot", "\\ln": "\\exp", "\\log": "\\sin",
    "\\arctan": "\\arcsin", "\\arccos": "\\arcsin", "\\arcsin": "\\arccos", "\\cup": "\\cap",
    "\\cap": "\\cup", "\\sqrt": "", "\\pi": "",
}  # fmt: skip
_DIGITS = "0123456789"
_BRACKETS = {"(": "[", "[": "(", ")": "]", "]": ")"}
_NUMBER_WORDS = (
    "dozen",
    "hundred",
    "million",
    "squared",
    "factorial",
    "percent",
    "pairs",
    "thirds",
)
_UNITS = {
    "cm": "m", "m": "km", "inches": "feet", "feet": "yards", "hours": "minutes", "minutes": "hours",
    "seconds": "minutes", "days": "weeks", "km": "cm", "miles": "feet", "cents": "dollars",
    "dollars": "cents", "degrees": "radians", "kg": "g", "g": "kg", "mph": "m/s",
}  # fmt: skip


def mutate(gold: str) -> list[Variant]:
    """Answers that look right and are wrong, each with the kind of its change.

    Kinds that a gold gives no room for are left out; prose gives only few.
    """
    text = bare(gold)
    found: dict[str, Variant] = {}
    for make in _MAKERS:
        for variant in make(text):
            if _squeezed(variant.text) != _squeezed(text):
                found.setdefault(variant.kind, variant)
    return list(found.values())


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _numbers(parts: list[str]) -> list[int]:
    """Places of numbers that count: no indices, no parts of words, no lone zeros."""
    found = []
    for place, part in enumerate(parts):
        before = "".join(parts[:place]).rstrip(" {")[-1:]
        if part[0] in _DIGITS and before != "_" and not before.isalpha() and part.strip("0."):
            found.append(place)
    return found


def _replaced(parts: list[str], place: int, part: str) -> str:
    return "".join([*parts[:place], part, *parts[place + 1 :]])


def _digits(text: str) -> Iterator[Variant]:
    parts = tokens(text)
    places = _numbers(parts)
    if not places or re.search(
        r"\^\s*\{?\s*0|(?<!\d)1\s*\^|\\times 0|(?<![.\d])0\s*[a-zA-Z(\\]", text
    ):
        return
    first, last = parts[places[0]], parts[places[-1]]
    yield Variant("digit-first", _replaced(parts, places[0], bumped(first, 0)))
    yield Variant("digit-last", _replaced(parts, places[-1], bumped(last, len(last) - 1)))


def _magnitude(text: str) -> Iterator[Variant]:
    if is_number(text) and text.strip("-0."):
        yield Variant("magnitude", text + "0" if "." not in text else text.replace(".", ""))
        whole = text.lstrip("-")
        if "." not in text and len(whole) > 1:
            yield Variant(
                "decimal-point", f"{text[:-1]}.{text[-1]}" if text[-1] != "0" else text[:-1]
            )
        if "." not in text and len(set(whole)) > 1:
            swapped = next(
                text[:i] + text[i + 1] + text[i] + text[i + 2 :]
                for i in range(len(text) - 1)
                if text[i] != text[i + 1] and text[i] != "-"
            )
            yield Variant("digits-exchanged", swapped)


def _signs(text: str) -> Iterator[Variant]:
    if is_value(text):
        if is_number(text):
            yield Variant("negated", text[1:] if text[0] == "-" else "-" + text)
        else:
            yield Variant("negated", f"-({text})")
        yield Variant(
            "plus-minus", f"\\pm {text.lstrip('-')}" if is_number(text) else f"\\pm({text})"
        )
    parts = tokens(text)
    for place in range(1, len(parts) - 1):
        before = "".join(parts[:place]).rstrip()
        if parts[place] not in "+-" or not re.search(r"[\w})]$", before) or is_prose(text):
            continue
        if re.match(r"\s*0(?![.\d])", "".join(parts[place + 1 :])):
            continue
        other = "-" if parts[place] == "+" else "+"
        yield Variant("sign-inside", _replaced(parts, place, other))
        return


def _relations(text: str) -> Iterator[Variant]:
    parts = tokens(text)
    for place, part in enumerate(parts):
        for number, other in enumerate(_RELATIONS.get(part, ())):
            if (
                part == "="
                and parts[place - 1 : place]
                and parts[place - 1] in ("<", ">", "!", ":")
            ):
                continue
            kind = "relation-flipped" if number == 0 else "relation-strict"
            yield Variant(kind, _replaced(parts, place, other))


def _commands(text: str) -> Iterator[Variant]:
    parts = tokens(text)
    for place, part in enumerate(parts):
        other = _FUNCTIONS.get(part)
        if other is None or is_prose(text):
            continue
        after = "".join(parts[place + 1 :]).lstrip()
        if part == "\\sqrt" and re.match(r"\[|\{?\s*[01]\s*\}?", after):
            continue
        if part == "\\pi" and not re.search(r"\w", "".join(parts[:place] + parts[place + 1 :])):
            continue
        if part == "\\pi":
            other = "(1)"
        kind = {"\\sqrt": "root-dropped", "\\pi": "pi-dropped", "\\cup": "set-operation",
                "\\cap": "set-operation"}.get(part, "function")  # fmt: skip
        yield Variant(kind, _replaced(parts, place, other))


def _brackets(text: str) -> Iterator[Variant]:
    """Open and closed ends; only where a half is open or an end infinite, so it is no tuple."""
    if not re.search(r"\\infty|\\cup|[(\[][^()\[\]]*,[^()\[\]]*\]|\[[^()\[\]]*,[^()\[\]]*\)", text):
        return
    for match in re.finditer(r"([(\[])([^()\[\],]+),([^()\[\],]+)([)\]])", text):
        opening, low, high, closing = match.groups()
        if "\\[" in text or "\\(" in text:
            return  # marks of a formula, not brackets
        if "∞" in low + high:
            continue
        if "infty" not in low:
            new = _BRACKETS[opening] + low + "," + high + closing
        elif "infty" not in high:
            new = opening + low + "," + high + _BRACKETS[closing]
        else:
            continue
        yield Variant("bracket", text[: match.start()] + new + text[match.end() :])
        return


def _exchanges(text: str) -> Iterator[Variant]:
    fraction = re.search(r"\\[dt]?frac\s*\{(\w+)\}\s*\{(\w+)\}", text)
    if fraction and fraction.group(1) not in ("0", fraction.group(2)) and not is_prose(text):
        new = f"\\frac{{{fraction.group(2)}}}{{{fraction.group(1)}}}"
        yield Variant("fraction-inverted", text[: fraction.start()] + new + text[fraction.end() :])
    tuple_ = re.fullmatch(r"(?:\\left)?\((.+),(.+?)(?:\\right)?\)", text)
    if tuple_ and members(text) and _squeezed(tuple_.group(1)) != _squeezed(tuple_.group(2)):
        parts = members(text)
        if parts[0] != parts[-1]:
            yield Variant("tuple-order", f"({', '.join([parts[-1], *parts[1:-1], parts[0]])})")
    named = re.fullmatch(r"\s*([a-zA-Z])\s*=\s*([^,=]+),\s*([a-zA-Z])\s*=\s*([^,=]+)", text)
    if (
        named
        and named.group(1) != named.group(3)
        and named.group(2).strip() != named.group(4).strip()
    ):
        a, x, b, y = named.groups()
        yield Variant("names-exchanged", f"{a}={y}, {b}={x}")


def _member_lists(text: str) -> Iterator[Variant]:
    parts = members(text)
    if not parts or len(set(parts)) != len(parts):
        return
    opening = re.match(r"\s*(?:\\left\s*)?(?:\\\{|[(\[])?", text)
    closing = re.search(r"(?:(?:\\right\s*)?(?:\\\}|[)\]]))?\s*$", text)
    assert opening and closing
    start, end = opening.group(), closing.group()
    more = "17" if "17" not in parts else "19"
    yield Variant("member-added", start + ", ".join([*parts, more]) + end)
    if len(parts) > 2:
        yield Variant("member-dropped", start + ", ".join(parts[:-1]) + end)
    else:
        yield Variant("member-dropped", parts[0])
    if "\\{" in start:
        yield Variant("set-or-tuple", "(" + ", ".join(parts) + ")")
    if start.endswith("("):
        yield Variant("set-or-tuple", "\\{" + ", ".join(parts) + "\\}")


def _letter_changes(text: str) -> Iterator[Variant]:
    parts = tokens(text)
    start = len(tokens(text.rpartition("=")[0])) + 1 if "=" in text else 0
    places = [p for p in letters(parts) if p >= start]
    if is_prose(text) or not places or "_" in text or len(text) < 3:
        return
    if re.search(r"\\(?:text|begin|overline|angle|triangle)|[<>]|\\[lg]e|\\in|\\cup", text):
        return
    last = places[-1]
    yield Variant("letter-case", _replaced(parts, last, parts[last].swapcase()))
    names = {parts[p] for p in places}
    if len(places) > 1 and "\\mathbb" not in text and "\\pi" not in text:
        other = next(letter for letter in "wuqzh" if letter not in names)
        yield Variant("letter-other", _replaced(parts, last, other))


def _hedges(text: str) -> Iterator[Variant]:
    if is_prose(text) or "boxed" in text:
        return
    other = "7" if "7" not in text else "4"
    if other in text:
        return
    yield Variant("hedge-or", f"{text} \\text{{ or }} {other}")
    yield Variant("hedge-or-first", f"{other} \\text{{ or }} {text}")
    yield Variant("hedge-remark", f"{text} \\text{{ (or {other})}}")
    yield Variant("hedge-comma", f"{text}, {other}")
    if "=" not in text and not re.search(r"[<>]|\\[lg]e|\\in|\\text|\\implies", text):
        yield Variant("hedge-word", f"{text} \\text{{ or {'seven' if other == '7' else 'four'}}}")
        yield Variant("hedge-arrow", f"{other} \\Rightarrow {text}")
        yield Variant("hedge-box", f"{other} \\boxed{{{text}}}")
        yield Variant("hedge-slash", f"{text} \\text{{ possibly }} {other}")
    if is_value(text):
        yield Variant("false-chain", f"{other}{other}{other} = {text}")
        yield Variant("false-chain-end", f"{text} = {other}{other}{other}")


def _bounds(text: str) -> Iterator[Variant]:
    if not is_value(text):
        return
    yield Variant("bound-sign", f"\\ge {text}")
    yield Variant("bound-words", f"\\text{{at least }} {text}")
    yield Variant("bound-after", f"{text} \\text{{ or more}}")
    yield Variant("not", f"\\text{{not }} {text}")
    yield Variant("bound-variable", f"x < {text}")
    yield Variant("not-equal", f"\\ne {text}")
    yield Variant("more-than", f"\\text{{more than }} {text}")


def _number_words(text: str) -> Iterator[Variant]:
    if not is_number(text) or text.lstrip("-") in ("0", "1", "2", "0.0", "1.0", "2.0"):
        return
    for word in _NUMBER_WORDS:
        if word != "percent" or abs(float(text)) < 1:
            yield Variant(f"word-{word}", f"{text} \\text{{ {word}}}")
    if "." not in text and not text.startswith("-"):
        yield Variant("factorial", text + "!")
        yield Variant("half", f"\\text{{half of }} {text}")
        yield Variant("twice", f"\\text{{twice }} {text}")
        yield Variant("minus-words", f"\\text{{minus }} {text}")
        yield Variant("power", f"{text}^2")
        yield Variant("times-letter", f"{text}x")
        yield Variant("plus-letter", f"{text} + C")
        yield Variant("reciprocal", f"1/{text}")


def _units(text: str) -> Iterator[Variant]:
    match = re.search(r"(?<=\d)(\s*\\(?:text|mbox|mathrm)\s*\{[\s~]*)([A-Za-z/]+)", text)
    other = _UNITS.get(match.group(2)) if match else None
    if match and other and not is_prose(text):
        yield Variant("unit", text[: match.start(2)] + other + text[match.end(2) :])
    base = re.fullmatch(r"(\w+)_\{?(\d)\}?", text)
    if base and base.group(1)[0].isdigit():
        yield Variant("base", f"{base.group(1)}_{int(base.group(2)) - 1}")
    if re.fullmatch(r"0?\.\d+", text):
        yield Variant("percent-sign", text + "\\%")
    if re.fullmatch(r"[\d.]+\\?%", text):
        yield Variant("percent-sign", str(float(text.rstrip("\\%")) * 100) + "\\%")


def _groups(text: str) -> Iterator[Variant]:
    if re.fullmatch(r"[1-9]\d{3,5}", text):
        head, tail = text[:-3], text[-3:]
        yield Variant("groups-as-set", f"\\{{{head},{tail}\\}}")
        yield Variant("groups-as-tuple", f"({head},{tail})")
        if tail[0] == "0" and tail != "000":
            yield Variant("groups-shortened", f"{head},{int(tail)}")
    short = re.fullmatch(r"([1-9]\d{0,2}),\s*(\d{1,2})", text)
    if short:
        yield Variant("list-as-groups", f"{short.group(1)},{short.group(2).zfill(3)}")


def _words(text: str) -> Iterator[Variant]:
    word = re.fullmatch(r"(?:\\text\s*\{)?\s*([A-Za-z][A-Za-z ]{2,30})\s*\}?", text)
    if word and not is_prose(text):
        inside = word.group(1).strip()
        yield Variant("word-not", f"\\text{{not {inside}}}")
        yield Variant("word-or", f"\\text{{{inside} or Zoe}}")
        yield Variant(
            "word-other", f"\\text{{{inside[:-1] + ('x' if inside[-1] != 'x' else 'y')}}}"
        )
    choice = re.fullmatch(r"\(?(?:\\text\s*\{)?\(?([A-E])\)?\}?\)?", text)
    if choice:
        other = "B" if choice.group(1) != "B" else "C"
        yield Variant("choice-other", other)
        yield Variant("choice-two", f"{choice.group(1)} \\text{{ or }} {other}")


def _others(text: str) -> Iterator[Variant]:
    if is_prose(text) or re.search(r"no |empty|none|infty|infinit", text, re.IGNORECASE):
        return
    if "\\emptyset" not in text and "\\varnothing" not in text:
        yield Variant("empty", "\\emptyset")
        yield Variant("no-solution", "\\text{no solution}")
    if text != "2026":
        yield Variant("unrelated", "2026")
    prime = text.find("'")
    if prime > 0 and "''" not in text and text[prime - 1].isalpha():
        yield Variant("prime-dropped", text[:prime] + text[prime + 1 :])


_MAKERS: tuple[Callable[[str], Iterator[Variant]], ...] = (
    _digits, _magnitude, _signs, _relations, _commands, _brackets, _exchanges, _member_lists,
    _letter_changes, _hedges, _bounds, _number_words, _units, _groups, _words, _others,
)  # fmt: skip
