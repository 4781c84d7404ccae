"""Rows in the whole stage: traces from a table of their own, and bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from curate_support import byte_tokenizer, mine, params_for, rule, run, walk

from hapo_core.errors import DataError
from pipeline.artifacts.tables import DROPPED, TRACES, read_frame
from pipeline.config import Source
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- traces in a table of their own -------------------------------------------------------------


def loose(traces: list[dict[str, object]]) -> Source:
    Path("traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
    rows: list[dict[str, object]] = [
        {"id": "a", "problem": walk(3, 4), "answer": "12"},
        {"id": "b", "problem": walk(3, 5), "answer": "15"},
    ]
    return mine(
        rows,
        traces_path="traces.jsonl",
        columns={"id": "id", "problem": "problem", "answer": "answer"},
    )


def test_traces_are_joined_by_id() -> None:
    source = loose(
        [
            {"problem_id": "b", "trace": "\\boxed{15}"},
            {"problem_id": "a", "trace": "\\boxed{12}"},
            {"problem_id": "b", "trace": "so \\boxed{15}"},
        ]
    )
    folder, account = run({"mine": source})
    traces = read_frame(folder / "traces.parquet", TRACES)
    assert list(traces.trace_id) == ["mine/b#0", "mine/a#0", "mine/b#1"]
    assert traces.usable.all() and account["sources"]["mine"]["traces"] == 3
    assert account["sources"]["mine"]["traces_from"]["path"] == "traces.jsonl"


def test_a_trace_without_problem_names_file_and_row() -> None:
    source = loose(
        [{"problem_id": "a", "trace": "\\boxed{12}"}, {"problem_id": "z", "trace": "\\boxed{1}"}]
    )
    with pytest.raises(DataError, match=r"trace without problem: .* no id 'z'") as caught:
        run({"mine": source})
    assert caught.value.where == "traces.jsonl line 2" and caught.value.remedy


# --- bad rows -----------------------------------------------------------------------------------

GOOD: dict[str, object] = {"problem": walk(3, 4), "answer": "12"}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"problem": walk(3, 5), "answer": ""}, "problem without answer"),
        ({"problem": walk(3, 5), "answer": None}, "problem without answer"),
        ({"problem": " ", "answer": "1"}, "no problem text"),
        ({"problem": "", "answer": "1", "trace": "\\boxed{1}"}, "trace without problem"),
        ({"problem": 17, "answer": "1"}, "'problem' is no text: int: 17"),
        ({"problem": walk(3, 5), "answer": ["1", "2"]}, "'answer' is no answer"),
        ({"problem": walk(3, 5), "answer": "1", "trace": [1]}, "trace that is no text"),
        ({"problem": walk(3, 5) + "\x00", "answer": "1"}, "null byte"),
        ({"problem": walk(3, 5), "answer": "1", "trace": "\x00"}, "null byte"),
        ({"problem": walk(3, 5) + "\ud800", "answer": "1"}, "lone surrogate"),
    ],
)
def test_your_own_file_must_be_whole(row: dict[str, object], what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        run({"mine": mine([GOOD, row])})
    assert caught.value.where == "mine.jsonl line 2" and caught.value.remedy
    assert not Path("artifacts").exists()


def test_duplicate_ids_are_an_error_that_names_both_rows() -> None:
    rows = [{**GOOD, "id": "x"}, {"problem": walk(3, 5), "answer": "15", "id": "x"}]
    columns = {"problem": "problem", "answer": "answer", "id": "id"}
    with pytest.raises(DataError, match=r"duplicate id: id 'x' .* mine\.jsonl line 1") as caught:
        run({"mine": mine(rows, columns=columns)})
    assert caught.value.where == "mine.jsonl line 2"


def test_public_sources_count_such_rows_instead() -> None:
    rows: list[dict[str, object]] = [
        {"question": "How many? " + walk(3, 4), "answer": "12 <<3*4=12>>\n#### 12"},
        {"question": "How many? " + walk(3, 5), "answer": "no mark"},
        {"question": 3, "answer": "#### 3"},
        {"question": "null\x00byte", "answer": "#### 3"},
        {"question": "lone\ud800surrogate", "answer": "#### 3"},
        {"question": "", "answer": "#### 3"},
    ]
    folder, account = run({"gsm": mine(rows, adapter="gsm8k")})
    assert rule(account, "validate")["taken"] == {
        "no #### answer in the solution": 1,
        "column 'question' is no text": 1,
        "null byte": 1,
        "lone surrogate (not valid Unicode)": 1,
        "trace without problem": 1,
    }
    assert len(read_frame(folder / "dropped.parquet", DROPPED)) == 5
    traces = read_frame(folder / "traces.parquet", TRACES)
    assert list(traces.text) == ["12 \n\\boxed{12}"] and traces.usable.all()


def test_public_duplicate_ids_are_counted_and_copies_merged() -> None:
    def row(problem: str, answer: str, generation: str) -> dict[str, object]:
        return {
            "problem": problem,
            "answer": answer,
            "uuid": "u",
            "generations": [generation],
            "is_reasoning_complete": [True],
            "finish_reasons": ["stop"],
        }

    rows = [
        row(walk(3, 4), "12", "\\boxed{12}"),
        row(walk(3, 4), "12", "so \\boxed{12}"),
        row(walk(3, 5), "15", "\\boxed{15}"),
    ]
    folder, account = run({"r1": mine(rows, adapter="openr1_220k")})
    assert rule(account, "validate")["taken"] == {"duplicate id": 1}
    assert rule(account, "exact duplicates")["taken"] == {"same problem": 1}
    traces = read_frame(folder / "traces.parquet", TRACES)
    assert list(traces.trace_id) == ["r1/u#0", "r1/u#1"]


def test_a_benchmark_row_without_answer_is_an_error() -> None:
    exam = mine(
        [{"problem": walk(7, 8), "answer": "56"}, {"problem": "p", "answer": ""}], "e.jsonl"
    )
    params = params_for({"mine": mine([GOOD])}, {"exam": exam}, "exact")
    with pytest.raises(DataError, match="no answer") as caught:
        curate(params, Observer("curate"), Path("artifacts/data"), byte_tokenizer())
    assert caught.value.where == "e.jsonl line 2"


def test_nothing_left_says_which_rules_took_it() -> None:
    with pytest.raises(DataError, match="not gradable by rule took 1"):
        run({"mine": mine([{"problem": "Prove it.", "answer": "proof"}])})


def test_rows_of_a_megabyte() -> None:
    rows: list[dict[str, object]] = [
        GOOD,
        {"problem": "long " * 200_000 + "?", "answer": "1"},
        {"problem": walk(8, 9), "answer": "72", "trace": "so " * 350_000 + "\\boxed{72}"},
        {"problem": walk(8, 7), "answer": "5" * 1_000_000},
    ]
    folder, account = run({"mine": mine(rows)})
    assert rule(account, "prompt length")["taken"] == {"longer than max_prompt_tokens": 1}
    assert rule(account, "gold")["taken"] == {"longer than 2000 characters": 1}
    traces = read_frame(folder / "traces.parquet", TRACES)
    assert list(traces.note) == ["trace length: longer than the response budget"]
    assert list(traces.verdict) == ["correct"]
