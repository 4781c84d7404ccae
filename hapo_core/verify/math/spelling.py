"""What people write where LaTeX has its own way: plain-text functions, bare arguments, Chinese.

Runs before everything else of `text`; every rule maps a notation to the one the others know.
"""

from __future__ import annotations

import re

from hapo_core.verify.math import foreign

CHARACTERS = {
    "∀": r"\forall ", "∃": r"\exists ", "∄": r"\nexists ", "⇒": r"\implies ", "⟹": r"\implies ",
    "⇔": r"\iff ", "¬": r"\neg ", "∧": r"\land ", "∨": r"\lor ", "∉": r"\notin ", "⊂": r"\subset ",
    "⊆": r"\subseteq ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "‖": r"\Vert ", "∥": r"\parallel ", "⊥": r"\perp ", "∣": "|", "∼": r"\sim ", "≡": r"\equiv ",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "⁄": "/", "∛": r"\sqrt[3]", "ⁿ": "^{n}", "⁻": "^{-}", "、": ",", "，": ",", "；": ";",
    "：": ":", "△": r"\triangle ", "∠": r"\angle ", "∡": r"\angle ", "≅": r"\cong ",
    "⟂": r"\perp ", "∝": r"\propto ", "⊙": r"\odot ", "□": r"\square ",
    "（": "(", "）": ")", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ",
    "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ",
    "Δ": r"\Delta ", "Ω": r"\Omega ", "Σ": r"\Sigma ", "→": r"\to ", "″": "''",
    **{c: f"_{{{d}}}" for c, d in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)},
}  # fmt: skip
_PLAIN_FUNCTION = re.compile(
    r"(?<![\\A-Za-z{])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log)"
    r"(?=\s*[(\d\\]|\s+[a-z](?![a-z])|[\^_])"
)
_PLAIN_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])(sqrt|cbrt)\s*")
_NO_TEXT = re.compile(r"(\\(?:text|mathrm|mbox|operatorname)\w*\s*\{[^{}]*\})")
_TAKES = {"\\frac": 2, "\\dfrac": 2, "\\tfrac": 2, "\\cfrac": 2, "\\sqrt": 1}
_FRENCH = re.compile(r"([\]\[(])([^\]\[(),;]+[,;][^\]\[(),;]+)([\]\[)])")
_REMARK = re.compile(
    r"\s*(?:\\text\{\s*)?\(\s*(?:\\text\{)?\s*(?:which is |or |i\.e\. )?"
    r"(?:about|approximately|approx\.?|roughly|"
    r"\\approx)\s*\}?\s*(\d+(?:\.\d+)?)\s*(%|[^()\d]*)\)\s*\}?\s*$"
)
_OPENING = re.compile(
    r"^\s*(?:\\(?:text|mathrm|mbox)\s*\{\s*)?(?:(?:so|thus|hence|therefore),?\s+)?"
    r"(?:(?:the |our |my )?(?:final |correct )?"
    r"(?:answer|result|solution|value)\s*(?:is|equals|[:=])\s*:?"
    r"|approximately|approx\.?|about|roughly|exactly)\s*(?P<close>\})?\s*(?=[^\s}])",
    re.IGNORECASE,
)
"""Words before a value that say that it is the answer, or that it may be rounded."""
_OPENING_SIGN = re.compile(r"^\s*\\(?:approx|simeq)(?![a-z])\s*")


def plain(text: str) -> str:
    """The text with LaTeX commands for plain-text ones and every argument in braces."""
    if not text.isascii():
        text = foreign.units_and_words(text)
    parts = _NO_TEXT.split(text)
    parts[::2] = [_functions(part) for part in parts[::2]]
    text = "".join(parts)
    return _arguments(text) if "frac" in text or "sqrt" in text else text


def _chosen(match: re.Match[str]) -> str:
    """`C_{10}^{3}`, `_{10}C_3` and `^{10}C_3` as a binomial; with letters they may be names."""
    whole, part = (int(n) for n in match.groups() if n)
    return f"\\binom{{{whole}}}{{{part}}}" if whole > 2 and whole >= part else match.group()


_NUMBER = r"\{?\s*(\d{1,4})\s*\}?"
_CHOSEN = re.compile(
    rf"(?<![A-Za-z\d}}])C\s*_\s*{_NUMBER}\s*\^\s*{_NUMBER}"
    rf"|(?:\{{\s*\}}\s*|(?<![\w}}]))[_^]\s*{_NUMBER}\s*C\s*_\s*{_NUMBER}"
)


