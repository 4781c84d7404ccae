"""Statements made around a gold, each with an answer that means something else.

Golds with quantifiers, owners of values or named sets are rare in public data; answers to
problems that a user brings need not be. A gold gives the formula, the statement is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hapo_core.verify.properties.mutations import mutate
from hapo_core.verify.properties.tokens import Pair, bare, is_number, is_value, letters, tokens

_OWNERS = (("Alice", "Bob"), ("Maximum", "Minimum"), ("length", "width"), ("red", "blue"))
_KEPT = ("digit-first", "digit-last", "sign-inside", "fraction-inverted")
"""Changes of a formula that change every statement about it."""


def embed(gold: str) -> list[Pair]:
    """Statements around the gold, with wrong answers; empty for golds that are no formula."""
    text = bare(gold)
    if not is_value(text) or len(text) > 60:
        return []
    return [*_with_changes(text), *_with_letters(text), *_of_numbers(text)]


def _with_changes(text: str) -> Iterator[Pair]:
    """The same statement about another formula."""
    changed = {v.kind: v.text for v in mutate(text)}
    other = next((changed[k] for k in _KEPT if k in changed), None)
    if other is None:
        return
    for kind, frame in (
        ("domain-hides", "y = {} (x \\ge 1)"),
        ("domain-hides-comma", "y = {}, x > 0"),
        ("for-all", "\\forall x \\in \\mathbb{{R}}, x^2 > {}"),
        ("named-set", "A \\cap B = \\{{x \\mid 0 < x < {}\\}}"),
        ("named-list", "A \\cap B = \\{{1000, {}\\}}"),
        ("norm", "\\lVert T^n \\rVert = {}"),
        ("sentence", "If a = 0, then a^2 \\leq {}."),
        ("derivative", "f'(x) = {}"),
        ("dots", "1, 2, \\ldots, {}"),
        ("cases", "\\begin{{cases}} {} & x > 0 \\\\ 0 & x \\le 0 \\end{{cases}}"),
        ("function-list", "f(x) = {} \\text{{ and }} g(x) = 1000"),
        ("limit", "\\lim_{{x \\to 0}} h(x) = {}"),
        ("probability", "P(A \\mid B) = {}"),
        ("equation-of-letters", "u^2 + v^2 = {}"),
        ("congruence", "n \\equiv {} \\pmod{{1000}}"),
    ):
        yield Pair(kind, frame.format(text), frame.format(other))
    for kind, before, after in (
        ("quantifier", "\\forall x > 0, x^2 \\ne {}", "\\exists x > 0, x^2 \\ne {}"),
        ("quantifier-relation", "\\forall x > 0, x^2 > {}", "\\forall x > 0, x^2 < {}"),
        ("quantifiers-swapped", "\\forall x \\exists y: y > x + {}",
         "\\exists y \\forall x: y > x + {}"),
        ("sentence-relation", "If a = 0, then a^2 \\leq {}.", "If a = 0, then a^2 > {}."),
        ("implication", "x > {} \\implies x > 0", "x > 0 \\implies x > {}"),
        ("set-name", "A \\cap B = \\{{1000, {}\\}}", "A \\cup B = \\{{1000, {}\\}}"),
        ("set-complement", "A \\setminus B = \\{{1000, {}\\}}",
         "B \\setminus A = \\{{1000, {}\\}}"),
        ("norm-name", "\\lVert T^n \\rVert = {}", "\\lVert S^n \\rVert = {}"),
        ("prime-lost", "f'(x) = {}", "f(x) = {}"),
        ("function-name", "f(x) = {}", "g(x) = {}"),
        ("domain-changed", "y = {} (x \\ge 1)", "y = {} (x \\le 1)"),
        ("membership", "{} \\in A", "{} \\notin A"),
        ("congruence-base", "n \\equiv {} \\pmod{{1000}}", "n \\equiv {} \\pmod{{999}}"),
        ("dots-step", "1, 2, 3, \\ldots, {}", "1, 3, 5, \\ldots, {}"),
        ("negated-statement", "\\text{{x is }} {}", "\\text{{x is not }} {}"),
        ("cases-swapped", "\\begin{{cases}} {} & x > 0 \\\\ 1000 & x \\le 0 \\end{{cases}}",
         "\\begin{{cases}} 1000 & x > 0 \\\\ {} & x \\le 0 \\end{{cases}}"),
    ):  # fmt: skip
        yield Pair(kind, before.format(text), after.format(text))


def _with_letters(text: str) -> Iterator[Pair]:
    """What is visible only where a letter stands for any number."""
    parts = tokens(text)
    places = letters(parts)
    if not places:
        return
    name = parts[places[0]]
    other = name.swapcase()
    free = {parts[place] for place in places} - set("ijklmnpqN")  # those are whole by custom
    if free and not re.search(r"floor|ceil", text):
        yield Pair("floor", f"\\lfloor {text} \\rfloor", text)
        yield Pair("floor-or-ceiling", f"\\lfloor {text} \\rfloor", f"\\lceil {text} \\rceil")
        yield Pair("floor-moved", f"\\lfloor 2({text}) \\rfloor", f"2\\lfloor {text} \\rfloor")
    yield Pair("case-merged", f"{text} + {other}", f"{text} + {name}")
    yield Pair("case-cancelled", f"\\frac{{{name}}}{{{other}}}", "1")
    yield Pair("prime-letter", f"{text} + {name}'", f"{text} + {name}")
    yield Pair("index-letter", f"{text} + {name}_1", f"{text} + {name}_2")
    yield Pair("bar-letter", f"{text} + \\overline{{{name}}}", f"{text} + {name}")
    yield Pair("conjugate", f"{text} + \\bar{{{name}}}", f"{text} - \\bar{{{name}}}")
    yield Pair("dot-letter", f"{text} + \\dot{{{name}}}", f"{text} + \\ddot{{{name}}}")


def _of_numbers(text: str) -> Iterator[Pair]:
    """Collections and owners of the gold and three other numbers."""
    if not is_number(text) or text.startswith("-") or len(text) > 9:
        return
    b = str(round(float(text)) + 3)
    c, d = "1001", "1002"
    if len({text, b, c, d}) < 4:
        return
    owners = _OWNERS[sum(map(ord, text)) % len(_OWNERS)]
    first, second = owners
    for opening, closing, kind in (("\\{", "\\}", "sets"), ("{", "}", "braces")):
        pair = f"{opening}{opening}{text},{b}{closing},{opening}{c},{d}{closing}{closing}"
        mixed = f"{opening}{opening}{text},{c}{closing},{opening}{b},{d}{closing}{closing}"
        yield Pair(f"{kind}-regrouped", pair, mixed)
        yield Pair(f"{kind}-flattened", pair, f"\\{{{text},{b},{c},{d}\\}}")
        more = pair[: -len(closing)] + f",{opening}{text},{c}{closing}{closing}"
        yield Pair(f"{kind}-more", pair, more)
    yield Pair("bare-sets", f"{{{text},{b}}},{{{c},{d}}}", f"{{{text},{c}}},{{{b},{d}}}")
    yield Pair("pairs-regrouped", f"({text},{b}),({c},{d})", f"({text},{c}),({b},{d})")
    yield Pair("pairs-flattened", f"({text},{b}),({c},{d})", f"{text},{b},{c},{d}")
    label = "\\text{{{}: }}{}, \\text{{{}: }}{}"
    yield Pair("owners", label.format(first, text, second, b), label.format(first, b, second, text))
    yield Pair("owner-other", f"\\text{{{first}: }}{text}", f"\\text{{{second}: }}{text}")
    unit = "{} \\text{{ {}}}, {} \\text{{ {}}}"
    yield Pair(
        "unit-owners",
        unit.format(text, "apples", b, "pears"),
        unit.format(b, "apples", text, "pears"),
    )
    yield Pair("unit-words", f"{text} \\text{{ apples}}", f"{text} \\text{{ dozen apples}}")
    yield Pair("name-values", f"a = {text}, b = {b}", f"a = {b}, b = {text}")
    grouped = "2," + (text if is_number(text) and len(text) < 3 and "." not in text else "5").zfill(
        3
    )
    yield Pair("group-to-list", grouped, grouped.replace(",0", ",").replace(",0", ","))
    yield Pair("group-to-set", grouped, "\\{" + grouped + "\\}")
