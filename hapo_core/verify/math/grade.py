"""Grade an extracted mathematical answer against its gold (runs inside a worker).

The order of the rules, each in a file of its own: `text` and `spelling` (spelling), `fastpath`,
`words`, `statement` (what has words or quantifiers), `qualifiers`, `compare` with `region`,
`structure`, `equations`, `values` and `algebra`. Whatever they accept passes the `guard`: what one
side says and no rule compares makes the pair unparsed. math-verify alone accepts only another
layout of the same tokens.
"""

from __future__ import annotations

import re
from functools import partial

from hapo_core.verify.extract import boxed, extract_answer, joined_boxes
from hapo_core.verify.math import (
    dates,
    fastpath,
    guard,
    pieces,
    qualifiers,
    region,
    spelling,
    statement,
    words,
)
from hapo_core.verify.math.compare import compare_readings, readable
from hapo_core.verify.math.text import compact, tidy
from hapo_core.verify.verdict import Verdict

_FORMULA = re.compile(r"\$\$?[^$]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
_DOTS = re.compile(r"\\[lcv]?dots(?![a-z])|\.\.\.|…")
_CURRENCIES = {
    name: re.compile(rf"{sign}|(?<![A-Za-z])(?:{word})(?![A-Za-z])", re.IGNORECASE)
    for name, sign, word in [
        ("dollar", r"\\\$", "dollars?|usd|bucks?"),
        ("cent", r"¢|\\cent(?![a-z])", "cents?|penny|pennies"),
        ("euro", r"€|\\euro(?![a-z])", "euros?|eur"),
        ("pound", r"£|\\pounds(?![a-z])", "gbp|pounds? sterling|quid"),
        ("yen", r"￥", "yen|jpy"),
        ("yuan", r"元", "yuan|rmb|cny|renminbi"),
        ("rupee", r"₹", "rupees?|rs|inr"),
        ("rouble", r"₽", "rou?bles?|rub|рубл(?:ь|я|ей)|руб"),
        ("franc", r"₣", "francs?|chf"),
        ("won", r"₩", "krw"),
    ]
}
"""Signs of currency are gone before units are read. `¥` is a yen and a yuan."""
_LETTERED = re.compile(r"^\(\s*([A-J])\s*\)\s*(\S.*)$|^([A-J])[.:)]\s+(\S.*)$", re.DOTALL)
_COUNTED = {"same-text", fastpath.NAME, "statement", "words", "number-word", "endless", "yes-or-no",
            "choice-letter", "empty-set", "same-tokens", "cases", "congruence"}  # fmt: skip
"""Rules that compare everything that both sides say, so that nothing is left for the guard."""
_IN_ORDER = re.compile(r"(?:\\text\{)?\s*(?:[A-Z](?:\s*[A-Z]){2,}|[IVXL]{2,})\s*\}?")
_AS_PRODUCT = {"math-verify", "identity", "witness", "statement", "same-tokens"}
"""`BAC` is a ranking or a polygon, and no product that commutes; rules that may have read one."""
_SPELLED = {"words", "statement"}
"""Rules on words: the whole texts are tallied once more."""
_BESIDE_A_BOX = re.compile(
    r"(?:(?:(?<![\w}\\])[-+]?\d[\d.,/]*|(?<![\w}\\])[A-Za-z]|\\frac\s*\{[^{}]*\}\s*\{[^{}]*\}|[)^_*+/-]|[\^_]\s*\{"
    r"|\\(?:cdot|times|div|frac|sqrt|pm))\s*[({$;]*\s*\\f?box(?:ed)?\s*\{)"
    r"|\\f?box(?:ed)?\s*\{[^{}]*\}[\s$;)]*(?:[\^*+/-]|\\cdot|\\times|(?:\(\s*)?(?:\d|\\frac|\\sqrt))"
)
"""`7 \\boxed{0}`, `1^{\\boxed{7}}`: a box is a whole answer, no factor or exponent."""
_STATED = re.compile(r"final answer is", re.IGNORECASE)
_MANY_WORDS = 8
_WHOLE_RESPONSE = 3
"""Words around a box from which the text is a response of its own: its last box counts."""
Graded = tuple[Verdict, str]


def grade(gold: str, answer: str, unevaluated: bool = False) -> Graded:
    """Whether `answer` is mathematically the same as `gold`.

    Args:
        gold: the reference answer, with or without dollar signs or a box.
        answer: the extracted answer, without its box.
        unevaluated: accept an answer that states a sum, product, integral or limit for a gold
            that is its value (`\\sum_{k=1}^{100} k` for 5050). It repeats the question.

    Returns:
        CORRECT, WRONG, UNPARSED (the answer is no mathematics, or says something that no rule
        compares) or BAD_GOLD, with the rule's name.
    """
    verdict = fastpath.decide(gold, answer)
    if verdict is not None:
        return verdict, fastpath.NAME
    if _BESIDE_A_BOX.search(answer) and gold.strip() != answer.strip():
        return Verdict.UNPARSED, "a value beside a box"
    gold, answer = _unboxed(gold), _unboxed(answer)
    left, right = tidy(gold), tidy(answer)
    if not left:
        return Verdict.BAD_GOLD, "the gold is empty"
    if not right:
        return Verdict.UNPARSED, "the answer is empty"
    if compact(left) == compact(right):
        return Verdict.CORRECT, "same-text"
    verdict, rule = _decide(gold, answer, left, right)
    if verdict is not Verdict.CORRECT:
        return verdict, rule
    if _IN_ORDER.fullmatch(left) and rule in _AS_PRODUCT:
        return Verdict.UNPARSED, "letters in order"
    hedge = guard.hedged(left, right) or (guard.lost(left, right) if rule in _SPELLED else "")
    if hedge:
        return Verdict.UNPARSED, f"not compared: {hedge}"
    paid = _paid(gold), _paid(answer)
    if paid[0] and paid[1] and paid[0] != paid[1]:
        return Verdict.UNPARSED, "currency"
    binders = guard.unevaluated(left), guard.unevaluated(right)
    if not unevaluated and binders[1] and not binders[0]:
        return Verdict.UNPARSED, "the answer is not evaluated"
    return verdict, rule


grade_any_form = partial(grade, unevaluated=True)
"""`grade` for `VerifierSettings.unevaluated`."""


def _decide(gold: str, answer: str, left: str, right: str) -> Graded:
    """A verdict for tidy sides, from the first rule that knows them."""
    verdict = fastpath.decide(left, right)
    if verdict is not None:
        return verdict, fastpath.NAME
    dated = dates.decide(left, right)
    if dated is not None:
        return dated, "date"
    right = spelling.ratio_in_words(left, right)
    stated = _statements(left, right)
    if stated is not None:
        return stated
    if not words.answers_yes_or_no(left) and _only_one_is_bound(left, right):
        return Verdict.WRONG, "bound"
    worded = words.decide(left, right)
    if worded is not None:
        return worded
    lettered = _lettered(left, right)
    if lettered is not None:
        return _decide(*lettered, *lettered)
    bare = [qualifiers.split(side)[0] for side in (left, right)]
    if any(words.is_prose(t) or _DOTS.search(t) for t in bare) or _embedded(answer):
        return _prose(gold, answer, left, right)
    return _values(gold, answer, left, right)


def _values(gold: str, answer: str, left: str, right: str) -> Graded:
    """Values, lists and regions, each perhaps with a qualifier behind it or a remark."""
    heads = qualifiers.split(left), qualifiers.split(right)
    agreed = qualifiers.agree(heads[0][1], heads[1][1], lambda a, b: compare_readings(a, b)[0])
    if heads[1][1]:
        heads = heads[0], (qualifiers.renamed(heads[0][0], *heads[1]), heads[1][1])
    (one, about), (other, nearly) = (spelling.split_remark(head) for head, _ in heads)
    if not (_near(one, about) and _near(other, nearly)):
        return Verdict.UNPARSED, "the remark is another value"
    if not one or not other:
        return Verdict.UNPARSED, "qualifier"
    same, rule = compare_readings(one, other)
    if same is None:
        return _by_math_verify(gold, answer, left, right)
    if not same:
        return Verdict.WRONG, rule
    if not agreed:
        return (Verdict.WRONG if agreed is False else Verdict.UNPARSED), "qualifier"
    if qualifiers.stray(*qualifiers.split(right)) and not qualifiers.stray(*heads[0]):
        return Verdict.UNPARSED, "qualifier"
    lost = "" if rule in _COUNTED else guard.lost(one, other)
    return (Verdict.UNPARSED, f"not compared: {lost}") if lost else (Verdict.CORRECT, rule)


def _near(value: str, remark: str) -> bool:
    """Whether the number of a remark (`about 18.9`) may stand for the value."""
    if not remark:
        return True
    from hapo_core.verify.math.values import constant  # sympy: not in the parent process

    exact = constant(value)
    return exact is not None and abs(float(exact) - float(remark)) <= 0.02 * abs(float(exact))


def _statements(left: str, right: str) -> Graded | None:
    """Names of sets, events and derivatives, then what is said in words and quantifiers."""
    names = statement.named(left), statement.named(right)
    if names[0] and names[1] and compact(names[0][0]) != compact(names[1][0]):
        return Verdict.WRONG, "name"
    if (names[0] or names[1]) and any(
        not n and "=" in t for n, t in zip(names, (left, right), strict=True)
    ):
        return Verdict.WRONG, "name"
    if names[0] or names[1]:
        one, other = names[0][1] if names[0] else left, names[1][1] if names[1] else right
        if compact(one) == compact(other):
            return Verdict.CORRECT, "same-text"
        return _decide(one, other, one, other)
    if not statement.marked(left) and not statement.marked(right):
        return None
    same, rule = pieces.decide(left, right, lambda a, b: compare_readings(a, b)[0])
    if same is not None:
        return (Verdict.CORRECT if same else Verdict.WRONG), rule
    same = statement.decide(left, right, lambda a, b: compare_readings(a, b)[0])
    if same is not None:
        return (Verdict.CORRECT if same else Verdict.WRONG), "statement"
    if words.is_prose(left):
        return None  # one formula of a sentence may be the answer
    if words.says_none(right) and not statement.denies(left):
        return Verdict.WRONG, "empty-set"
    if _DOTS.search(left) and not _DOTS.search(right):
        return Verdict.BAD_GOLD, "the gold is not written out"
    if not statement.marked(left) and not readable(left) and not words.is_wordy(left):
        return Verdict.BAD_GOLD, "the gold does not parse"
    return Verdict.UNPARSED, "statement"


def _paid(text: str) -> set[str]:
    """The currencies that are named."""
    return {name for name, written in _CURRENCIES.items() if written.search(text)}


def _only_one_is_bound(left: str, right: str) -> bool:
    """`7 or more` for 7; prose and relations are for the rules that know them."""
    if region.looks_like_region(left + right) or words.is_prose(left) or words.is_prose(right):
        return False
    return words.bound(left) != words.bound(right)


def _lettered(left: str, right: str) -> tuple[str, str] | None:
    """`(C) 12` against `12`: the text behind the letter, where only one side has a letter."""
    found = _LETTERED.match(left), _LETTERED.match(right)
    if bool(found[0]) == bool(found[1]):
        return None
    bare = [
        m.group(2) or m.group(4) if m else text
        for m, text in zip(found, (left, right), strict=True)
    ]
    return bare[0], bare[1]


def _unboxed(text: str) -> str:
    """Without a box inside it: the last one if harmless words surround it, else only its braces."""
    boxes = boxed(text)
    if not boxes:
        stated = _STATED.search(text) and words.count(text) >= _MANY_WORDS
        return extract_answer(text, require_mark=False).answer or text if stated else text
    outside = text
    for start, end, _ in reversed(boxes):
        outside = outside[:start] + " " + outside[end:]
    free = not re.search(r"\d", outside) and not guard.lost("", outside)
    if (
        len(boxes) > 1
        or words.only_announces(outside)
        or words.count(outside) >= (2 if free else _WHOLE_RESPONSE)
    ):
        return joined_boxes(text) or text
    return re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", "", text)


def _embedded(text: str) -> bool:
    """Words around a formula in dollars or brackets: `Answer: $9$`."""
    outside = _FORMULA.sub(" ", text)
    return outside != text and words.count(outside) > 0


def _prose(gold: str, answer: str, left: str, right: str) -> Graded:
    """A sentence with one formula in it is that formula, if its other words change nothing."""
    one, other = _formula(gold, left), _formula(answer, right, announcing=True)
    if one and other and len(one) + len(other) < len(gold) + len(answer):
        found = grade(one, other)
        if found[0] is Verdict.CORRECT or not words.is_prose(left):
            return found
    if words.is_prose(left):
        return Verdict.BAD_GOLD, "the gold is prose"
    return _by_math_verify(gold, answer, left, right)


def _formula(text: str, clean: str, announcing: bool = False) -> str:
    """The one formula of a sentence; the text itself if it is none; empty where it is unclear."""
    if not words.is_prose(clean) and not _embedded(text):
        return clean
    found, outside = _FORMULA.findall(text), _FORMULA.sub(" ", text)
    if len(found) != 1 or guard.lost("", outside) or re.search(r"\d", outside):
        return ""
    labelled = re.fullmatch(r"\s*[A-Za-z ]+:\s*", outside)  # `Answer as a matrix: $...$`
    if announcing and not labelled and not words.only_announces(outside):
        return ""
    return str(found[0])


def _by_math_verify(gold: str, answer: str, left: str, right: str) -> Graded:
    """math-verify on both sides as they were written; it accepts only another layout."""
    if _DOTS.search(left) and not _DOTS.search(right):
        return Verdict.BAD_GOLD, "the gold is not written out"
    if _DOTS.search(right) and not _DOTS.search(left):
        return Verdict.UNPARSED, "the answer is not written out"
    if statement.decide(left, right, lambda a, b: compare_readings(a, b)[0]):
        return Verdict.CORRECT, "statement"
    from math_verify import parse, verify

    bare = gold.strip().strip("$")
    golds = parse(f"${bare}$", parsing_timeout=None, fallback_mode="no_fallback")
    answers = parse(f"\\boxed{{{answer}}}", parsing_timeout=None, fallback_mode="no_fallback")
    if golds and answers and verify(golds, answers, timeout_seconds=None):
        if guard.same_tokens(left, right):
            return Verdict.CORRECT, "same-tokens"
        return Verdict.UNPARSED, "math-verify alone"
    if not golds and not readable(left):
        return Verdict.BAD_GOLD, "the gold does not parse"
    if not answers and not readable(right):
        return Verdict.UNPARSED, "the answer does not parse"
    return Verdict.WRONG, "math-verify"