def _functions(text: str) -> str:
    text = _CHOSEN.sub(_chosen, text) if "C" in text else text
    text = _PLAIN_PI.sub(r"\\pi ", text)
    text = _PLAIN_FUNCTION.sub(r"\\\1 ", text)
    if "sqrt" in text or "cbrt" in text:
        text = _PLAIN_ROOT.sub(lambda m: "\\sqrt" + ("[3]" if m.group(1) == "cbrt" else ""), text)
        text = re.sub(r"\\sqrt((?:\[3\])?)\s*(\d+)(?![\d}])", r"\\sqrt\1\2", text)
    return text


def _arguments(text: str) -> str:
    """`\\frac\\pi4`, `\\sqrt\\frac12` and `\\sqrt(3)` with braces; text that does not fit stays."""
    out, place = [], 0
    for match in re.finditer(r"\\(?:[dtc]?frac|sqrt)(?![a-zA-Z])", text):
        if match.start() < place:
            continue
        end, written = _command(text, match.start())
        out.append(text[place : match.start()] + written)
        place = end
    return "".join(out) + text[place:]


def _command(text: str, start: int) -> tuple[int, str]:
    """(end, spelling) of a command with its arguments."""
    match = re.compile(r"\\[a-zA-Z]+").match(text, start)
    if match is None:
        return start, ""
    place, written = match.end(), match.group()
    if written not in _TAKES:
        return place, written
    option = re.compile(r"\s*\[[^\[\]]*\]").match(text, place)
    if option and written == "\\sqrt":
        place, written = option.end(), written + option.group().strip()
    for _ in range(_TAKES[match.group()]):
        place, argument = _argument(text, place, match.group() == "\\sqrt")
        written += argument
    return place, written


def _argument(text: str, place: int, whole_number: bool) -> tuple[int, str]:
    """One argument in braces; without braces it is a command or a character (TeX's own rule)."""
    while place < len(text) and text[place] == " ":
        place += 1
    if place >= len(text):
        return place, ""
    if text[place] == "{" or (whole_number and text[place] == "("):
        end = _closing(text, place)
        if end < 0:
            return place, ""
        return end, "{" + _arguments(text[place + 1 : end - 1]) + "}"
    if text[place] == "\\":
        end, written = _command(text, place)
        return (end, "{" + written + "}") if end > place else (place, "")
    if not text[place].isalnum():
        return place, ""
    number = re.compile(r"[0-9]+").match(text, place)
    if whole_number and number:  # `\sqrt12` in an answer is the root of 12 where TeX takes 1
        following = text[number.end() : number.end() + 1]
        end = number.end() if len(number.group()) > 1 and following in ("", " ") else place + 1
        return end, "{" + text[place:end] + "}"
    return place + 1, "{" + text[place] + "}"


def _closing(text: str, start: int) -> int:
    """The place after the bracket that closes the one at `start`; -1 if there is none."""
    opening, closing = text[start], {"{": "}", "(": ")"}[text[start]]
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "\\":
            continue
        depth += (text[place] == opening) - (text[place] == closing)
        if not depth:
            return place + 1
    return -1


def french(text: str) -> str:
    """`]-2,3[` and its halves as `(-2,3)`; only where a bracket is turned outwards."""
    if not re.search(r"^\s*\]|\[\s*$", text):
        return text

    def turned(match: re.Match[str]) -> str:
        opening, content, closing = match.groups()
        return ("(" if opening == "]" else opening) + content + (")" if closing == "[" else closing)

    return _FRENCH.sub(turned, text)


def unworded(text: str) -> str:
    """Without the words that announce an answer: `the answer is 12`, `approximately 12`."""
    for _ in range(2):
        match = _OPENING.match(text)
        if not match:
            break
        rest = text[match.end() :]
        opened = "\\text{" in match.group() or "{" in match.group()
        if opened and not match.group("close"):
            rest = "\\text{" + rest
        text = rest
    return _OPENING_SIGN.sub("", text)


_TERM = r"(\d+(?:\.\d+)?)"
_RATIO = re.compile(rf"{_TERM}(?:\s*:\s*{_TERM})+")
_RATIO_IN_WORDS = re.compile(rf"{_TERM}(?:\s*(?:\\text\{{\s*to\s*\}}|to)\s*{_TERM})+")


def ratio_in_words(gold: str, answer: str) -> str:
    """The answer `3 to 2` as `3:2`, where the gold is a ratio; else it may be a range."""
    if not _RATIO.fullmatch(gold) or not _RATIO_IN_WORDS.fullmatch(answer):
        return answer
    return re.sub(r"\s*(?:\\text\{\s*to\s*\}|to)\s*", ":", answer)


def split_remark(text: str) -> tuple[str, str]:
    """(value, number) of `737/39 (about 18.9 cards)`; the number is empty without such a remark."""
    match = _REMARK.search(text)
    if not match or not match.start():
        return text, ""
    return text[: match.start()].strip(), match.group(1)
