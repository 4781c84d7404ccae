"""Our own pairs of gold and answer: spellings of one value, and near misses of it.

Percent, units, money, sets and tuples, intervals, relations, matrices, plus-minus, mixed numbers,
bases, powers of ten, digit groups, degrees, words, choices, equations, polynomials, complex
numbers, logarithms, times of day, bounds and hedges.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hapo_core.verify import Job, Verdict, Verification, VerifierPool, VerifierSettings

Pair = tuple[str, str]


def pairs() -> tuple[list[Pair], list[Pair]]:
    lines = (Path(__file__).parent / "verify_pairs.txt").read_text("utf-8").splitlines()
    border = lines.index("[wrong]")
    split = [line.partition(" ||| ") for line in lines[2:border] + lines[border + 1 :]]
    found = [(gold, answer) for gold, _, answer in split]
    return found[: border - 2], found[border - 2 :]


@pytest.fixture(scope="module")
def graded() -> tuple[list[tuple[Pair, Verification]], list[tuple[Pair, Verification]]]:
    right, wrong = pairs()
    with VerifierPool(VerifierSettings(timeout_seconds=20)) as pool:
        found = pool.verify(Job("", g, rf"\boxed{{{a}}}") for g, a in right + wrong)
    return (
        list(zip(right, found[: len(right)], strict=True)),
        list(zip(wrong, found[len(right) :], strict=True)),
    )


Graded = tuple[list[tuple[Pair, Verification]], list[tuple[Pair, Verification]]]


def test_spellings_of_one_value_are_correct(graded: Graded) -> None:
    assert len(graded[0]) > 300
    assert [item for item in graded[0] if item[1].verdict is not Verdict.CORRECT] == []


def test_near_misses_are_not(graded: Graded) -> None:
    assert len(graded[1]) > 300
    other = (Verdict.WRONG, Verdict.UNPARSED)
    assert [item for item in graded[1] if item[1].verdict not in other] == []
