"""Grade an extracted mathematical answer against its gold (runs inside a worker).

The order of the rules, each in a file of its own: `text` (spelling), `fastpath`, `words`,
`region`, `structure` (lists, sets, tuples), `values` and `algebra` (single values). Whatever they
do not understand goes to math-verify as it was written.
"""

from __future__ import annotations

import re

from hapo_core.verify import fastpath, region, structure, words
from hapo_core.verify.extract import boxed, joined_boxes
from hapo_core.verify.structure import Node
from hapo_core.verify.text import compact, join_thousands, tidy
from hapo_core.verify.verdict import Verdict

_MAX_MATCHED = 40
"""Members up to which unordered collections are paired here; larger ones are math-verify's."""
_MAX_RESTATED = 4
"""Forms of one value that an answer may give (`28 or 28_9`); every one must be right."""
_FORMULA = re.compile(r"\$\$?[^$]+\$\$?|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
_DOTS = re.compile(r"\\[lcv]?dots|\.\.\.|…")
Outcome = tuple[bool | None, str]


def grade(gold: str, answer: str) -> tuple[Verdict, str]:
    """Whether `answer` is mathematically the same as `gold`.

    Args:
        gold: the reference answer, with or without dollar signs or a box.
        answer: the extracted answer, without its box.

    Returns:
        CORRECT, WRONG, UNPARSED (the answer is no mathematics) or BAD_GOLD, with the rule's name.
    """
    verdict = fastpath.decide(gold, answer)
    if verdict is not None:
        return verdict, fastpath.NAME
    left, right = tidy(_unboxed(gold)), tidy(_unboxed(answer))
    if not left:
        return Verdict.BAD_GOLD, "the gold is empty"
    if not right:
        return Verdict.UNPARSED, "the answer is empty"
    if compact(left) == compact(right):
        return Verdict.CORRECT, "same-text"
    verdict = fastpath.decide(left, right)
    if verdict is not None:
        return verdict, fastpath.NAME
    if _only_one_is_bound(left, right):
        return Verdict.WRONG, "bound"
    worded = words.decide(left, right)
    if worded is not None:
        return worded
    if any(words.is_prose(t) or _DOTS.search(t) for t in (left, right)) or _embedded(answer):
        return _by_math_verify(gold, answer, left, right)
    same, rule = _compare_readings(left, right)
    if same is not None:
        return (Verdict.CORRECT if same else Verdict.WRONG), rule
    return _by_math_verify(gold, answer, left, right)


def _only_one_is_bound(left: str, right: str) -> bool:
    """`7 or more` for 7; prose and relations are for the rules that know them."""
    if region.looks_like_region(left + right) or words.is_prose(left) or words.is_prose(right):
        return False
    return words.bound(left) != words.bound(right)


def _unboxed(text: str) -> str:
    """Without a box inside it: the last one if prose surrounds it, else the box is dropped."""
    boxes = boxed(text)
    if not boxes:
        return text
    outside = text
    for start, end, _ in reversed(boxes):
        outside = outside[:start] + " " + outside[end:]
    if len(words.words_of(outside)) > 0 or "=" not in outside:
        return joined_boxes(text) or text
    return re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", "", text)


def _embedded(text: str) -> bool:
    """Words around a formula in dollars or brackets: `Answer: $9$`."""
    outside = _FORMULA.sub(" ", text)
    return outside != text and bool(words.words_of(outside))


def _compare_readings(gold: str, answer: str) -> Outcome:
    """Compare with commas between digit groups as thousands, then as separators."""
    joined = join_thousands(gold), join_thousands(answer)
    same, rule = _compare(*joined)
    if same is not True and joined != (gold, answer):
        second = _compare(gold, answer)
        if second[0]:
            return second
    return same, rule


def _compare(gold: str, answer: str) -> Outcome:
    if region.looks_like_region(gold) or region.looks_like_region(answer):
        left, right = region.read_region(gold), region.read_region(answer)
        if left is not None and right is not None:
            return region.same_region(left, right, _equal_text), "region"
    return compare_nodes(structure.parse(gold), structure.parse(answer))


def _equal_text(gold: str, answer: str) -> bool | None:
    return compare_nodes(structure.parse(gold), structure.parse(answer))[0]


def compare_nodes(gold: Node, answer: Node) -> Outcome:
    """Compare two structures by the project's conventions on order and brackets."""
    if gold.kind == "atom" and answer.kind == "atom":
        return _atoms(gold, answer)
    if gold.kind == "atom" or answer.kind == "atom":
        return _atom_and_collection(gold, answer)
    if {gold.kind, answer.kind} <= {"list", "set"}:
        return _unordered(gold.items, answer.items)
    if "set" in (gold.kind, answer.kind):
        return False, "set-or-tuple"
    if gold.kind == answer.kind and gold.fence != answer.fence:
        return False, "brackets"
    for node in (gold, answer):
        if node.fence in ("(]", "[)") and gold.kind != answer.kind:
            return False, "brackets"
    return _ordered(gold.items, answer.items)


def _atoms(gold: Node, answer: Node) -> Outcome:
    from hapo_core.verify.values import equal_atoms  # sympy: not in the parent process

    left, right = region.looks_like_region(gold.text), region.looks_like_region(answer.text)
    if words.is_prose(gold.text) or words.is_prose(answer.text):
        return None, "prose"
    if (left or right) and gold.text.strip("-") != "\\infty" != answer.text.strip("-"):
        regions = region.read_region(gold.text), region.read_region(answer.text)
        if regions[0] is not None and regions[1] is not None:
            return region.same_region(regions[0], regions[1], _equal_text), "region"
        bound = gold.text if left else answer.text
        if left != right and region.is_relation(bound) and _readable(bound):
            return False, "bound"
        return _chains(gold.text, answer.text), "region"
    worded = words.decide(gold.text, answer.text)
    if worded is not None and worded[0] is not Verdict.BAD_GOLD:
        return worded[0] is Verdict.CORRECT, worded[1]
    return equal_atoms(gold.text, answer.text)


def _chains(gold: str, answer: str) -> bool | None:
    """Two relations that are no subsets of the line: equal side by side, or math-verify's."""
    left, right = region.read_chain(gold), region.read_chain(answer)
    if left is None or right is None or left[1] != right[1]:
        return None
    same = [_equal_text(g, a) for g, a in zip(left[0], right[0], strict=True)]
    if all(same):
        return True
    return False if len(same) > 2 and False in same else None


def _atom_and_collection(gold: Node, answer: Node) -> Outcome:
    """A collection of one is its member; otherwise the number of answers differs."""
    atom, other = (gold, answer) if gold.kind == "atom" else (answer, gold)
    if "\\emptyset" in (atom.text, *(item.text for item in other.items)):
        return atom.text == "\\emptyset" and other.kind == "set" and not other.items, "empty-set"
    if other.kind in ("set", "list") and len(other.items) == 1:
        member = other.items[0]
        return compare_nodes(gold, member) if atom is gold else compare_nodes(member, answer)
    if words.is_prose(atom.text) or region.looks_like_region(atom.text):
        return None, "structure"
    few = other is answer and other.kind == "list" and len(other.items) <= _MAX_RESTATED
    if few and all(compare_nodes(gold, member)[0] for member in other.items):
        return True, "restated"
    if re.search(r"\\begin|\\mathbb|\\dots|\\ldots|\\cdots|\\in(?![a-z])|\||\\text", atom.text):
        return None, "structure"
    return False, "count"


def _ordered(golds: tuple[Node, ...], answers: tuple[Node, ...]) -> Outcome:
    if len(golds) != len(answers):
        return False, "count"
    unknown = False
    for left, right in zip(golds, answers, strict=True):
        same, _ = compare_nodes(left, right)
        if same is False:
            return False, "ordered"
        unknown = unknown or same is None
    return None if unknown else True, "ordered"


def _unordered(golds: tuple[Node, ...], answers: tuple[Node, ...]) -> Outcome:
    """Pair members off; repetitions only count where both sides have them."""
    if len(golds) != len(answers):
        golds, answers = _distinct(golds), _distinct(answers)
    if len(golds) != len(answers):
        return False, "count"
    if len(golds) > _MAX_MATCHED:
        return _many_numbers(golds, answers), "unordered"
    left = list(answers)
    for item in sorted(golds, key=lambda node: node.text):
        unknown = False
        same_spelling = [n for n in left if compact(n.text) == compact(item.text)]
        for other in same_spelling or left:
            same, _ = compare_nodes(item, other)
            unknown = unknown or same is None
            if same:
                left.remove(other)
                break
        else:
            return None if unknown else False, "unordered"
    return True, "unordered"


def _many_numbers(golds: tuple[Node, ...], answers: tuple[Node, ...]) -> bool | None:
    """Large collections of plain integers; None for anything else."""
    sides = [sorted(fastpath.plain_number(n.text) or "" for n in side) for side in (golds, answers)]
    if any(not text or "." in text for side in sides for text in side):
        return None
    return sides[0] == sides[1]


def _distinct(items: tuple[Node, ...]) -> tuple[Node, ...]:
    return tuple({compact(item.text): item for item in items}.values())


def _by_math_verify(gold: str, answer: str, left: str, right: str) -> tuple[Verdict, str]:
    """math-verify on both sides as they were written, with its own extraction from prose."""
    prose = words.is_prose(left)
    if prose and len(_FORMULA.findall(gold)) != 1:  # which of them is the answer?
        return Verdict.BAD_GOLD, "the gold is prose"
    if _DOTS.search(left) and not _DOTS.search(right):
        return Verdict.BAD_GOLD, "the gold is not written out"
    if _DOTS.search(right) and not _DOTS.search(left):
        return Verdict.UNPARSED, "the answer is not written out"
    from math_verify import parse, verify

    bare = gold.strip().strip("$")
    golds = parse(f"${bare}$", parsing_timeout=None, fallback_mode="no_fallback")
    answers = parse(f"\\boxed{{{answer}}}", parsing_timeout=None, fallback_mode="no_fallback")
    if golds and answers and verify(golds, answers, timeout_seconds=None):
        return Verdict.CORRECT, "math-verify"
    if prose:
        return Verdict.BAD_GOLD, "the gold is prose"
    if not golds and not _readable(left):
        return Verdict.BAD_GOLD, "the gold does not parse"
    if not answers and not _readable(right):
        return Verdict.UNPARSED, "the answer does not parse"
    return Verdict.WRONG, "math-verify"


def _readable(text: str) -> bool:
    """Whether the rules before math-verify understand this side by itself."""
    if region.looks_like_region(text):
        chain = region.read_chain(text)
        if chain is not None and all(_readable_node(structure.parse(s)) for s in chain[0]):
            return True
        return region.read_region(text) is not None
    if words.is_wordy(text) or words.plain_choice(text):
        return not words.is_prose(text)
    return _readable_node(structure.parse(text))


def _readable_node(node: Node) -> bool:
    from hapo_core.verify.values import readable_value

    if node.items:
        return all(_readable_node(item) for item in node.items)
    return words.is_wordy(node.text) or readable_value(node.text)
