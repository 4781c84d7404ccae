"""Mutations of real golds are never correct, respellings are; a sample, and all under HAPO_SOAK."""

from __future__ import annotations

import os

import pytest
from verify_golds import DATA, sample

from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings, grade
from hapo_core.verify.properties import embed, mutate, respell

SOAK = bool(os.environ.get("HAPO_SOAK"))
EACH = 1000 if SOAK else 8
"""Pairs of each kind: the full sweep takes a quarter of an hour."""
ACCEPTED, MISSED = (0.001, 0.01) if SOAK else (0.004, 0.02)
"""Shares of mutations accepted and of respellings that are not, at most (a sample is lumpy)."""
Against = list[tuple[str, str, str, str]]


@pytest.fixture(scope="module")
def against() -> dict[str, tuple[int, Against]]:
    if not DATA.exists():
        pytest.skip(f"{DATA} is not here")
    found: dict[str, tuple[int, Against]] = {"mutation": (0, []), "respelling": (0, [])}
    rows = [(g, kind, *pair) for (g, kind), pairs in sample(EACH).items() for pair in pairs]
    with VerifierPool(VerifierSettings(timeout_seconds=20)) as pool:
        verdicts = pool.verify(Job("", gold, rf"\boxed{{{text}}}") for *_, gold, text in rows)
    for (group, kind, gold, text), verification in zip(rows, verdicts, strict=True):
        count, bad = found[group]
        if (verification.verdict is Verdict.CORRECT) == (group == "mutation"):
            bad.append((kind, gold, text, verification.detail))
        found[group] = (count + 1, bad)
    return found


@pytest.mark.timeout(3000)
def test_mutations_are_not_correct(against: dict[str, tuple[int, Against]]) -> None:
    count, bad = against["mutation"]
    assert count > 70 * EACH
    assert len(bad) / count <= ACCEPTED, bad


@pytest.mark.timeout(3000)
def test_respellings_are_correct(against: dict[str, tuple[int, Against]]) -> None:
    count, bad = against["respelling"]
    assert count > 30 * EACH
    assert len(bad) / count <= MISSED, bad


def test_the_generator_is_a_pure_function_and_changes_the_text() -> None:
    for gold in (
        "12",
        r"\frac{3}{4}",
        r"x^2 + 2x",
        r"\{1, 2\}",
        "(1, 2)",
        r"x \ge 5",
        r"\text{even}",
    ):
        for make in (mutate, respell):
            variants = make(gold)
            assert variants == make(gold) and variants
            assert len({v.kind for v in variants}) == len(variants)
            assert all(v.text != gold for v in variants)
        assert embed(gold) == embed(gold)


@pytest.mark.parametrize("gold", ["", " ", "$", "\x00", "{{{", r"\frac{", "(" * 2000, "é" * 50])
def test_the_generator_takes_any_text(gold: str) -> None:
    for variant in (*mutate(gold), *respell(gold), *embed(gold)):
        assert all(isinstance(part, str) for part in variant)


def test_mutations_of_a_few_golds_one_by_one() -> None:
    for gold in ("12", r"\frac{3}{4}", "x^2 + 2x", r"\{1, 2\}", "(3, 5)", r"x \ge 5", "0.25"):
        for kind, text in mutate(gold):
            assert grade(gold, text)[0] is not Verdict.CORRECT, (kind, gold, text)
        for kind, text in respell(gold):
            assert grade(gold, text)[0] is Verdict.CORRECT, (kind, gold, text)
