"""The conventions of docs/verification.md, one example a line."""

from __future__ import annotations

import pytest

from hapo_core.verify import Verdict
from hapo_core.verify.math.grade import grade

CORRECT = [
    ("5", "5.0", "plain numbers"),
    ("1,234", "1234", "thousands"),
    ("1234", r"1,\!234", "thousands in LaTeX"),
    (r"\frac{1}{2}", "0.5", "terminating decimals are exact"),
    (r"\frac{1}{2}", r"\dfrac12", "spelling"),
    ("0.458", r"\frac{27}{59}", "a decimal gold of three digits stands for what rounds to it"),
    (r"\frac{1}{3}", "0.3333", "four digits in an answer"),
    ("2.005388e+17", "2.01e+17", "scientific notation states its digits"),
    (r"50\%", "0.5", "percent is a hundredth"),
    ("0.6", r"60\%", "either way"),
    ("50", r"50\%", "the sign beside a number of at least one"),
    (r"90^\circ", "90", "the sign of degrees may be missing"),
    (r"\frac{2\pi}{3}", r"120^\circ", "an angle in terms of pi is in radians"),
    (r"60^\circ 30'", r"60.5^\circ", "minutes"),
    (r"\frac18", r"\cos 20^\circ\cos 40^\circ\cos 80^\circ", "degrees inside functions"),
    (r"12\text{ cm}", "12", "a unit may be missing"),
    (r"1\text{ m}", r"100\text{ cm}", "units of one dimension are converted"),
    (r"\$36", "36", "currency"),
    ("12", r"12^{\mathrm{th}} \text{ grade}", "ordinals"),
    ("2516_8", "2516", "a base may be missing"),
    ("1,2", r"\{2,1\}", "a bare list is a set"),
    ("(1,2)", "1,2", "a bare list matches a tuple in its order"),
    ("x=1, y=2", "(1,2)", "names are dropped"),
    (r"1\pm\sqrt{3}", r"1-\sqrt3, 1+\sqrt3", "plus-minus is two answers"),
    ("p=5,q=2;p=7,q=2", "(5,2),(7,2)", "semicolons separate tuples"),
    (r"[5,\infty)", r"x\ge5", "a relation is its interval"),
    ("(3,4]", r"3<\lambda\le4", "whatever the variable is called"),
    (r"\{x|-1<x<1\}", "(-1,1)", "set-builder"),
    (r"4<m\le8 \text{ or } 10\le m<12", r"(4,8]\cup[10,12)", "union"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)", "a vector may be written as a tuple"),
    ("5", "x=5", "a name in front"),
    ("5", "x = 2+3 = 5", "a chain whose parts agree"),
    ("f(n)=2n+1", "f(m)=2m+1", "the argument's letter is free"),
    ("x^2+2x+1", "(x+1)^2", "any form of a short polynomial"),
    (r"2\arcsin\sqrt a", r"\arccos(1-2a)", "identities that math-verify cannot simplify"),
    ("2x+4y=3", r"y=\frac34-\frac12x", "equations with the same solutions"),
    ("2:1", "2", "a ratio is a quotient"),
    (r"\text{Evelyn}", "evelyn", "names without case"),
    ("(D) Alina", "D", "choices"),
    (r"\text{two}", "2", "number words"),
    ("line segment, circle", r"\text{line segment and circle}", "lists of names"),
    (r"\frac{3}{2}n+\frac12m", r"\frac{3n+m}{2}", "a variable m is no metre"),
    ("5", "\u200b５\x00", "invisible characters, digits of any script"),
]
WRONG = [
    ("5", "4=5", "a chain whose parts differ"),
    ("5", "x=4=5", "the same behind a name"),
    ("5", "4, 5", "a hedge"),
    ("5", r"4 \text{ or } 5", "a hedge in words"),
    ("(1,2)", r"\{1,2\}", "a set is no tuple"),
    ("(1,2)", "(2,1)", "tuples have an order"),
    ("(3,4]", "[3,4]", "closed is not half open"),
    ("(-oo,4]", "x<4", "the same for relations"),
    ("2516_8", "2516_9", "another base"),
    (r"12\text{ cm}", r"12\text{ m}", "another unit"),
    (r"5\text{ cm}", r"5\text{ s}", "another dimension"),
    ("0.75", "75", "a hundredfold without a percent sign"),
    ("0.5", r"0.5\%", "a bare number below one is no percentage"),
    ("10", "10.0001", "integers are not rounded"),
    (r"\sqrt{2}", "1.41", "three digits are too few for an exact gold"),
    ("33.565", "33.566", "as many digits and another last one"),
    ("0.0000001", "0.0000002", "small numbers are compared relatively"),
    ("785.12", "785", "an integer does not round a decimal"),
    ("x=1", "y=1", "another variable"),
    ("x^2+y^2=1", "x^2-y^2=1", "another equation"),
    ("7=11a+c", "11a+c", "an equation is not one of its sides"),
    ("x+1", "x+2", "another value"),
    (r"\frac{1}{2004!}", r"\frac{1}{2006!}", "astronomical, and settled"),
    ("5", r"9^{9^{9^{9}}}", "a tower is no five"),
    ("1,-2,3", "1,-2", "one answer missing"),
    (r"\text{even}", r"\text{odd}", "another word"),
    (r"\text{No}", "Yes, because", "yes or no"),
]
OTHER = [
    ("", "5", Verdict.BAD_GOLD),
    (r"\frac{", "5", Verdict.BAD_GOLD),
    ("The sum of the angles is less than zero.", "5", Verdict.BAD_GOLD),
    (r"1+2+\ldots+9", "5", Verdict.BAD_GOLD),
    ("5", r"\frac{", Verdict.UNPARSED),
    ("5", "The first player wins the game.", Verdict.UNPARSED),
    ("5", "", Verdict.UNPARSED),
]


@pytest.mark.parametrize(("gold", "answer", "why"), CORRECT)
def test_correct(gold: str, answer: str, why: str) -> None:
    verdict, rule = grade(gold, answer)
    assert verdict is Verdict.CORRECT, (why, rule)


@pytest.mark.parametrize(("gold", "answer", "why"), WRONG)
def test_wrong(gold: str, answer: str, why: str) -> None:
    verdict, rule = grade(gold, answer)
    assert verdict is Verdict.WRONG, (why, rule)


@pytest.mark.parametrize(("gold", "answer", "expected"), OTHER)
def test_neither(gold: str, answer: str, expected: Verdict) -> None:
    assert grade(gold, answer)[0] is expected


@pytest.mark.parametrize(("gold", "answer", "why"), CORRECT)
def test_every_gold_agrees_with_itself(gold: str, answer: str, why: str) -> None:
    assert grade(gold, gold)[0] is Verdict.CORRECT
    assert grade(answer, answer)[0] is Verdict.CORRECT
