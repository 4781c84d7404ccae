"""Adapters on the real columns, and files that are not what they should be."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hapo_core.errors import ConfigError, DataError, HapoError
from pipeline.commands.data import add_parser, peek_lines
from pipeline.config import TableSource
from pipeline.curate.sources.adapters import ADAPTERS, gsm8k_solution
from pipeline.curate.sources.files import data_files, file_rows
from pipeline.curate.sources.record import Parts, RawTrace, Row, RowFault
from pipeline.curate.sources.table import open_table


def table(path: Path, adapter: str = "generic", **settings: object) -> TableSource:
    return TableSource.model_validate(
        {"kind": "table", "path": str(path), "adapter": adapter, **settings}
    )


def records(path: Path, adapter: str = "generic", **settings: object) -> list[object]:
    return list(open_table("mine", table(path, adapter, **settings)).records)


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


# --- adapters -----------------------------------------------------------------------------------

CASES: list[tuple[str, Row, Parts]] = [
    (
        "gsm8k",
        {"question": "q", "answer": "He sells 48/2=<<48/2=24>>24.\n#### 1,024"},
        Parts("q", "1024", (RawTrace("He sells 48/2=24.\n\\boxed{1024}"),)),
    ),
    (
        "math",
        {"problem": "p", "level": "Level 1", "type": "Algebra", "solution": "so \\boxed{\\frac12}"},
        Parts("p", "\\frac12", (RawTrace("so \\boxed{\\frac12}"),)),
    ),
    (
        "math500",
        {"problem": "p", "solution": "\\boxed{4}", "answer": "4", "unique_id": "test/a/1.json"},
        Parts("p", "4", (RawTrace("\\boxed{4}"),), "test/a/1.json"),
    ),
    (
        "numinamath_cot",
        {"source": "aops", "problem": "p", "solution": "\\boxed{4}", "messages": []},
        Parts("p", "4", (RawTrace("\\boxed{4}"),)),
    ),
    (
        "numinamath_1.5",
        {
            "problem": "p",
            "solution": "s",
            "answer": "proof",
            "problem_type": "Algebra",
            "question_type": "proof",
            "problem_is_valid": "Yes",
            "solution_is_valid": "Incomplete",
            "source": "olympiads",
            "synthetic": False,
        },
        Parts(
            "p",
            "proof",
            (RawTrace("s"),),
            kind="proof",
            refusal="solution_is_valid is Incomplete",
        ),
    ),
    (
        "openr1_220k",
        {
            "problem": "p",
            "solution": "s",
            "answer": "7",
            "question_type": "MCQ",
            "uuid": "u-1",
            "generations": ["<think>a</think>\\boxed{7}", "<think>b", "c"],
            "is_reasoning_complete": [True, False, True],
            "correctness_math_verify": [True, False, None],
            "correctness_llama": None,
            "finish_reasons": ["stop", "length", "stop"],
        },
        Parts(
            "p",
            "7",
            (
                RawTrace("<think>a</think>\\boxed{7}", False, True),
                RawTrace("<think>b", True, False),
                RawTrace("c"),
            ),
            "u-1",
            kind="choice",
        ),
    ),
    (
        "openr1_46k",
        {
            "data_source": "d",
            "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "p"}],
            "target": [{"role": "assistant", "content": "<think>\nt</think>\\boxed{1}"}],
            "reward_model": {"ground_truth": "1", "style": "rule"},
            "extra_info": {"index": 0, "split": "train"},
        },
        Parts("p", "1", (RawTrace("<think>\nt</think>\\boxed{1}"),)),
    ),
    (
        "big_math",
        {
            "prompt": [
                {
                    "role": "user",
                    "content": "p? Let's think step by step and output the final answer within "
                    "\\boxed{}.",
                }
            ],
            "reward_model": {"ground_truth": "12\\%", "style": "rule"},
        },
        Parts("p?", "12\\%", tolerated=("the source's instruction taken off",)),
    ),
    (
        "big_math",
        {"problem": "p", "answer": "3", "source": "math", "llama8b_solve_rate": 0.1},
        Parts("p", "3"),
    ),
    (
        "aime",
        {"prompt": "p\nPlease reason step by step, and put your final answer within \\boxed{}.",
         "answer": 70},
        Parts("p", "70", tolerated=("the source's instruction taken off",)),
    ),
    ("aime", {"id": 60, "problem": "p", "solution": "s", "answer": "204", "url": "u"},
     Parts("p", "204", (RawTrace("s"),), "60")),
    ("amc23", {"id": 0, "question": "p", "answer": 27.0}, Parts("p", "27", (), "0")),
    (
        "olympiadbench",
        {"id": 1606, "context": None, "question": "p", "solution": ["s"], "final_answer": ["2"],
         "unit": None, "is_multiple_answer": False},
        Parts("p", "2", (RawTrace("s"),), "1606"),
    ),
    ("minerva", {"problem": "p", "solution": "so \\boxed{1.6} cm", "idx": 3},
     Parts("p", "1.6", (RawTrace("so \\boxed{1.6} cm"),), "3")),
    ("chat", {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"},
                           {"role": "assistant", "content": "so \\boxed{2}"}]},
     Parts("p", "2", (RawTrace("so \\boxed{2}"),))),
    ("chat", {"conversations": [{"from": "human", "value": "p"},
                                {"from": "gpt", "value": "so\n#### 2"}], "id": 7},
     Parts("p", "2", (RawTrace("so\n\\boxed{2}"),), "7")),
    ("chat", {"messages": [{"role": "user", "content": "p"}], "answer": 3}, Parts("p", "3")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), CASES, ids=lambda v: str(v)[:14])
def test_adapters_read_the_real_columns(name: str, row: Row, expected: Parts) -> None:
    assert ADAPTERS[name].read(row) == expected
    assert all(any(c in row for c in group) for group in ADAPTERS[name].columns)


SAID = {"role": "user", "content": "p"}


def test_adapters_name_what_a_row_lacks() -> None:
    for name, row, reason in [
        ("math", {"problem": "p", "solution": "no box"}, "no boxed answer"),
        ("math", {"problem": "p", "solution": "\\boxed{}", "answer": ""}, "box .* is empty"),
        ("gsm8k", {"question": "q", "answer": "no mark"}, "no #### answer"),
        ("aime", {"problem": ["p"], "answer": 1}, "'problem' is no text"),
        ("aime", {"problem": "p", "answer": [1, 2]}, "is no answer"),
        ("openr1_46k", {"prompt": [], "target": [], "reward_model": "x"}, "is no mapping"),
        ("chat", {"messages": [SAID, SAID], "answer": 1}, "not one question and one answer"),
        ("chat", {"messages": [SAID]}, "no marked answer in the conversation"),
        ("chat", {"messages": [{"role": "user", "content": ["x"]}]}, "no message text"),
        ("chat", {"messages": ["p"]}, "holds no messages"),
    ]:
        with pytest.raises(RowFault, match=reason):
            ADAPTERS[name].read(row)


def test_gsm8k_solutions_end_in_a_box() -> None:
    assert gsm8k_solution("a <<1+1=2>>2\n#### -2,000") == "a 2\n\\boxed{-2000}"


# --- files --------------------------------------------------------------------------------------


def test_every_format_and_a_folder_of_them(tmp_path: Path) -> None:
    row = {"problem": "p,\n1", "answer": "1"}
    jsonl(tmp_path / "a.jsonl", row)
    (tmp_path / "b.csv").write_text('problem,answer\n"p,\n1",1\n')
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "c.parquet")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    (tmp_path / ".hidden.jsonl").write_text("not json")
    found = records(tmp_path)
    assert [r.parts.problem for r in found] == ["p,\n1"] * 4  # type: ignore[attr-defined]
    assert [r.row for r in found] == [1, 2, 3, 4]  # type: ignore[attr-defined]
    opened = open_table("mine", table(tmp_path, limit=2))
    assert len(list(opened.records)) == 2
    files = opened.facts["files"]
    assert isinstance(files, dict) and sorted(files) == [
        "a.jsonl", "b.csv", "c.parquet", "d.jsonl.gz",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        ("x.parquet", b"PAR1 but no more", "corrupted or no parquet", "x.parquet"),
        ("x.jsonl", b"", "the file is empty", "x.jsonl"),
        ("x.jsonl", b'{"problem": "p", "answer": "1"}\n{"probl', "not JSON", "x.jsonl line 2"),
        ("x.jsonl", b"[1, 2]\n", "a JSON list, not an object", "x.jsonl line 1"),
        ("x.jsonl", b'{"problem": "\xff\xfe"}\n', "not UTF-8", "x.jsonl"),
        ("x.jsonl.gz", b"\x1f\x8b\x08\x00broken", "corrupted", "x.jsonl.gz"),
        ("x.csv", b"problem,answer\np,1,2\n", "another number of fields", "x.csv row 1"),
        ("x.csv", b"question,answer\np,1\n", "no column 'problem'", "x.csv row 1"),
        ("x.jsonl", b'{"problem": "p"}\n', "no column 'answer' or 'trace'", "x.jsonl line 1"),
        ("x.txt", b"text", "no reader for .txt", "x.txt"),
    ],
)
def test_bad_files_are_named_with_row_and_remedy(
    tmp_path: Path, name: str, content: bytes, what: str, where: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        records(tmp_path / name)
    assert where in str(caught.value.where) and caught.value.remedy


@pytest.mark.parametrize("written", [{"compression": "zstd"}, {"write_page_checksum": True}])
def test_a_parquet_file_damaged_in_the_middle(tmp_path: Path, written: dict[str, object]) -> None:
    rows = [{"problem": f"p{i} " + os.urandom(200).hex(), "answer": "1"} for i in range(3000)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000, **written)
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 5000] = b"\x00" * 5000
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="corrupted") as caught:
        records(path)
    assert "after row" in str(caught.value.where)


def test_a_missing_path_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        records(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no data file"):
        records(tmp_path)


def test_columns_are_checked_in_every_file_of_a_folder(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", {"question": "q", "answer": "#### 1"})
    jsonl(tmp_path / "b.jsonl", {"prompt": "q", "answer": "#### 1"})
    with pytest.raises(DataError, match="no column 'question'") as caught:
        records(tmp_path, "gsm8k")
    assert "b.jsonl" in str(caught.value.where)


# --- the generic mapping ------------------------------------------------------------------------


def test_generic_reads_named_columns_and_lists_of_traces(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "x.jsonl",
        {"q": "p", "gold": 3.0, "outs": ["\\boxed{3}", "\\boxed{4}"], "cut": [False, "true"],
         "ok": [True, None], "n": 17},
    )  # fmt: skip
    columns = {"problem": "q", "answer": "gold", "trace": "outs", "cut": "cut", "label": "ok",
               "id": "n"}  # fmt: skip
    (found,) = records(path, columns=columns)
    assert found.parts == Parts(  # type: ignore[attr-defined]
        "p",
        "3",
        (RawTrace("\\boxed{3}", False, True), RawTrace("\\boxed{4}", True)),
        "17",
        lenient_key=False,
    )


def test_generic_takes_the_answer_from_the_trace_where_there_is_no_column(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"problem": "p", "trace": "so\n#### 5", "mark": "####"})
    columns = {"problem": "problem", "trace": "trace", "mark": "mark"}
    (found,) = records(path, columns=columns)
    assert found.parts.answer == "5"  # type: ignore[attr-defined]
    assert found.parts.traces[0].text == "so\n\\boxed{5}"  # type: ignore[attr-defined]


def test_mistakes_in_the_mapping_are_configuration_errors(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"problem": "p", "answer": "1"})
    for settings, message in [
        ({"columns": {"problm": "problem"}}, "did you mean 'problem'"),
        ({"columns": {"answer": "answer"}}, "which column is `problem`"),
        ({"adapter": "gsm8"}, "did you mean 'gsm8k'"),
        ({"adapter": "gsm8k", "columns": {"problem": "question"}}, "belongs to the generic"),
    ]:
        source = {"adapter": "generic", **settings}
        with pytest.raises(ConfigError, match=message):
            records(path, **source)  # type: ignore[arg-type]


# --- hapo data peek -----------------------------------------------------------------------------


def peek(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    return "\n".join(peek_lines(parser.parse_args(["data", "peek", *arguments])))


def test_peek_shows_columns_lengths_rows_and_fitting_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = jsonl(
        tmp_path / "x.jsonl",
        {"question": "How many?", "answer": "#### 3"},
        {"question": "And now, how many?", "answer": "none"},
    )
    shown = peek(str(path), "--adapter", "gsm8k")
    assert "question" in shown and "9 / 13.5 / 18" in shown
    assert "answer:  3" in shown
    assert "1 of 2 rows, 1 traces, 1 with no #### answer in the solution" in shown
    every = peek(str(path))
    assert re.search(r"gsm8k +1 of 2 rows, 1 traces .*1 not: no #### answer", every)
    assert re.search(r"math +0 of 2 rows: the row has no column 'problem'", every)
    with pytest.raises(HapoError, match=r"no source of params\.yaml"):
        peek("nothing-of-the-kind")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_one_json_list_of_rows_gets_a_remedy_that_works(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps([{"question": "1+1", "answer": "2"}], indent=1))
    with pytest.raises(DataError) as found:
        [row for file in data_files(path) for row in file_rows(file)]
    command = str(found.value.remedy).splitlines()[1].strip().replace("FILE", name)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    rows = [row for row, _, _ in file_rows(tmp_path / "converted.jsonl")]
    assert rows == [{"question": "1+1", "answer": "2"}]
