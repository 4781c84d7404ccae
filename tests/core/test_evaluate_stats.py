"""Statistics of evaluation against hand values, brute force and simulation."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from hapo_core.errors import DataError
from hapo_core.stats.benchmark import (
    VERDICTS,
    Generation,
    Protocol,
    align,
    avg_at_k,
    benchmark_result,
    maj_at_k,
    mean_interval,
    paired_test,
    pass_at_k,
    verdict_counts,
)
from hapo_core.verify import Verdict

PROTOCOL = Protocol(k=2, temperature=0.6, top_p=1.0, max_tokens=64, prompt_template="plain")


def generation(problem: str, sample: int, verdict: str = "correct", answer: str | None = "4"):
    return Generation(problem, sample, verdict, answer, tokens=10 + sample)


# --- point estimates ---


def test_avg_at_k() -> None:
    assert avg_at_k(np.array([[True, False], [True, True], [False, False]])) == 0.5


@pytest.mark.parametrize("table", [np.zeros((0, 4), bool), np.zeros(4, bool), np.full((2, 2), 0.5)])
def test_avg_at_k_needs_a_full_bool_table(table: np.ndarray) -> None:
    with pytest.raises(DataError):
        avg_at_k(table)


def test_pass_at_k_by_hand() -> None:
    # 1 - C(7,3)/C(10,3) = 1 - 35/120
    assert pass_at_k([3], 10, 3)[0] == pytest.approx(1 - 35 / 120, abs=1e-15)
    assert pass_at_k([0, 1, 8, 10], 10, 3).tolist() == [0.0, pytest.approx(0.3), 1.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(0, 7), st.integers(1, 7))
def test_pass_at_k_is_the_mean_over_subsets(n: int, c: int, k: int) -> None:
    c, k = min(c, n), min(k, n)
    row = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(row, k))
    assert pass_at_k([c], n, k)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_large_counts_do_not_overflow() -> None:
    value = pass_at_k([1], 2000, 1000)[0]
    assert value == pytest.approx(0.5)


def test_pass_at_k_rejects_bad_counts() -> None:
    with pytest.raises(DataError, match="problem 1"):
        pass_at_k([3, 5], 4, 2)
    with pytest.raises(ValueError):
        pass_at_k([1], 4, 5)


def test_maj_at_k_by_hand() -> None:
    answers = [
        ["4", "4 ", "5"],  # 4 leads, spellings are stripped
        ["5", "5", "4"],  # the wrong one leads
        ["4", "5", None],  # a tie of two, None does not vote
        [None, None, None],  # nobody votes
        ["4", "4", "5"],  # one of the two equal texts timed out
    ]
    right = np.array(
        [
            [True, True, False],
            [False, False, True],
            [True, False, False],
            [False, False, False],
            [True, False, False],
        ]
    )
    assert maj_at_k(answers, right).tolist() == [1.0, 0.0, 0.5, 0.0, 1.0]


def test_maj_at_k_ignores_sample_order() -> None:
    answers, right = ["1", "2", "2", "3", "3"], np.array([[False, True, True, False, False]])
    for order in itertools.permutations(range(5)):
        value = maj_at_k([[answers[i] for i in order]], right[:, list(order)])
        assert value.tolist() == [0.5]


def test_verdict_counts_name_an_unknown_verdict() -> None:
    counts = verdict_counts(["correct", "timeout", "correct"])
    assert list(counts) == list(VERDICTS) and counts["correct"] == 2 and counts["timeout"] == 1
    with pytest.raises(DataError, match="'rihgt'"):
        verdict_counts(["rihgt"])


def test_verdicts_are_those_of_the_verifier() -> None:
    assert [str(v) for v in Verdict] == list(VERDICTS)


# --- intervals ---


def test_the_interval_matches_the_normal_one_for_many_problems() -> None:
    scores = np.random.default_rng(1).integers(0, 5, 400) / 4
    low, high = mean_interval(scores)
    half = 1.96 * scores.std() / math.sqrt(scores.size)
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_with_one_sample_it_is_no_narrower_than_the_exact_binomial_one() -> None:
    for right, n in ((1, 30), (4, 30), (15, 30), (3, 500), (29, 30)):
        exact = binomtest(right, n).proportion_ci(0.95, "exact")
        low, high = mean_interval([1.0] * right + [0.0] * (n - right))
        assert low <= exact.low and high >= exact.high
        assert high - low < 1.15 * (exact.high - exact.low)


@pytest.mark.parametrize("mean", [0.016, 0.05, 0.2, 0.5, 0.984])
@pytest.mark.parametrize(("n", "k"), [(30, 1), (30, 32), (60, 4), (500, 8)])
def test_the_interval_covers_the_true_mean(mean: float, n: int, k: int) -> None:
    """400 worlds each; a percentile bootstrap covers .39 at .016, n = 30, k = 1. Of a coverage of
    .96 chance shows less than .93 once in 800 times."""
    rng = np.random.default_rng(5)
    for spread in (0.5, 5.0):
        hits = 0
        for _ in range(400):
            mu = rng.beta(mean * spread, (1 - mean) * spread, n)
            low, high = mean_interval(rng.binomial(k, mu) / k)
            hits += low <= mean <= high
        assert hits / 400 >= 0.93


@pytest.mark.parametrize(("n", "upper"), [(1, 0.975), (30, 1 - 0.025 ** (1 / 30))])
def test_no_solved_problem_is_no_proof_of_zero(n: int, upper: float) -> None:
    low, high = mean_interval(np.zeros(n))
    assert (low, high) == (0.0, pytest.approx(upper))
    low, high = mean_interval(np.ones(n))
    assert (low, high) == (pytest.approx(1 - upper), 1.0)
    low, high = mean_interval(np.full(n, 0.5))
    assert 0 <= low < 0.5 < high <= 1


def test_missing_score_is_named() -> None:
    with pytest.raises(DataError, match="problem 2"):
        mean_interval([0.5, 1.0, float("nan")])
    with pytest.raises(DataError, match="problem 0"):
        mean_interval([1.5, 1.0])


# --- paired ---


def test_sign_flip_exact_by_hand() -> None:
    # Five improvements of the same size: 2 of 32 sign patterns are as extreme.
    result = paired_test(np.zeros(5), np.full(5, 0.25))
    assert result.exact and result.p_value == 2 / 32
    assert result.difference == 0.25 and (result.better, result.worse) == (5, 0)


def test_identical_policies() -> None:
    scores = np.linspace(0, 1, 20)
    result = paired_test(scores, scores)
    assert result.p_value == 1.0 and result.difference == 0.0
    assert result.ci[0] < 0 < result.ci[1], "20 ties leave room for a small difference"


def test_sampled_and_exact_p_values_agree() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 14) / 4, rng.integers(0, 5, 14) / 4
    exact = paired_test(a, b, draws=2**14)
    sampled = paired_test(a, b, draws=2**11, seed=1)
    if exact.better + exact.worse > 11:
        assert exact.exact and not sampled.exact
    assert sampled.p_value == pytest.approx(exact.p_value, abs=0.04)


def test_sampled_p_value_counts_ties() -> None:
    """Differences of one size make the sign-flip test the sign test: 15 of 20 in favour."""
    scores = np.array([0.25] * 15 + [0.0] * 5)
    result = paired_test(0.25 - scores, scores, draws=20_000)
    assert not result.exact and result.difference == 0.125
    assert result.p_value == pytest.approx(binomtest(15, 20).pvalue, abs=0.006)


def test_p_values_are_valid_under_the_null_and_small_under_a_difference() -> None:
    rng = np.random.default_rng(7)
    mu = rng.random(50)
    null = [
        paired_test(rng.binomial(4, mu) / 4, rng.binomial(4, mu) / 4, draws=200, seed=i).p_value
        for i in range(300)
    ]
    assert np.mean(np.array(null) <= 0.05) <= 0.085  # .05 + 3 standard errors of 300 draws
    better = np.clip(mu + 0.3, 0, 1)
    found = paired_test(rng.binomial(4, mu) / 4, rng.binomial(4, better) / 4)
    assert found.p_value < 0.01 and found.ci[0] > 0
    assert found.to_dict()["ci"] == list(found.ci)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_swapping_policies_mirrors_the_test(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(x) / 4 for x in zip(*pairs, strict=True))
    there, back = paired_test(a, b), paired_test(b, a)
    assert there.p_value == back.p_value
    assert there.difference == -back.difference
    assert (there.better, there.worse) == (back.worse, back.better)


def test_align_names_a_problem_that_only_one_policy_answered() -> None:
    a, b = align({"x": 0.0, "y": 1.0}, {"y": 0.5, "x": 0.25})
    assert a.tolist() == [0.0, 1.0] and b.tolist() == [0.25, 0.5]
    with pytest.raises(DataError, match="problem z"):
        align({"x": 0.0}, {"x": 0.0, "z": 1.0})
    with pytest.raises(DataError, match="same problems"):
        paired_test([0.1], [0.1, 0.2])


# --- one benchmark ---


def test_benchmark_entry_has_exactly_the_declared_keys() -> None:
    rows = [
        generation("p1", 0),
        generation("p1", 1, "wrong", "5"),
        generation("p2", 1, "timeout", "9"),
        generation("p2", 0, "truncated", None),
    ]
    result = benchmark_result(rows, ["p1", "p2"], PROTOCOL)
    entry = result.to_dict()
    assert list(entry) == [
        *("avg", "n", "k", "ci", "pass_k", "pass_at", "maj_k", "temperature", "top_p"),
        "max_tokens",
        *("truncated_share", "unparsed_share", "verdicts", "mean_tokens", "prompt_template"),
    ]
    assert entry["avg"] == 0.25 and entry["n"] == 2 and entry["k"] == 2
    assert entry["pass_k"] == 0.5 and entry["maj_k"] == 0.25  # p1 ties, p2's only vote is wrong
    assert entry["pass_at"] == {"1": 0.25, "2": 0.5}
    assert entry["truncated_share"] == 0.25 and entry["unparsed_share"] == 0.0
    assert entry["mean_tokens"] == 10.5
    assert json.loads(json.dumps(entry)) == entry
    assert result.unknown == 1 and result.avg_upper == 0.5
    assert result.by_problem() == {"p1": 0.5, "p2": 0.0}


def test_order_of_generations_does_not_matter() -> None:
    rows = [generation(p, s, v) for p, s, v in [("a", 0, "wrong"), ("a", 1, "correct")]]
    rows += [generation("b", 0, "correct"), generation("b", 1, "correct")]
    forward = benchmark_result(rows, ["a", "b"], PROTOCOL)
    assert benchmark_result(rows[::-1], ["a", "b"], PROTOCOL) == forward


def test_missing_double_and_surplus_samples_are_named() -> None:
    rows = [generation("p1", 0), generation("p1", 1), generation("p2", 0)]
    with pytest.raises(DataError, match="problem p2, sample 1"):
        benchmark_result(rows, ["p1", "p2"], PROTOCOL)
    with pytest.raises(DataError, match="problem p2, sample 0"):
        benchmark_result([*rows, rows[2]], ["p1", "p2"], PROTOCOL)
    with pytest.raises(DataError, match="problem p2, sample 0"):
        benchmark_result(rows, ["p1"], PROTOCOL)
    with pytest.raises(DataError, match="sample 1"):
        benchmark_result(rows[:2], ["p1"], replace(PROTOCOL, k=1))
    with pytest.raises(DataError):
        benchmark_result([], [], PROTOCOL)
