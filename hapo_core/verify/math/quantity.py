"""Rules on quantities: percent, degrees, units, number bases and written decimals."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from hapo_core.verify.math import guard

_FACTORS: dict[str, tuple[Fraction, str]] = {}
for _dimension, _table in {
    "length": "mm 1/1000 cm 1/100 dm 1/10 m 1 km 1000 in 127/5000 inch 127/5000 ft 381/1250 "
    "foot 381/1250 feet 381/1250 yd 1143/1250 yard 1143/1250 mi 201168/125 mile 201168/125 "
    "meter 1 metre 1 centimeter 1/100 centimetre 1/100 kilometer 1000 kilometre 1000 "
    "millimeter 1/1000",
    "mass": "mg 1/1000 g 1 gram 1 kg 1000 kilogram 1000 tonne 1000000",
    "time": "s 1 sec 1 second 1 min 60 minute 60 h 3600 hr 3600 hour 3600 day 86400 week 604800",
    "volume": "ml 1/1000 mL 1/1000 l 1 L 1 liter 1 litre 1",
    "share": "ppm 1/1000000 ppb 1/1000000000",
    "money": "cent 1/100 cents 1/100 dollar 1",
    "half of a day": "am 1 a.m 1 AM 1",
    "other half of a day": "pm 1 p.m 1 PM 1",
}.items():
    _words = _table.split()
    for _unit, _factor in zip(_words[::2], _words[1::2], strict=True):
        _FACTORS[_unit] = (Fraction(_factor), _dimension)

_UNIT_WORDS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\b(?:square|sq\.?) ([A-Za-z]+)", r"\1^2"),
        (r"\bcubic ([A-Za-z]+)", r"\1^3"),
        (r"([A-Za-z]+) squared\b", r"\1^2"),
        (r"([A-Za-z]+) cubed\b", r"\1^3"),
        (r"\bmph\b", "mi/h"),
        (r"\bkm?ph\b", "km/h"),
        (r"\\cdot", " "),
    ]
]
_BARE_UNITS = set(_FACTORS) | {"mph", "kmph", "rad", "rpm", "Hz", "kHz", "eV", "kJ", "kW", "Pa"}
_VAGUE = {"m", "s", "g", "h", "l", "L", "in"}
"""Bare, these are variables or words; as `\\text{m}` they are units."""
_UNIT_TOKEN = (
    r"(?:\\text\{[^{}]*\}|(?<![\\A-Za-z{])[A-Za-z][A-Za-z.]*[A-Za-z](?![{(])|\\cdot|/|"
    r"\^\s*\{?\s*-?\d\s*\}?|\\(?:mu|Omega)(?![a-zA-Z])|[()])"
)
_TRAILING_UNIT = re.compile(rf"^(.*?[\d}})%]|.*?\\pi)\s*((?:{_UNIT_TOKEN}\s*)+)$", re.DOTALL)
_ORDINAL = re.compile(
    r"^(-?\d+)\s*\^?\s*\{?\s*(?:\\text\{)?\s*(?:st|nd|rd|th)\s*\}?\s*\}?(?![a-z])"
    r"(?!.*(?<![A-Za-z])(?:powers?|roots?|of)(?![A-Za-z]))(?:[\s.'A-Za-z{}]|\\text)*$"
)
"""Only words may stand behind it: `3rd + 4` is a sum."""
_BASED = re.compile(r"^\(?(-?[0-9A-Za-z.]+)\)?\s*_\s*\{?\s*(\d{1,2})\s*\}?$")
_DEGREES = re.compile(r"^(.*?)\s*(?:\^\\circ|\\text\{\s*degrees?\s*\}|\bdegrees?)\s*$", re.DOTALL)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_MINUTES = re.compile(r"^(-?\d+)\s*\^\\circ\s*(\d+)\s*'\s*(?:(\d+)\s*''\s*)?$")
_WORD = r"\s*(?:\\text\{)?\s*([A-Za-z]{1,12})\s*\}?\s*"
_COMPOUND = re.compile(rf"^(\d+){_WORD}(\d+(?:\.\d+)?){_WORD}$")
_CLOCK = re.compile(
    r"^(\d{1,2})\s*:\s*([0-5]\d)(?:\s*(?:\\text\{)?\s*([ap])\.?\s*m\.?\s*\}?)?$", re.IGNORECASE
)
_CURRENCY = re.compile(r"^(?:[€£¥₹]|\\(?:pounds|euro)|USD|Rs\.?)\s*|\s*[€£¥₹]$")
_BARE_COMPOUND = re.compile(
    r"^(-?\d[\d.,]*)\s*((?:sq|square|cubic)\.? [a-z]+|[A-Za-z]+(?:\s*\^\s*\{?[23]\}?)?"
    r"(?:\s*(?:/|per)\s*[A-Za-z]+(?:\s*\^\s*\{?[23]\}?)?)+|(?<= )[mghsLlNJWVKA]"
    r"|[A-Za-z]+(?:\s*(?:\\cdot\s*)?[A-Za-z]+\s*\^\s*\{?\s*-\s*[123]\s*\}?)+)$"
)
"""`60 km/h`, `60 km h^{-1}`, `12 sq cm`, `12 m`: bare units, where nothing else is left
to be a variable."""
_DECIMAL = re.compile(
    r"^([+-]?)\s*(\d+)(?:\.(\d+))?\s*"
    r"(?:\\(?:times|cdot)\s*10\s*\^\s*(?:\{\s*)?([+-]?\d{1,4})\s*\}?)?$"
)


@dataclass(frozen=True)
class Quantity:
    """A value with what is written around it.

    Args:
        core: the value without its unit and sign of percent or degrees.
        unit: words after the value, as written, without `\\text`.
        percent, degrees: whether such a sign stood there.
        base: the subscript of a number in another base.
        factor: what a word behind it multiplies it by (`dozen`); None for a word that changes it
            in a way that is not computed here (`factorial`, `less`, `below zero`).
    """

    core: str
    unit: str = ""
    percent: bool = False
    degrees: bool = False
    base: int | None = None
    factor: Fraction | None = Fraction(1)


@dataclass(frozen=True)
class Decimal:
    """A number as it is written: its value, the weight of its last digit, significant digits."""

    value: Fraction
    step: Fraction
    digits: int
    exact: bool  # an integer without exponent
    scientific: bool


def read_quantity(text: str) -> Quantity:
    """Take units and signs off a tidy value."""
    text = _CURRENCY.sub("", text.strip()).strip()
    speed = _BARE_COMPOUND.match(text)
    if speed and (unit_factor(speed.group(2)) or unit_factor(_spelled(speed.group(2)))):
        return Quantity(speed.group(1), unit=speed.group(2))
    compound = _compound(text)
    if compound is not None:
        return compound
    minutes = _MINUTES.match(text)
    if minutes:
        d, m, s = (part or "0" for part in minutes.groups())
        return Quantity(str(Fraction(d) + Fraction(m) / 60 + Fraction(s) / 3600), degrees=True)
    based = _BASED.match(text)
    if based and based.group(1)[-1:].isalnum() and any(c.isdigit() for c in based.group(1)):
        return Quantity(based.group(1), base=int(based.group(2)))
    ordinal = _ORDINAL.match(text)
    if ordinal:
        return Quantity(ordinal.group(1))
    if text.endswith("%"):
        inner = read_quantity(text[:-1].strip())
        return Quantity(text) if inner.percent else replace(inner, percent=True)
    degrees = _DEGREES.match(text)
    if degrees and degrees.group(1) and not _TRIGONOMETRIC.search(text):
        return Quantity(degrees.group(1).strip(), degrees=True)
    return _without_unit(text)


def _compound(text: str) -> Quantity | None:
    """`2 hours 30 minutes` in its first unit; both must measure the same."""
    match = _COMPOUND.match(text)
    if not match:
        return None
    (large, unit, small, other) = (part.strip() for part in match.groups())
    first, second = unit_factor(unit), unit_factor(other)
    if first is None or second is None or first[1] != second[1] or first[0] <= second[0]:
        return None
    return Quantity(str(Fraction(large) + Fraction(small) * second[0] / first[0]), unit=unit)


def read_clock(text: str) -> tuple[int, str] | None:
    """(minutes, "am", "pm" or "") of a time of day such as `8:34 p.m.`; with "" as written."""
    match = _CLOCK.match(text.strip())
    if not match or int(match.group(1)) > 24:
        return None
    hours, half = int(match.group(1)), (match.group(3) or "").lower()
    if half and hours > 12:
        return None
    hours = hours % 12 + (12 if half == "p" else 0) if half else hours
    return hours * 60 + int(match.group(2)), f"{half}m" if half else ""


def _without_unit(text: str) -> Quantity:
    match = _TRAILING_UNIT.match(text)
    if not match:
        return Quantity(text)
    core, unit = match.group(1).strip(), match.group(2).strip()
    if core.count("(") != core.count(")") or core.count("{") != core.count("}"):
        return Quantity(text)
    if re.search(r"(?<![\^\d])(?<!\^ )(?<!\^\{)(?<!\^\{-)(?<!\^-)\d", unit):
        return Quantity(text)  # a second number is no unit
    bare = re.sub(r"\\text\{[^{}]*\}", "", unit)
    for word in re.findall(r"[A-Za-z.]+", bare):
        spaced = text[len(core) : len(core) + 1] == " " or "\\text" in unit
        known = word in _BARE_UNITS or word.rstrip("s") in _BARE_UNITS or word == "per"
        if word in _VAGUE or not (known or (spaced and len(word) >= 4)):
            return Quantity(text)
    if not re.search(r"[A-Za-z]", unit.replace("\\cdot", "")):
        return Quantity(text)
    if core.endswith("%"):
        return Quantity(core[:-1], percent=True)
    if core.endswith("^\\circ"):
        return Quantity(core[: -len("^\\circ")].strip(), degrees=True)
    unit = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", unit).strip()
    unit, factor = _multiplied(unit)
    return Quantity(core, unit=unit, factor=factor)


_MULTIPLES = {"dozen": 12, "dozens": 12, "score": 20, "gross": 144, "hundred": 100, "hundreds": 100}


def _multiplied(unit: str) -> tuple[str, Fraction | None]:
    """(unit without the word, factor) of `dozen eggs`; the factor is None for any other word that
    changes a number."""
    first, _, rest = unit.partition(" ")
    if first.lower() in _MULTIPLES:
        left, factor = _multiplied(rest.strip())
        return left, None if factor is None else _MULTIPLES[first.lower()] * factor
    return unit, None if guard.lost("", unit) else Fraction(1)


def _spelled(unit: str) -> str:
    """Powers and speeds in words: `square feet`, `feet squared`, `mph`, `cubic`."""
    for pattern, replacement in _UNIT_WORDS:
        unit = pattern.sub(replacement, unit)
    return unit.strip()


def unit_factor(unit: str) -> tuple[Fraction, str] | None:
    """The size of a unit in base units and its dimension, or None for an unknown unit."""
    factor, dimensions = Fraction(1), dict[str, int]()
    last: tuple[Fraction, str, int] | None = None
    sign = 1
    for token in re.findall(r"[A-Za-z.]+|/|\^\s*\{?\s*-?\d", _spelled(unit)):
        if token in ("/", "per"):
            sign = -1
            continue
        if token.startswith("^"):
            if last is None:
                return None
            power = int(re.sub(r"[^\d-]", "", token))
            factor *= last[0] ** (last[2] * (power - 1))
            dimensions[last[1]] += last[2] * (power - 1)
            continue
        name = token.strip(".")
        known = (
            _FACTORS.get(name)
            or _FACTORS.get(name.rstrip("s"))
            or _FACTORS.get(name.removesuffix("es"))
        )
        if known is None:
            return None
        last = (*known, sign)
        factor *= known[0] ** sign
        dimensions[known[1]] = dimensions.get(known[1], 0) + sign
    if not dimensions:
        return None
    name = " ".join(f"{d}^{p}" for d, p in sorted(dimensions.items()) if p)
    return factor, name


_PREFIX_TABLE = (
    "k 3 kilo 3 M 6 mega 6 G 9 giga 9 T 12 tera 12 h 2 hecto 2 c -2 centi -2 m -3 milli -3 "
    "\\mu -6 micro -6 n -9 nano -9 p -12 pico -12"
)
_PREFIXES = {"": 0} | {
    name: int(power) for name, power in re.findall(r"(\S+) (-?\d+)", _PREFIX_TABLE)
}
_PREFIXED = re.compile(
    r"(\\mu|[kMGThcmnp]?)\s*(Pa|[JWVANFTHCKS]|Hz|mol|eV|Wh|cal|bar|B|\\Omega|bits?|bytes?|[bB]ps|[bBr]pm|rps)"
    r"|((?:kilo|mega|giga|tera|hecto|centi|milli|micro|nano|pico)?)"
    r"(joule|watt|volt|amp|ampere|newton|pascal|hertz|mole|ohm|calorie|byte|bit|electronvolt)s?"
)
"""Units that are not converted into each other, but into their own multiples."""


def prefix_factor(gold: str, answer: str) -> Fraction | None:
    """The gold's unit in the answer's, where they differ by prefixes only; 0 for
    two signs of other units (`kW`, `kWh`); else None."""
    sides = [re.findall(r"\\?[A-Za-z]+|/|\^\s*\{?\s*-?\d", unit) for unit in (gold, answer)]
    if len(sides[0]) != len(sides[1]):
        return None
    power = 0
    for place, (one, other) in enumerate(zip(*sides, strict=True)):
        if one == other:
            continue
        found = _PREFIXED.fullmatch(one), _PREFIXED.fullmatch(other)
        if not found[0] or not found[1] or _powered(sides[0], place):
            return None
        (prefix, base), (second, same) = (
            [part for part in m.groups() if part is not None] for m in found if m
        )
        if base != same:
            return Fraction(0) if found[0].group(2) and found[1].group(2) else None
        step = _PREFIXES[prefix] - _PREFIXES[second]
        power += -step if "/" in sides[0][:place] else step
    return Fraction(10) ** power


def other_powers(gold: str, answer: str) -> bool:
    """Whether both are written with the same words and signs in other powers: `mol/L`, `L/mol`."""
    left, right = _powers(gold), _powers(answer)
    return bool(left) and set(left) == set(right) and left != right


_PLURALS = {"people": "person", "feet": "foot", "men": "man", "women": "woman",
            "children": "child", "inches": "inch", "boxes": "box"}  # fmt: skip


def _powers(unit: str) -> dict[str, int]:
    """How often each word of a unit multiplies (`W/m^2`: W 1, m -2)."""
    powers: dict[str, int] = {}
    sign, last = 1, ""
    for token in re.findall(r"\\?[A-Za-z]+|/|\^\s*\{?\s*-?\d", _spelled(unit)):
        if token in ("/", "per"):
            sign = -1
        elif not token.startswith("^"):
            last = _PLURALS.get(token) or (token.removesuffix("s") if len(token) > 3 else token)
            powers[last] = powers.get(last, 0) + sign
        elif last:
            powers[last] += sign * (int(re.sub(r"[^\d-]", "", token)) - 1)
    return powers


def _powered(tokens: list[str], place: int) -> bool:
    """Whether a power stands behind a unit: the square of a prefix is not computed here."""
    return tokens[place + 1 : place + 2] != [] and tokens[place + 1].startswith("^")


def known_units(unit: str) -> set[str]:
    """The units of measure among the words behind a number (`kg` of `kg of cereal`)."""
    found = re.findall(r"[A-Za-z]+", _spelled(unit))
    return {
        w.rstrip("s") if len(w) > 3 else w
        for w in found
        if w in _FACTORS or w.rstrip("s") in _FACTORS
    }


def read_decimal(text: str) -> Decimal | None:
    """A number written with digits, perhaps with a power of ten; None for anything else."""
    match = _DECIMAL.match(text.strip())
    if not match or len(text) > 4000:
        return None
    sign, whole, fraction, exponent = match.groups()
    fraction = fraction or ""
    step = Fraction(10) ** (int(exponent or 0) - len(fraction))
    value = int(whole + fraction) * step * (-1 if sign == "-" else 1)
    digits = len((whole + fraction).lstrip("0"))
    exact = not fraction and exponent is None
    return Decimal(value, step, digits, exact, exponent is not None)


def rounds_to(value: Fraction, written: Decimal) -> bool:
    """Whether the written number is the value rounded to its last written digit."""
    return abs(value - written.value) * 2 <= written.step
