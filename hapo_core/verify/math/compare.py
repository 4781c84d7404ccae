"""Compare two structures: single values, lists, sets, tuples, vectors, regions."""

from __future__ import annotations

import re

from hapo_core.verify.math import fastpath, owners, region, structure, words
from hapo_core.verify.math.structure import Node
from hapo_core.verify.math.text import compact, groups_only, join_thousands
from hapo_core.verify.verdict import Verdict

_MAX_MATCHED = 40
"""Members up to which unordered collections are paired here; larger ones are math-verify's."""
_MAX_RESTATED = 4
"""Forms of one value that an answer may give (`28 or 28_9`); every one must be right."""
Outcome = tuple[bool | None, str]


def compare_readings(gold: str, answer: str) -> Outcome:
    """Compare with commas between digit groups as thousands, then as separators.

    The second reading is for what cannot be one number: `2,5` never meets `2,005`, and a number
    alone (`1,234`) is no list of two.
    """
    joined = join_thousands(gold), join_thousands(answer)
    if _both_and_either(gold, answer):
        return None, "connective"
    same, rule = _compare(*joined)
    if same is True or joined == (gold, answer) or not groups_only(gold, answer):
        return same, rule
    second = _compare(gold, answer)
    return second if second[0] else (same, rule)


def _both_and_either(gold: str, answer: str) -> bool:
    """`x > 2 or x < -2` beside `x > 2 and x < -2`: for relations the word decides."""
    if not (region.looks_like_region(gold) and region.looks_like_region(answer)):
        return False
    joiners = [
        {_JOINERS.get(j, "") for j in structure.split_with(side, {*_JOINERS, ","})[1]} - {""}
        for side in (gold, answer)
    ]
    return bool(joiners[0] and joiners[1] and joiners[0] != joiners[1])


_JOINERS = {"or": "or", "\\lor": "or", "\\vee": "or", "\\cup": "or", "and": "and", "\\land": "and",
            "\\wedge": "and", "\\cap": "and"}  # fmt: skip


def _compare(gold: str, answer: str) -> Outcome:
    if region.looks_like_region(gold) or region.looks_like_region(answer):
        left, right = region.read_region(gold), region.read_region(answer)
        if left is not None and right is not None:
            return region.same_region(left, right, equal_text), "region"
    points = structure.point_name(gold), structure.point_name(answer)
    if points[0] and points[1] and points[0] != points[1]:
        return False, "name"
    mine, theirs = structure.named_values(gold), structure.named_values(answer)
    if mine and theirs and sorted(mine) == sorted(theirs):
        return _ordered(tuple(mine.values()), tuple(theirs[name] for name in mine))
    return compare_nodes(structure.parse(gold), structure.parse(answer))


def equal_text(gold: str, answer: str) -> bool | None:
    return compare_nodes(structure.parse(gold), structure.parse(answer))[0]


def compare_nodes(gold: Node, answer: Node) -> Outcome:
    """Compare two structures by the project's conventions on order and brackets."""
    if gold.kind == "atom" and answer.kind == "atom":
        return _atoms(gold, answer)
    if gold.kind == "atom" or answer.kind == "atom":
        return _atom_and_collection(gold, answer)
    if {gold.kind, answer.kind} <= {"list", "set"}:
        owned = _owned(gold.items), _owned(answer.items)
        if owned[0] and owned[1]:
            return _by_owner(owned[0], owned[1])
        if owned[0] and gold.kind == answer.kind == "list" and len(gold.items) > 1:
            return _ordered(gold.items, answer.items)  # without owners they have the gold's order
        return _unordered(gold.items, answer.items)
    if "set" in (gold.kind, answer.kind):
        loose = "{}" in (gold.fence, answer.fence) and {gold.kind, answer.kind} == {"set", "tuple"}
        if loose and all(item.kind == "atom" for item in (*gold.items, *answer.items)):
            return _ordered(gold.items, answer.items)  # `{1,3}` without backslashes may be a point
        return False, "set-or-tuple"
    if "x" in gold.fence + answer.fence and gold.kind != answer.kind:
        return False, "brackets"
    if gold.kind == answer.kind and gold.fence != answer.fence:
        return False, "brackets"
    for node in (gold, answer):
        if node.fence in ("(]", "[)") and gold.kind != answer.kind:
            return False, "brackets"
    return _ordered(gold.items, answer.items)


