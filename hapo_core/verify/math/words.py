"""Rules on answers in words: names, choices, yes and no, and golds that are prose."""

from __future__ import annotations

import re

from hapo_core.verify.verdict import Verdict

_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
_ENDLESS = {"infinitely many", "infinite", "infinity", "infinite many", "infinitely many solutions"}
_NO_SOLUTION = re.compile(
    r"(?:(?:there (?:is|are) )?(?:no|not any) (?:real |such |possible |valid |integer )?"
    r"(?:solution|root|value|answer|number)(?: exists?)?|none|empty set"
    r"|(?:does|do) not exist|no such \w+ exists?)"
)
_DENIED_BY = {
    **dict.fromkeys(("yes", "true"), frozenset({"no", "not", "false", "untrue", "never", "isn't"})),
    **dict.fromkeys(("no", "false"), frozenset({"yes"})),
}
"""Words behind a yes that take it back, and behind a no."""
_TAKEN_BACK = {"or", "but", "neither", "nor", "wait", "doubt", "unless", "otherwise", "maybe", "if"}
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
_CHOICE_WITH_TEXT = re.compile(r"^\(\s*([A-J])\s*\)\s*[^\s,;]|^([A-J])[.:)]\s*[^\s,;]")


def plain(text: str) -> str:
    """Without `\\text`, in lower case, without articles and punctuation."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(
        r"(?<![A-Za-z])A +(?=[a-z]{2})(?![a-z]*[^\Wsu]s\b)", " ", text
    )  # `A wins`: a name
    text = re.sub(r"[A-Za-z]{2,}", _lower, text)  # A and a are two points, and so are ABC and abc
    text = re.sub(r"[{}$.,;:!?\"()\[\]]|\\(?![a-zA-Z])", " ", text)
    text = re.sub(r"\b(solution|root|value)s\b", r"\1", text)
    return " ".join(w for w in text.split() if w not in ("the", "a", "an"))


def _lower(match: re.Match[str]) -> str:
    word = match.group()
    points = re.fullmatch(r"[A-H]{2,5}", word) and len(set(word)) == len(word)
    return word if points else word.lower()


def words_of(text: str) -> list[str]:
    """Words of three letters or more that are not commands or environments."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|\\[a-zA-Z]+", " ", text)
    return re.findall(r"[^\W\d_]{3,}", text)


def count(text: str) -> int:
    """Words of two letters and more, without the connectives of a list."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\\(?:begin|end)\{[^{}]*\}(?:\{[^{}]*\})?|\\[a-zA-Z]+", " ", text)
    return sum(w.lower() not in ("and", "or") for w in re.findall(r"[^\W\d_]{2,}", text))


_ANNOUNCING_WORDS = """
the final answer answers is are so therefore hence thus we get have value equals result solution
of this that and conclude obtain find finally which be to by required correct our my problem
total number
"""
_ANNOUNCING = set(_ANNOUNCING_WORDS.split())


def only_announces(text: str) -> bool:
    """Words that say that an answer follows, with no sign or number beside them."""
    bare = re.sub(r"\\text\{([^{}]*)\}|\\n(?![a-z])", r" \1 ", text)
    if re.search(r"[\d=<>+*/^|-]|\\[a-zA-Z]", bare):
        return False
    return all(word.lower() in _ANNOUNCING for word in re.findall(r"[^\W\d_]+", bare))


def is_wordy(text: str) -> bool:
    """Words and nothing that could be computed."""
    bare = re.sub(r"\\text\{([^{}]*)\}|\\n(?![a-z])", r" \1 ", text)
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
    none = [bool(_NO_SOLUTION.fullmatch(side)) for side in (left, right)]
    if all(none):
        return Verdict.CORRECT, "empty-set"
    if any(none) and (left == "\\emptyset" or right == "\\emptyset"):
        return Verdict.CORRECT, "empty-set"
    if left in _DENIED_BY and left != right and re.search(r"[a-z]{2}", right):
        return (
            Verdict.CORRECT if _affirms(left, right) and not _counts_none(answer) else Verdict.WRONG
        ), "yes-or-no"
    if not is_wordy(gold):
        return None
    joined = [{"and", "or"} & set(side.split()) for side in (left, right)]
    if joined[0] and joined[1] and joined[0] != joined[1]:
        return Verdict.WRONG, "words"
    if left == right or _names(gold) == _names(answer):
        return Verdict.CORRECT, "words"
    if is_prose(gold):
        return Verdict.BAD_GOLD, "the gold is prose"
    if "\\text" in gold + answer or len(words_of(gold)[0]) >= 4:
        return Verdict.WRONG, "words"
    return None  # `abc` may be a product


def answers_yes_or_no(gold: str) -> bool:
    return plain(gold) in _DENIED_BY


_NONE_OF = re.compile(
    r"^\W*(?:\\text\{)?\s*no\s+(?!it|this|that|there|we|they|the|he|she|because|since|as|you)[a-z]",
    re.IGNORECASE,
)


def _counts_none(text: str) -> bool:
    """`No one knows`, `no doubt`: a no that belongs to the next word and answers nothing."""
    return bool(_NONE_OF.search(text))


def _affirms(gold: str, answer: str) -> bool:
    """Whether an answer begins with the gold's yes or no, and does not take it back."""
    first, *rest = re.findall(r"[^\W_]+(?:['’][a-z]+)?", answer)
    said = set(rest)
    if first != gold or said & (_DENIED_BY[gold] | _TAKEN_BACK) or re.search(r"\d", answer):
        return False
    denied = said & _DENIED_BY["yes"]
    return bool(denied) or "true" not in said or gold in ("yes", "true")


def bound(text: str) -> str:
    """Words that make a value a bound (`7 or more`, `at least 7`), or an empty string."""
    found = _BOUND.search(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text))
    return " ".join(found.group().lower().split()) if found else ""


def says_none(text: str) -> bool:
    """Whether it says that nothing is there: `None`, `no solution`, the empty set."""
    bare = plain(text)
    return bare == "\\emptyset" or bool(_NO_SOLUTION.fullmatch(bare))


def _names(text: str) -> list[str]:
    parts = re.split(r"\band\b|\bor\b|,|;", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text))
    return sorted(plain(part) for part in parts if plain(part))


def _choice(gold: str, answer: str) -> Verdict | None:
    """`(D) Alina`, `D.` and `(D)` are the choice D. A lone capital may be a variable as well."""
    gold, answer = (re.sub(r"\\text\{([^{}]*)\}", r"\1", side) for side in (gold, answer))
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
