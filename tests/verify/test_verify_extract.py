"""Where the final answer of a response is found, and where it is not."""

from __future__ import annotations

import time

import pytest

from hapo_core.verify import extract_answer
from hapo_core.verify.extract import boxed, final_text


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}"),
        (r"first \boxed{3}. Then, after a mistake was found, the last one: \boxed{7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{x = \boxed{5}}", r"x = \boxed{5}"),
        (r"\boxed{ \boxed{5}", "5"),  # the outer one is never closed
        (r"\boxed{185\}", "185"),
        (r"\boxed{4} or \boxed{5}", "4, 5"),  # a hedge stays a hedge
        (r"\boxed{1}, \boxed{2} \text{ and } \boxed{3}", "1, 2, 3"),
        (r"\boxed{5} so \boxed{5}", "5"),
        (r"$\log_2 4=\boxed{2}$, so $\log_2 (4^2) = \boxed{4}$", "4"),  # the first one is a step
        (r"$k = \boxed{12}$ and $k = \boxed{18}$ work", "12, 18"),
        (r"The answer is not \boxed{5}.", None),
        (r"$x \ne \boxed{5}$", None),
        (r"It can't be $\boxed{5}$.", None),
        (r"neither \boxed{5} nor \boxed{6}", None),
        (r"\boxed{5}? No. It is 6.", None),
        (r"\(\boxed{5}\) is not correct", None),
        (r"It is \boxed{6}, not \boxed{5}.", "6"),
        (r"not only \boxed{5}", "5"),
        ("more are full than not\n\\boxed{22}", "22"),
        (r"is it \boxed{5}? Yes.", "5"),
        (r"\boxed{5} is not divisible by 3", "5"),
        (r"The answer is \boxed{5}. No other solutions.", "5"),
        (r"$7!\times 2!=\boxed{10080}$", "10080"),
        (r"the answer is \boxed{5", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_last_balanced_box(response: str, expected: str | None) -> None:
    assert extract_answer(response).answer == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"<think>maybe \boxed{4}</think> It is \boxed{5}", "5"),
        (r"<think>maybe \boxed{4}</think> I give up", None),
        (r"<think>maybe \boxed{4}", None),  # thought never closed
        (r"maybe \boxed{4}</think>\boxed{5}<think>or \boxed{6}", "5"),
        (r"a</think>\boxed{1}</think>\boxed{2}", "2"),
        (
            r"<|begin_of_thought|>\boxed{4}<|end_of_thought|><|begin_of_solution|>\boxed{5}",
            "5",
        ),
        (r"<|begin_of_thought|>\boxed{4}", None),
        (r"no tags at all \boxed{5}", "5"),
    ],
)
def test_only_text_after_the_thought_counts(response: str, expected: str | None) -> None:
    assert extract_answer(response).answer == expected


def test_own_mark_of_a_source() -> None:
    assert extract_answer("1+1=2\n#### 2", "####").answer == "2"
    assert extract_answer("#### 1\n#### 1,200<|im_end|>", "####").answer == "1,200"
    assert extract_answer(r"\boxed{3}", "####").answer == "3"
    assert extract_answer("#### 2").answer is None


def test_without_a_required_mark() -> None:
    found = extract_answer("So the answer is $5$.", require_mark=False)
    assert (found.answer, found.marked) == ("5", False)
    assert extract_answer("**Answer:** 12", require_mark=False).answer == "12"
    assert extract_answer("<think>the answer is 5", require_mark=False).answer is None


def test_hostile_texts_take_linear_time() -> None:
    texts = [
        r"\boxed{" * 150_000,
        r"\boxed{" + "{" * 1_000_000,
        "}" * 1_000_000,
        r"\boxed{5} " * 100_000,
        "$" * 1_000_000,
        "<think>" * 100_000,
        "the answer is " * 70_000,
        "#### " * 200_000,
        "\ud800\x00" * 100_000,
    ]
    start = time.monotonic()
    for text in texts:
        for mark in ("box", "####"):
            extract_answer(text, mark, require_mark=False)
    assert time.monotonic() - start < 20


def test_boxes_and_final_text_report_positions() -> None:
    text = r"a \boxed{1} b \boxed{2}"
    assert [text[s:e] for s, e, _ in boxed(text)] == [r"\boxed{1}", r"\boxed{2}"]
    assert final_text("x</think> y") == " y"
