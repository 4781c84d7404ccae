"""Attempts to be correct without being right, and the kinds that others found (kinds_2026_11)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from verify_golds import DATA

from hapo_core.errors import ConfigError
from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings, grade

Pair = tuple[str, str]
OTHERWISE = {"prose gold with several formulas: wrong, not bad_gold"}
"""Kinds that stay as they are: a sentence with two values is no answer that a rule can compare."""


def attacks() -> list[Pair]:
    lines = (Path(__file__).parent / "verify_attacks.txt").read_text("utf-8").splitlines()
    split = [line.partition(" ||| ") for line in lines if line[0] not in "#["]
    return [(gold, answer) for gold, _, answer in split] + [("[1, 2]", "[1, 2)")]


def test_none_of_the_attacks_is_correct_and_every_gold_is() -> None:
    pairs = attacks()
    assert len(pairs) > 200
    with VerifierPool(VerifierSettings(timeout_seconds=20)) as pool:
        tried = pool.verify(Job("", g, rf"\boxed{{{a}}}") for g, a in pairs)
        golds = pool.verify(Job("", g, rf"\boxed{{{g}}}") for g, _ in pairs)
    passed = [p for p, v in zip(pairs, tried, strict=True) if v.verdict is Verdict.CORRECT]
    assert passed == []
    assert {v.verdict for v in golds} == {Verdict.CORRECT}


def test_kinds_of_november_2026() -> None:
    path = DATA / "verifier" / "kinds_2026_11.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    jobs = []
    for row in rows:
        whole = "boxed" in row["pred"] and row["kind"] != "hedges that pass"
        jobs.append(Job("", row["gold"], row["pred"] if whole else rf"\boxed{{{row['pred']}}}"))
    with VerifierPool(VerifierSettings(timeout_seconds=20)) as pool:
        verdicts = [v.verdict for v in pool.verify(jobs)]
    other = [
        (row["kind"], row["gold"], row["pred"], verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
        if (verdict is Verdict.CORRECT) != (row["expected"] == "correct")
        and row["kind"] not in OTHERWISE
    ]
    assert other == []


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (r"\text{ML} \perp \text{NK}", "None", Verdict.WRONG),
        (r"\begin{cases} n^2 & \text{if } n > 0 \\ 1 & \text{if } n \le 0 \end{cases}", "None",
         Verdict.WRONG),
        (r"\neg \exists x: x^2 < 0", r"\text{none}", Verdict.UNPARSED),
        (r"40 \text{ red candies}, 60 \text{ blue candies}",
         r"40 \text{ red candies}, 50 \text{ green candies}", Verdict.WRONG),
        ("7.5 \text{ m}", "7.5 \text{ M}", Verdict.UNPARSED),
        (r"k\pi \text{ where } k \text{ is an integer}",
         r"k\pi \text{ where } k \text{ is an odd integer}", Verdict.UNPARSED),
        (r"x = k\pi, \text{ where } k \text{ is an integer}", r"x = n\pi, n \in \mathbb{Z}",
         Verdict.CORRECT),
        ("56", r"7 \cdot 8 = \boxed{56}", Verdict.CORRECT),
        ("C", "(C) 12", Verdict.CORRECT),
        ("5", r"5^{\text{th}} \text{ place}", Verdict.CORRECT),
    ],
)  # fmt: skip
def test_what_is_claimed_is_wrong_and_what_cannot_be_compared_is_unparsed(
    gold: str, answer: str, verdict: Verdict
) -> None:
    assert grade(gold, answer)[0] is verdict


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("5", r"Thus $\boxed 5$."),
        ("12", r"Hence $\boxed 12$."),
        ("12", r"\\boxed{12}"),
        ("12", r"\boxed{12}. Put your final answer in \boxed{}."),
        ("4", r"First \boxed{3}, no wait, \boxed{4}."),
        ("4", r"It is not \boxed{3} but \boxed{4}."),
        (r"\frac{\pi}{4}", r"\boxed{\frac\pi4}"),
        ("60", r"\boxed{60 km/h}"),
        ("12", r"\boxed{The answer is 12}"),
        ("(C) 12", r"\boxed{12}"),
        ("2, 3", r"\boxed{2、3}"),
        (r"\emptyset", r"\boxed{\text{no real solutions}}"),
        (r"\text{no solution}", r"\boxed{\emptyset}"),
        (r"x = k\pi", r"\boxed{n\pi}"),
        (r"\begin{pmatrix}2&0\\0&3\end{pmatrix}", r"\boxed{\operatorname{diag}(2, 3)}"),
        ("(-2,3)", r"\boxed{]-2,3[}"),
    ],
)
def test_right_answers_that_used_to_fail(gold: str, response: str) -> None:
    with VerifierPool(VerifierSettings(workers=1)) as pool:
        assert pool.verify([Job("", gold, response)])[0].verdict is Verdict.CORRECT


def test_an_answer_that_repeats_the_question_is_an_option() -> None:
    gold, answer = "5050", r"\sum_{k=1}^{100} k"
    assert grade(gold, answer) == (Verdict.UNPARSED, "the answer is not evaluated")
    assert grade(answer, answer)[0] is Verdict.CORRECT
    job = Job("", gold, rf"\boxed{{{answer}}}")
    with VerifierPool(VerifierSettings(workers=1, unevaluated=True)) as pool:
        assert pool.verify([job])[0].verdict is Verdict.CORRECT


def test_the_plain_library_is_a_choice() -> None:
    jobs = [Job("", r"\frac{1}{2}", r"\boxed{0.5}"), Job("", "{1,2},{3,4}", r"\boxed{{1,3},{2,4}}")]
    with VerifierPool(VerifierSettings(workers=1, kind="math_verify")) as pool:
        found = pool.verify([*jobs, Job("", "x+1", r"\boxed{x+2}")])
    assert [v.verdict for v in found][::2] == [Verdict.CORRECT, Verdict.WRONG]
    assert found[0].detail == "math-verify"
    with pytest.raises(ConfigError, match="math_verify"):
        VerifierSettings(kind="mathverify")
