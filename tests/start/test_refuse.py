"""Rows that `hapo train` cannot use: how many, their lines, and a remedy that works."""

from __future__ import annotations

from pathlib import Path

import pytest
from own import Own, make_own

from hapo_core.errors import DataError
from pipeline.config import TableSource
from pipeline.start.fit import Fit, Given, _problems, _source, fit
from pipeline.start.refuse import refuse_empty_solutions


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return make_own(tmp_path / "files", 40)


def given(own: Own, mark: str | None = None) -> Given:
    return Given(own.path / "problems.jsonl", own.path / "solutions.jsonl", mark=mark)


def refused(own: Own) -> str:
    with pytest.raises(DataError) as caught:
        fit(given(own))
    assert caught.value.remedy and caught.value.where
    return str(caught.value)


def read(own: Own) -> list[str]:
    """The answers, as far as the files are read before anything is verified."""
    asked = given(own)
    problems, _ = _problems(TableSource.model_validate(_source(asked)), asked)
    return [p.answer for p in problems]


def test_answers_of_several_kinds(own: Own) -> None:
    """Numbers beside text are answers; what is neither is named by its line."""
    rows = own.rows("problems.jsonl")
    kinds: list[dict[str, object]] = [
        {**r, "answer": int(str(r["answer"])) if i % 2 else r["answer"]} for i, r in enumerate(rows)
    ]
    own.change("problems.jsonl", kinds)
    assert read(own) == [r["answer"] for r in rows]
    for at in (4, 20):
        kinds[at] = {**kinds[at], "answer": {"value": 3}}
    own.change("problems.jsonl", kinds)
    err = refused(own)
    assert "2 rows cannot be used" in err and "column 'answer' is no answer" in err
    assert "problems.jsonl line 5: dict: {'value': 3}" in err and "problems.jsonl line 21" in err
    assert "give the answer as text or number" in err


def test_a_problem_with_two_answers(own: Own) -> None:
    rows = own.rows("problems.jsonl")
    same = f"{rows[3]['answer']}.0"
    own.change("problems.jsonl", [*rows, {**rows[3], "answer": same}, {**rows[5], "answer": "999"}])
    err = refused(own)
    assert "1 row repeats a problem with another answer" in err  # the equal one is no fault
    assert "problems.jsonl line 6 says" in err and "problems.jsonl line 42 says '999'" in err
    own.change("problems.jsonl", rows[:5] + rows[6:] + [rows[5]])  # the remedy
    assert len(read(own)) == 40


def test_solutions_without_text(own: Own) -> None:
    rows = own.rows("solutions.jsonl")
    gaps: dict[int, object] = {4: None, 9: "", 30: []}
    own.change(
        "solutions.jsonl",
        ({**r, "solution": gaps.get(i, r["solution"])} for i, r in enumerate(rows)),
    )
    err = refused(own)
    assert "3 of 40 solutions are empty (column 'solution')" in err
    assert all(f"solutions.jsonl line {n}" in err for n in (5, 10, 31))
    own.change("solutions.jsonl", (r for i, r in enumerate(rows) if i not in gaps))  # the remedy
    refuse_empty_solutions(TableSource.model_validate(_source(given(own))), 1000)


def test_an_answer_as_long_as_a_book(own: Own) -> None:
    rows = own.rows("problems.jsonl")
    rows[11]["answer"] = "7" * 100_000
    own.change("problems.jsonl", rows)
    err = refused(own)
    assert "the answer is longer than 2000 characters" in err
    assert "problems.jsonl line 12: 100,000" in err and len(err) < 1000


def test_solutions_without_a_mark_are_told_of(own: Own) -> None:
    rows = own.rows("solutions.jsonl")
    rows[6]["solution"] = str(rows[6]["solution"]).rpartition("\n")[0]
    own.change("solutions.jsonl", rows)
    found: Fit = fit(given(own))
    (note,) = found.notes
    assert found.source["mark"] == "last_number" and "1 of 40 solutions mark no answer" in note
    assert "solutions.jsonl line 7" in note and "--mark box leaves them out" in note
    found = fit(given(own, "box"))  # the remedy
    assert "mark" not in found.source and found.right == found.graded - 1
