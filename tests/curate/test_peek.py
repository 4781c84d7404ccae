"""`hapo data peek`: the YAML that it prints passes the real curation unchanged."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import long
from curate_support import byte_tokenizer, params_for, shared_data
from ruamel.yaml import YAML

from hapo_core.errors import HapoError
from pipeline.commands.data import add_parser, peek_lines
from pipeline.commands.peek import proposal_lines
from pipeline.config import ChainsSource, TableSource
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: Rows) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return name


def peek(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    return "\n".join(peek_lines(parser.parse_args(["data", "peek", *arguments])))


def printed(shown: str) -> dict[str, Any]:
    """`curate.sources` as it was printed."""
    lines = shown.splitlines()
    start = lines.index("curate:")
    inside = itertools.takewhile(lambda line: line.startswith(" "), lines[start + 1 :])
    found = YAML(typ="safe").load("\n".join(["curate:", *inside]))
    return dict(found["curate"]["sources"])


def curated(shown: str) -> tuple[dict[str, Any], int, int]:
    """(the source as printed, problems, usable traces) after the real stage."""
    sources = printed(shown)
    held = ChainsSource(kind="chains", count=3, min_steps=2, max_steps=3)
    params = params_for(sources, {"held": held})
    curate(params, Observer("curate"), Path("data"), byte_tokenizer())
    problems = pq.read_table("data/problems.parquet").num_rows
    traces = pq.read_table("data/traces.parquet").to_pylist()
    (source,) = sources.values()
    return source, problems, sum(t["usable"] for t in traces)


N = 6
ASKED = [
    "How many apples are in the basket of the old farmer, if he counts them twice?",
    "What is the sum of the two numbers that the teacher wrote down yesterday?",
    "Find the area of a field whose sides are given on the map of the village.",
    "At what speed does the train leave the station after the long delay?",
    "Compute the remainder of the product when it is divided by the number of days.",
    "Which number must replace the letter in the last line of the table?",
]
VALUES = [72, 13, 408, 5, 91, 1200]


def made(**columns: str) -> Rows:
    """Rows with these columns; `{q}` is the question, `{a}` its answer."""
    return [
        {name: text.format(q=q, a=a) for name, text in columns.items()}
        for q, a in zip(ASKED, VALUES, strict=True)
    ]


BOX = "First we count, then we add. So it is \\boxed{{{a}}}."
SAID = "First we count, then we add. The answer is {a}."
HASH = "First we count, then we add.\n#### {a}"
SHAPES: dict[str, tuple[Rows, int, dict[str, Any]]] = {
    "question and a plain answer": (
        made(question="{q}", answer="{a}"), 0,
        {"columns": {"problem": "question", "answer": "answer"}},
    ),
    "question and a solution with hashes": (
        made(question="{q}", answer=HASH), N, {"adapter": "gsm8k"},
    ),
    "question and a solution that says its answer": (
        made(question="{q}", answer=SAID), N,
        {"columns": {"problem": "question", "trace": "answer"},
         "mark": r"(?i)answer\s*(?:is|:)\s*:?\s*(.+?)\s*$"},
    ),
    "capitals and a box": (
        made(Problem="{q}", Solution=BOX, Answer="{a}"), N,
        {"columns": {"problem": "Problem", "answer": "Answer", "trace": "Solution"}},
    ),
    "an answer beside a solution without any mark": (
        made(input="{q}", target="{a}", output="We count, and {a} are left"), N,
        {"columns": {"problem": "input", "answer": "target", "trace": "output"},
         "mark": "last_number"},
    ),
    "other names": (
        made(Frage="{q}", Antwort="{a}"), 0,
        {"columns": {"problem": "Frage", "answer": "Antwort"}},
    ),
    "names with blanks, colons and quotes": (
        made(**{"the question: text": "{q}", "it's answer": "{a}"}), 0,
        {"columns": {"problem": "the question: text", "answer": "it's answer"}},
    ),
    "some solutions without a box": (
        [*made(prompt="{q}", rationale=BOX),
         {"prompt": "What is left over in the end?", "rationale": "Nobody can say that."}], N,
        {"columns": {"problem": "prompt", "trace": "rationale"}, "strict": False},
    ),
    "lists of traces and ids": (
        [{"uid": f"r{i}", "problem": q, "answer": a,
          "traces": [f"So \\boxed{{{a}}}.", f"So \\boxed{{{a + 1}}}."]}
         for i, (q, a) in enumerate(zip(ASKED, VALUES, strict=True))], N,
        {"columns": {"problem": "problem", "answer": "answer", "trace": "traces", "id": "uid"}},
    ),
    "ids that repeat": (
        [{**row, "id": i // 2} for i, row in enumerate(made(query="{q}", gold="{a}"))], 0,
        {"columns": {"problem": "query", "answer": "gold"}},
    ),
    "rollouts with flags": (
        [{**row, "truncated": False, "correct": True}
         for row in made(problem="{q}", gold="{a}", generation=BOX)], N,
        {"columns": {"problem": "problem", "answer": "gold", "trace": "generation",
                     "cut": "truncated", "label": "correct"}},
    ),
    "an empty answer in one row": (
        [*made(question="{q}", final_answer="{a}"),
         {"question": "What is missing here?", "final_answer": ""}], 0,
        {"columns": {"problem": "question", "answer": "final_answer"}, "strict": False},
    ),
    "conversations": (
        [{"messages": [{"role": "user", "content": q}, {"role": "assistant",
          "content": f"We add. The answer is {a}."}]} for q, a in zip(ASKED, VALUES, strict=True)],
        N, {"adapter": "chat"},
    ),
    "an instruction at the end of a prompt": (
        made(prompt="{q} Please reason step by step, and put your final answer within \\boxed{{}}.",
             answer="{a}"), 0,
        {"adapter": "aime"},
    ),
}  # fmt: skip


QUICK = (
    "question and a solution that says its answer",
    "some solutions without a box",
    "ids that repeat",
    "conversations",
    "train/gsm8k_train.jsonl",
    "train/bigmath_5k.parquet",
)
"""What `make test` tries; `make soak` tries all."""


def of(names: Iterable[str]) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=long) for name in names]


@pytest.mark.parametrize("shape", of(SHAPES))
def test_made_up_shapes_pass_curation_as_printed(shape: str) -> None:
    rows, usable, expected = SHAPES[shape]
    shown = peek(write("My data-2.jsonl", rows))
    source, problems, traces = curated(shown)
    assert {k: v for k, v in source.items() if k not in ("kind", "path")} == expected
    assert (problems, traces) == (N, usable)


REAL = """
train/gsm8k_train.jsonl train/numina_cot_2k.jsonl train/math_train.parquet
train/bigmath_5k.parquet traces/r1distill_rollouts_primerl.jsonl bench/aime25.jsonl
bench/minerva_math.jsonl bench/olympiadbench.jsonl bench/amc23.jsonl
"""


@pytest.mark.parametrize("name", of(REAL.split()))
def test_real_files_pass_curation_as_printed(name: str) -> None:
    path = shared_data() / name
    if path.suffix == ".parquet":
        pq.write_table(pq.read_table(path).slice(0, 25), "part.parquet")
    else:
        lines = path.read_text("utf-8").splitlines(keepends=True)[:25]
        Path("part.jsonl").write_text("".join(lines), "utf-8")
    _, problems, _ = curated(peek(f"part{path.suffix}"))
    assert problems >= 4


def test_why_adapters_refuse_rows() -> None:
    shown = peek(write("x.jsonl", SHAPES["some solutions without a box"][0]))
    assert "generic          6 of 7 rows, 6 traces (6 end in the answer as written)" in shown
    assert "1 not: no marked answer in the trace" in shown
    assert "gsm8k            0 of 7 rows: the row has no column 'question'" in shown


def test_what_nothing_reads_gets_no_yaml() -> None:
    talk = [{"messages": [{"role": "user", "content": q}]} for q in ASKED]
    shown = peek(write("talk.jsonl", talk))
    assert "nothing reads these rows" in shown and "curate:" not in shown


@pytest.mark.parametrize("by", ["problem_id", "problem"])
def test_traces_of_their_own_join_by_id_or_by_text(by: str) -> None:
    problems = [{"id": f"p{i}", **row} for i, row in enumerate(made(problem="{q}", answer="{a}"))]
    told = made(solution=SAID, question="{q}")
    for i, row in enumerate(told):
        if by == "problem_id":
            row["ref"] = f"p{i}"
            del row["question"]
    path = write("problems.jsonl", problems)
    shown = peek(path, "--traces", write("traces.jsonl", told))
    assert "6 of 6 traces find their problem by" in shown
    source, count, usable = curated(shown)
    assert (count, usable) == (N, N)
    theirs = "ref" if by == "problem_id" else "question"
    assert source["traces_columns"] == {by: theirs, "trace": "solution"}


def test_traces_that_a_source_of_the_project_names_are_joined() -> None:
    rows = made(problem="{q}", answer="{a}")
    told = write("t.jsonl", made(solution=BOX, problem="{q}"))
    source = TableSource(
        kind="table", path=write("p.jsonl", rows), traces_path=told,
        traces_columns={"trace": "solution", "problem": "problem"},
    )  # fmt: skip
    shown = "\n".join(proposal_lines("mine", source, rows, None, 1))
    assert "traces find their problem by" in shown and f"traces_path: {told}" in shown
    assert "no traces:" not in shown


def test_traces_without_their_problem_are_named() -> None:
    path = write("p.jsonl", made(problem="{q}", answer="{a}"))
    told = [*made(solution=BOX, problem="{q}"), {"solution": "So.", "problem": "Another one?"}]
    shown = peek(path, "--traces", write("t.jsonl", told))
    assert "WARNING curate refuses traces without a problem" in shown
    assert "6 of 7 traces" in shown and "row 7, 'Another one?'" in shown
    with pytest.raises(HapoError, match="no trace finds its problem"):
        peek(path, "--traces", write("n.jsonl", [{"solution": "So.", "problem": "Another?"}]))


def test_what_curation_would_drop_or_refuse_is_said(tmp_path: Path) -> None:
    """Two answers to a problem, an endless answer, traces without text or without a mark."""
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(30)]
    traces = [
        {"question": r["question"], "solution": f"We add one to it. The result: {r['answer']}"}
        for r in rows
    ]
    traces[4]["solution"] = ""
    rows[12]["answer"] = "7" * 100_000
    write(
        "rows.jsonl", [*rows, {**rows[5], "answer": "99"}, {"question": "odd", "answer": {"a": 1}}]
    )
    write("traces.jsonl", traces)
    text = peek("rows.jsonl", "--traces", "traces.jsonl")
    assert "WARNING 1 rows repeat a problem with another answer" in text
    assert "row 6: 6, row 31: 99" in text and "row 13: 100,000 characters" in text
    assert "remove rows 5" in text and "29 traces mark no answer (the first in row" in text