def _atoms(gold: Node, answer: Node) -> Outcome:
    from hapo_core.verify.math.equations import equal_atoms  # sympy: not in the parent process

    left, right = region.looks_like_region(gold.text), region.looks_like_region(answer.text)
    if words.is_prose(gold.text) or words.is_prose(answer.text):
        return None, "prose"
    if (left or right) and gold.text.strip("-") != "\\infty" != answer.text.strip("-"):
        regions = region.read_region(gold.text), region.read_region(answer.text)
        if regions[0] is not None and regions[1] is not None:
            return region.same_region(regions[0], regions[1], equal_text), "region"
        bound = gold.text if left else answer.text
        if left != right and region.is_relation(bound) and readable(bound):
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
    same = [equal_text(g, a) for g, a in zip(left[0], right[0], strict=True)]
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
        if other.kind == "set" and re.fullmatch(r"[A-Za-z]", atom.text.strip()):
            return None, "structure"  # `{x}` may be a set or a fractional part, and is no x
        return compare_nodes(gold, member) if atom is gold else compare_nodes(member, answer)
    vector = other.fence in ("()", "row", "column") and len(other.items) in (2, 3)
    axes = structure.along_axes(atom.text, len(other.items)) if vector else None
    if axes is not None:
        return _ordered(*((axes.items, other.items) if atom is gold else (other.items, axes.items)))
    if words.is_prose(atom.text) or region.looks_like_region(atom.text):
        return None, "structure"
    few = other is answer and other.kind == "list" and len(other.items) <= _MAX_RESTATED
    if few and all(compare_nodes(gold, member)[0] for member in other.items):
        return True, "restated"
    if re.search(r"\\begin|\\mathbb|\\dots|\\ldots|\\cdots|\\in(?![a-z])|\||\\text", atom.text):
        return None, "structure"
    return False, "count"


def _owned(items: tuple[Node, ...]) -> dict[str, Node]:
    """The members by their owners, if every member has another one; else nothing."""
    found = {owners.owner(item.text): item for item in items if item.kind == "atom"}
    return found if len(found) == len(items) > 1 and "" not in found else {}


def _by_owner(golds: dict[str, Node], answers: dict[str, Node]) -> Outcome:
    if len(golds) != len(answers):
        return False, "count"
    if len(golds) > _MAX_MATCHED:
        return None, "owners"
    left, unknown = dict(answers), False
    for name, item in golds.items():
        other = name if name in left else next((n for n in left if owners.agree(name, n)), None)
        if other is None:
            return (False if _other_numbers(golds, answers) else None), "owners"
        same, _ = compare_nodes(item, left.pop(other))
        if same is False:
            return False, "owners"
        unknown = unknown or same is None
    return None if unknown else True, "owners"


def _other_numbers(golds: dict[str, Node], answers: dict[str, Node]) -> bool:
    """Whether the numbers alone differ, whoever has them: then no reading of the owners helps."""
    from hapo_core.verify.math.values import constant  # sympy: not in the parent process

    sides = [[constant(n.text) for n in side.values()] for side in (golds, answers)]
    left, right = ([value for value in side if value is not None] for side in sides)
    return len(left) == len(right) == len(golds) and sorted(left) != sorted(right)


def _same_member(gold: Node, answer: Node) -> bool | None:
    """Inside a collection a set of one is not its member: `{{1}, {2}}` is not `{1, 2}`."""
    if "set" in (gold.kind, answer.kind) and gold.kind != answer.kind:
        return None if "\\emptyset" in (gold.text, answer.text) and not answer.items else False
    return compare_nodes(gold, answer)[0]


def _ordered(golds: tuple[Node, ...], answers: tuple[Node, ...]) -> Outcome:
    if len(golds) != len(answers):
        return False, "count"
    unknown = False
    for left, right in zip(golds, answers, strict=True):
        same = _same_member(left, right)
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
            same = _same_member(item, other)
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


def readable(text: str) -> bool:
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
    from hapo_core.verify.math.equations import readable_value

    if node.items:
        return all(_readable_node(item) for item in node.items)
    return words.is_wordy(node.text) or readable_value(node.text)
