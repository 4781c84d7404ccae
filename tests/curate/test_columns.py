"""One guess of columns for `hapo data peek` and `hapo train`; and the YAML of a source."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.config import TableSource
from pipeline.curate.columns import first_named, holds_answers
from pipeline.curate.propose import propose
from pipeline.curate.source_yaml import as_yaml
from pipeline.start.columns import guess_problems, guess_traces

ODD = ["my column", "no", "null", "12", "a: b", "'q'", "[x]", "#c", "", "x\ny", "été"]
WORKED = "Two and two make four, so the answer is \\boxed{4} and nothing else at all."


@pytest.mark.parametrize("answer", ["final_answer", "Expected Answer", "label"])
def test_peek_and_train_guess_the_same_columns(answer: str) -> None:
    rows = [
        {"Question": f"What is {i} + 2?", answer: str(i + 2), "worked_solution": f"It is {i + 2}."}
        for i in range(5)
    ]
    wanted = {"problem": "Question", "answer": answer, "trace": "worked_solution"}
    assert guess_problems(rows, Path("x.jsonl"), False)["columns"] == wanted
    source = TableSource.model_validate({"kind": "table", "path": "x.jsonl"})
    best, _ = propose(source, rows, lambda: iter(rows))
    assert best is not None
    assert {k: best.source.columns.get(k) for k in ("problem", "answer")} == {
        k: wanted[k] for k in ("problem", "answer")
    }


@pytest.mark.parametrize("flags", [(True, False), (1, 0), ("true", "false")])
def test_a_flag_of_the_trace_is_no_answer(flags: tuple[object, object]) -> None:
    rows = [{"problem": "2 + 2?", "solution": WORKED, "label": flag} for flag in flags]
    assert not holds_answers(rows, "label") and first_named(rows, "answer") is None


def test_a_column_of_texts_alone_is_the_solution() -> None:
    rows = [{"id": i, "text": WORKED} for i in range(3)]
    assert guess_traces(rows, Path("t.jsonl"), True) == {"trace": "text", "problem_id": "id"}


def test_a_source_comes_back_from_its_yaml_unchanged() -> None:
    for name in ODD:
        columns = {"problem": name, "answer": "answer"}
        given = {"kind": "table", "path": "a b/c.jsonl", "mark": "####", "strict": False}
        source = TableSource.model_validate({**given, "columns": columns})
        text = "\n".join(as_yaml("1 mine.jsonl", source))
        read = YAML(typ="safe").load(text)["curate"]["sources"]
        assert read == {"own_1_mine": {**given, "columns": columns}}, name
