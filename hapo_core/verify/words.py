"""Rules on answers in words: names, choices, yes and no, and golds that are prose."""

from __future__ import annotations

import re

from hapo_core.verify.verdict import Verdict

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_ENDLESS = {"infinitely many", "infinite", "infinity", "infinite many", "infinitely many solutions"}
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_PROSE_WORDS = 4
"""A gold of so many words is a sentence; a rule cannot tell whether another one means the same."""
_GRAMMAR_WORDS = (
    "the that this these are was were has have will would must can not for with from which each "
    "every then than thus therefore since because where when answer find let its only there"
)
_GRAMMAR = set(_GRAMMAR_WORDS.split())
_RUN_OF_WORDS = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]{2,} +){4,}[A-Za-z]{2,}")
_BOUND = re.compile(
    r"(?<![A-Za-z])(?:or (?:more|less|fewer|greater|above|below)|at (?:least|most)|"
    r"(?:more|less|fewer|greater) than|not)(?![A-Za-z])|\\(?:neg|lnot)(?![a-z])",
    re.IGNORECASE,
)
_SECOND_CHOICE = re.compile(r"(?<![A-Za-z])[A-J](?=\)|[.:] )|(?<=and )[A-J]$|(?<=or )[A-J]$")
_CHOICE = re.compile(r"^\(?\s*([A-J])\s*\)?\s*[.:)]?$")
_CHOICE_WITH_TEXT = re.compile(r"^\(\s*([A-J])\s*\)\s*\S|^([A-J])[.:)]\s*\S")


def plain(text: str) -> str:
    """Without `\\text`, in lower case, without articles and punctuation."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"[{}$.,;:!?\"'()\[\]]|\\(?![a-zA-Z])", " ", text.lower())
    text = re.sub(r"\b(solution|root|value)s\b", r"\1", text)
    return " ".join(w for w in text.split() if w not in ("the", "a", "an"))


def words_of(text: str) -> list[str]:
    """Words of three letters or more that are not commands or environments."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|\\[a-zA-Z]+", " ", text)
    return re.findall(r"[^\W\d_]{3,}", text)


def is_wordy(text: str) -> bool:
    """Words and nothing that could be computed."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if re.search(r"[\d=<>+*/^|_]|\\[a-zA-Z]", bare):
        return False
    words = words_of(text)
    if "\\text{" in text:
        return bool(words)
    return bool(words) and any(re.search(r"[aeiouyAEIOUY]", w) and len(w) >= 3 for w in words)


def is_prose(text: str) -> bool:
    """A sentence, perhaps with formulas in it; a list of labelled values is none."""
    found = words_of(text)
    if len(found) >= _PROSE_WORDS and any(w.lower() in _GRAMMAR for w in found):
        return True
    bare = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    return bool(_RUN_OF_WORDS.search(re.sub(r"\\[a-zA-Z]+", ". ", bare)))


def decide(gold: str, answer: str) -> tuple[Verdict, str] | None:
    """A verdict for tidy sides of which the gold is words, or None where the rules are mute."""
    choice = _choice(gold, answer)
    if choice is not None:
        return choice, "choice-letter"
    left, right = plain(gold), plain(answer)
    if _NUMBERS.get(left) == right or _NUMBERS.get(right) == left:
        return Verdict.CORRECT, "number-word"
    if left in _ENDLESS and (right in _ENDLESS or right == "\\infty"):
        return Verdict.CORRECT, "endless"
    if not is_wordy(gold):
        return None
    if left == right or _names(gold) == _names(answer):
        return Verdict.CORRECT, "words"
    if left in _OPPOSITE:
        first = (right.split() or [""])[0]
        return (Verdict.CORRECT if first == left else Verdict.WRONG), "yes-or-no"
    if is_prose(gold):
        return Verdict.BAD_GOLD, "the gold is prose"
    if "\\text" in gold + answer or len(words_of(gold)[0]) >= 4:
        return Verdict.WRONG, "words"
    return None  # `abc` may be a product


def bound(text: str) -> str:
    """Words that make a value a bound (`7 or more`, `at least 7`), or an empty string."""
    found = _BOUND.search(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text))
    return " ".join(found.group().lower().split()) if found else ""


def _names(text: str) -> list[str]:
    parts = re.split(r"\band\b|\bor\b|,|;", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text))
    return sorted(plain(part) for part in parts if plain(part))


def _choice(gold: str, answer: str) -> Verdict | None:
    """`(D) Alina`, `D.` and `(D)` are the choice D. A lone capital may be a variable as well."""
    left, right = plain_choice(gold), plain_choice(answer)
    if left is None or right is None:
        return None
    if gold.strip("() .:") != left and answer.strip("() .:") != right:
        return None  # both carry text: compare that
    return Verdict.CORRECT if left == right else Verdict.WRONG


def plain_choice(text: str) -> str | None:
    """The letter of a multiple-choice answer, or None."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip()
    if len(_SECOND_CHOICE.findall(bare)) > 1:
        return None
    match = _CHOICE.match(bare) or _CHOICE_WITH_TEXT.match(bare)
    return next((g for g in match.groups() if g), None) if match else None
