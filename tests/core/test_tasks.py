"""The quickstart's task: chains, their solutions, and the habits of the careless solver."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapo_core.errors import ConfigError
from hapo_core.rng import Purpose, generator
from hapo_core.tasks import stories as stories_task
from hapo_core.tasks.chains import HIGHEST, LOWEST, Chain, Habit, distinct_chains, draw_chain
from hapo_core.tasks.stories import distinct_stories
from hapo_core.tasks.tiny import tiny_tokenizer
from pipeline.config import ChainsSource
from pipeline.curate.sources.chains import chain_records

STEPS = st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=8)


def test_a_solution_by_hand():
    chain = Chain(157, (8, -3, 6))
    assert chain.problem == "157a+8b-3c+6=?" and chain.answer == "168"
    assert chain.solution() == "a157+8=165\nb165-3=162\nc162+6=168\n\\boxed{168}"
    assert chain.solution((0, 1)) == "a157+8=165\nb165-3=163\nc163+6=169\n\\boxed{169}"


@given(STEPS, st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_a_slip_never_cancels_another(steps, seed, probability, blind):
    chain = Chain(500, tuple(steps))
    habit = Habit(4, 4, probability, max_offset=3, blind_from=8, blind_probability=blind)
    slips = habit.slips(chain, np.random.default_rng(seed))
    assert len(slips) == len(steps) and all(0 <= s <= 3 for s in slips)
    assert not any(slips[:3]), "the first three steps are never careless"
    if len(steps) < 4:
        assert not any(slips)
    right = chain.solution(slips).endswith(f"\\boxed{{{chain.answer}}}")
    assert right == (not any(slips))


def test_the_blind_spot_is_where_it_should_be():
    habit = Habit(1, 3, 0.25, blind_from=8, blind_probability=0.95)
    chain, n = Chain(500, (9, 1, 9, -8, 7, -1)), 4000
    counts = np.zeros(6)
    for k in range(n):
        counts += np.array(habit.slips(chain, generator(1, Purpose.BASE_BATCH, 0, sample=k))) > 0
    # 4.5 standard deviations of a share of .25 with n = 4000 are .031
    assert counts[:2].tolist() == [0, 0]
    assert counts[2:] / n == pytest.approx([0.95, 0.95, 0.25, 0.25], abs=0.031)


def test_results_stay_in_three_digits_and_no_guess_is_good():
    chains = distinct_chains(2000, 0, "train", 6, 8)
    for chain in chains:
        values = np.cumsum([chain.start, *chain.steps])
        assert values.min() >= LOWEST and values.max() <= HIGHEST
    most = Counter(c.answer for c in chains).most_common(1)[0][1]
    assert most / len(chains) < 0.01, "the best constant answer is right too often"


def test_splits_are_apart_and_depend_on_the_seed_only():
    held = distinct_chains(50, 3, "heldout", 1, 3)
    taken = {c.problem for c in held}
    train = distinct_chains(200, 3, "train", 1, 3, taken)
    assert not taken & {c.problem for c in train} and len({c.problem for c in train}) == 200
    assert distinct_chains(100, 3, "train", 1, 3, taken) == train[:100]
    assert distinct_chains(200, 4, "train", 1, 3, taken) != train


def test_a_space_that_is_too_small_is_an_error():
    with pytest.raises(ConfigError, match="only 18 different chains"):
        distinct_chains(19, 0, "train", 1, 1, start_low=500, start_high=500)
    with pytest.raises(ConfigError, match="1 <= min_steps <= max_steps"):
        distinct_chains(1, 0, "train", 3, 2)


def test_every_symbol_is_one_token():
    tokenizer = tiny_tokenizer()
    for k in range(50):
        chain = draw_chain(np.random.default_rng(k), 8)
        text = chain.solution()
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == len(text) - len("\\boxed{") + 1
        assert tokenizer.decode(ids) == text


def test_leaping_solutions_are_right_and_do_several_steps_a_line() -> None:
    chain = Chain(157, (8, -3, 6))
    assert chain.leaping_solution(1) == chain.solution()
    assert chain.leaping_solution(2) == "a157+8b-3=162\nc162+6=168\n\\boxed{168}"
    assert chain.leaping_solution(9) == "a157+8b-3c+6=168\n\\boxed{168}"
    assert chain.leaping_solution(0) == "\\boxed{168}"
    with pytest.raises(ValueError, match="0 or more"):
        chain.leaping_solution(-1)


def traced(**settings: Any) -> dict[str, str]:
    """Problem -> trace, of a chains source."""
    source = ChainsSource(kind="chains", count=200, min_steps=2, max_steps=3, **settings)
    records = chain_records("c", source, 0, "train", set())
    return {r.parts.problem: t.text for r in records for t in r.parts.traces}


def test_a_share_of_the_problems_has_traces_and_a_larger_one_only_adds() -> None:
    quarter, half, all_of_them = (traced(trace_share=share) for share in (0.25, 0.5, 1.0))
    assert traced() == all_of_them and len(all_of_them) == 200 and traced(trace_share=0.0) == {}
    assert 30 <= len(quarter) <= 70 and 75 <= len(half) <= 125
    assert quarter.items() <= half.items() <= all_of_them.items()
    leaps = traced(trace_stride=2)
    assert leaps.keys() == all_of_them.keys() and leaps != all_of_them


# --- stories ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_stories_are_solved_by_their_solutions(steps):
    """Every line is right, goes on from the line before, and the last result is the answer."""
    stories = distinct_stories(60, 0, "train/x", steps, steps)
    low, high = stories_task.LOWEST, stories_task.HIGHEST
    assert len({s.problem for s in stories}) == 60
    for story in stories:
        assert len(story.lines) == steps
        value = None
        for line in story.lines:
            left, result = line.split(" = ")
            a, symbol, b = left.split()
            assert value is None or int(a) == value
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}.get(
                symbol, int(a) // int(b) if int(a) % int(b) == 0 else -1
            )
            assert value == int(result) and low <= value <= high
        assert str(value) == story.answer
        assert story.solution.endswith(f"\\boxed{{{story.answer}}}.")
        assert story.problem.endswith("?") and "{" not in story.problem


def test_stories_of_two_splits_differ_and_do_not_depend_on_their_number():
    few, many = distinct_stories(5, 0, "a", 2, 4), distinct_stories(20, 0, "a", 2, 4)
    assert many[:5] == few
    assert not {s.problem for s in many} & {s.problem for s in distinct_stories(20, 0, "b", 2, 4)}
    taken = {many[0].problem}
    assert many[0].problem not in {s.problem for s in distinct_stories(20, 0, "a", 2, 4, taken)}
    with pytest.raises(ConfigError, match="min_steps"):
        distinct_stories(1, 0, "a", 3, 2)
