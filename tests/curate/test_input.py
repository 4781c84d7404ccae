"""People's own files: marks, encodings, headers, marks of answers, traces joined by text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hapo_core.errors import ConfigError, DataError, HapoError
from pipeline.config import TableSource
from pipeline.curate.account import Account
from pipeline.curate.intake import Intake
from pipeline.curate.sources.marks import STATED, parse_mark
from pipeline.curate.sources.record import Faulty, Record
from pipeline.curate.sources.table import open_table
from pipeline.curate.spool import Spool


def read(path: Path, **settings: object) -> list[Record]:
    source = TableSource.model_validate({"kind": "table", "path": str(path), **settings})
    found = list(open_table("mine", source).records)
    assert all(isinstance(record, Record) for record in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str, suffix: str) -> None:
    lines = ["id,problem,answer", "a,caf\u00e9,1"]
    if "json" in suffix:
        lines = [json.dumps({"id": "a", "problem": "caf\u00e9", "answer": 1}, ensure_ascii=False)]
    raw = (end.join(lines) + end).encode(encoding)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix.endswith("gz") else raw)
    (record,) = read(path)
    assert (record.parts.key, record.parts.problem, record.parts.answer) == ("a", "caf\u00e9", "1")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.csv", b"problem,answer,answer\np,1,2\n", "the column 'answer' twice"),
        ("x.csv", b"problem, problem,answer\np,1,2\n", "the column 'problem' twice"),
        ("x.csv", b"problem;answer\np;1\n", "separated by semicolons"),
        ("x.csv", b"problem\tanswer\np\t1\n", "separated by tabs"),
        ("x.csv", b"problem,answer\np\n", "another number of fields"),
        ("x.jsonl", b'{"problem": "p", "answer": 1, "answer": 2}\n', "names 'answer' twice"),
        ("x.jsonl", '{"problem": "p"}\n'.encode("utf-16-le"), "UTF-16 without a byte order"),
        ("x.csv", "problem,answer\n\u00e9,1\n".encode("cp1252"), "not UTF-8"),
        ("x.csv.gz", b"\x1f\x8b\x08\x00broken", "corrupted"),
    ],
)
def test_bad_text_is_named_with_place_and_remedy(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what) as caught:
        read(tmp_path / name)
    assert name in str(caught.value.where) and caught.value.remedy


@pytest.mark.parametrize("above", ["", "\n\r\n", "  \n\n", ",,\n", '"",,\n \n'])
def test_a_table_may_begin_with_empty_lines(tmp_path: Path, above: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(above + "id,problem,answer\na,one,1\n")
    (record,) = read(path)
    assert (record.parts.key, record.parts.problem, record.parts.answer) == ("a", "one", "1")
    below = above.count("\n") + 3
    path.write_text(above + "id,problem,answer\na,one,1\nb,two\n")
    with pytest.raises(DataError, match="another number of fields") as caught:
        read(path)
    assert f"row 2 (it ends in line {below})" in str(caught.value.where)
    path.write_text(above + "id;problem;answer\n")
    with pytest.raises(DataError, match="semicolons") as caught:
        read(path)
    assert f"line {below - 2}" in str(caught.value.where)


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff\ufeff", "\ufeff\u200b", "\u200b"])
def test_signs_that_nobody_sees_are_no_part_of_a_columns_name(tmp_path: Path, start: str) -> None:
    """Two programs each put a mark before the header: the id column was lost in silence."""
    path = tmp_path / "x.csv"
    path.write_text(start + "id,\u200bproblem,answer\ufeff\na,one,1\n", encoding="utf-8")
    (record,) = read(path)
    assert (record.parts.key, record.parts.problem, record.parts.answer) == ("a", "one", "1")


@pytest.mark.parametrize(("kind", "places"), [(pa.float16(), 2), (pa.float32(), 5)])
def test_short_floats_have_the_digits_that_were_written(
    tmp_path: Path, kind: pa.DataType, places: int
) -> None:
    written = [0.1, 2.5, 27.0, round(1 / 3, places), None]
    cells = pa.array(written).cast(kind, safe=False)
    lists = pa.array([[v] if v else [] for v in written]).cast(pa.list_(kind), safe=False)
    for column in (cells, lists):
        path = table(tmp_path / "x.parquet", problem=["p"] * 5, answer=column)
        found = [record.parts.answer for record in read(path)]
        assert found == ["0.1", "2.5", "27", str(written[3]), ""]


def test_long_numbers_of_json_keep_their_digits(tmp_path: Path) -> None:
    numbers = ["1234567890123456789.5", "0.12345678901234567891", "0.1000000000000000", "1e400"]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"problem": "p", "answer": {n}}}\n' for n in numbers[:3]))
    assert [r.parts.answer for r in read(path)] == [*numbers[:2], "0.1"]
    path.write_text(f'{{"problem": "p", "answer": {numbers[3]}}}\n')
    assert "is no answer: float: inf" in fault(path)


def test_a_line_above_the_header_is_what_the_remedy_speaks_of(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("My table\nproblem,answer\none,1\n")
    with pytest.raises(DataError, match="another number of fields") as caught:
        read(tmp_path / "x.csv")
    assert "must name the columns" in str(caught.value.remedy)


def fault(path: Path) -> str:
    """Of the only row."""
    source = TableSource(kind="table", path=str(path))
    (record,) = open_table("mine", source).records
    assert isinstance(record, Faulty)
    return f"{record.fault} {record.excerpt}"


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


_BOXED = b"so \\boxed{1}"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.list_(pa.binary())])
def test_text_that_was_written_as_binary(tmp_path: Path, kind: pa.DataType) -> None:
    """As Spark, Hive and Impala write it; in lists too."""
    cells = pa.array([[_BOXED] if pa.types.is_list(kind) else _BOXED], kind)
    path = table(tmp_path / "x.parquet", problem=[b"caf\xc3\xa9"], answer=[b"1"], trace=cells)
    (record,) = read(path)
    assert (record.parts.problem, record.parts.answer) == ("caf\u00e9", "1")
    assert [t.text for t in record.parts.traces] == [_BOXED.decode()]


def test_binary_that_is_no_text_is_called_bytes(tmp_path: Path) -> None:
    """And not one trace for each byte."""
    path = table(tmp_path / "x.parquet", problem=["p"], answer=["1"], trace=[b"\xff\xfe1"])
    assert "a trace that is no text" in fault(path) and "b'\\xff" in fault(path)


def test_a_map_is_an_object_and_no_list_of_its_keys(tmp_path: Path) -> None:
    kind = pa.map_(pa.string(), pa.string())
    chat = pa.array([[{"role": "user", "content": "p"}, {"role": "assistant", "content": "1"}]])
    as_maps = [[tuple(m.items()) for m in chat[0].as_py()]]
    maps = pa.array([[list(m) for m in as_maps[0]]], pa.list_(kind))
    gold = pa.array([[("ground_truth", "1"), ("style", "rule")]], kind)
    one = table(tmp_path / "a.parquet", prompt=chat, reward_model=[{"ground_truth": "1"}])
    two = table(tmp_path / "b.parquet", prompt=maps, reward_model=gold)
    assert [r.parts for r in read(one, adapter="verl")] == [
        r.parts for r in read(two, adapter="verl")
    ]
    trace = table(tmp_path / "c.parquet", problem=["p"], answer=["1"], trace=gold)
    assert "a trace that is no text" in fault(trace)
    twice = pa.array([[("ground_truth", "1"), ("ground_truth", "2")]], kind)
    path = table(tmp_path / "d.parquet", prompt=maps, reward_model=twice)
    with pytest.raises(DataError, match="a map has the key 'ground_truth' twice") as caught:
        read(path, adapter="verl")
    assert "row 1" in str(caught.value.where)


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_the_first_line_lacks_is_not_lost_for_the_others(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl",
        {"q": "p", "a": 1},
        {"q": "p2", "a": 2, "why": "\\boxed{2}", "n": "two"},
    )
    columns = {"problem": "q", "answer": "a", "trace": "why", "id": "n"}
    first, second = read(path, columns=columns)
    assert first.parts.traces == () and second.parts.key == "two" and second.parts.traces
    with pytest.raises(DataError, match=r"no column 'wy'"):
        read(path, columns={**columns, "trace": "wy"})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(27.0, "27"), (2.5, "2.5"), (7, "7"), (["4"], "4"), ("x", "x")],
)
def test_golds_of_every_type(tmp_path: Path, value: object, expected: str) -> None:
    (record,) = read(lines(tmp_path / "x.jsonl", {"problem": "p", "answer": value}))
    assert record.parts.answer == expected


@pytest.mark.parametrize("value", [["1", "2"], {"a": 1}, True, float("inf"), float("nan"), None])
def test_golds_that_are_none_are_errors(tmp_path: Path, value: object) -> None:
    path = lines(tmp_path / "x.jsonl", {"problem": "p", "answer": value})
    opened = open_table("mine", TableSource(kind="table", path=str(path)))
    intake = Intake(Account(), Spool(tmp_path / "s.arrow"))
    with pytest.raises(DataError) as caught:
        intake.read("mine", opened.records, strict=True)
    assert "x.jsonl line 1" in str(caught.value.where) and caught.value.remedy


@pytest.mark.parametrize(
    ("mark", "solution", "answer"),
    [
        ("last_number", "So 3 + 4 = 7 apples.", "7"),
        ("last_number", "It costs $1,234.50.", "1234.50"),
        ("last_number", "no number", ""),
        (STATED, "First.\nThe answer is 72.", "72"),
        (STATED, "**Answer:** $\\frac{1}{2}$", "\\frac{1}{2}"),
        ("####", "so\n#### 1200", "1200"),
        (r"=> (\S+)", "=> 1\n=> 2", "2"),
    ],
)
def test_marks_find_the_answer_and_the_trace_ends_in_a_box(
    mark: str, solution: str, answer: str
) -> None:
    found = parse_mark(mark, "here")
    assert found.find(solution) == answer
    boxed = found.boxed(solution)
    assert boxed.endswith(f"\n\\boxed{{{answer}}}") if answer else boxed == solution
    assert found.boxed(boxed) == boxed


@pytest.mark.parametrize("mark", ["boxx", "(a)(b)", "(unclosed"])
def test_a_mark_that_is_none(mark: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mark(mark, "here")
    assert "last_number" in str(caught.value.remedy)


def attach(tmp_path: Path, problems: Path, traces: Path, **settings: object) -> list[int]:
    source = TableSource.model_validate(
        {"kind": "table", "path": str(problems), "traces_path": str(traces), **settings}
    )
    opened = open_table("mine", source)
    intake = Intake(Account(), Spool(tmp_path / "s.arrow"))
    intake.read("mine", opened.records, strict=True)
    assert opened.traces is not None
    intake.attach("mine", opened.traces)
    return [candidate.traces for candidate in intake.candidates]


def test_traces_join_by_the_text_of_the_problem(tmp_path: Path) -> None:
    problems = lines(
        tmp_path / "p.jsonl",
        {"problem": "What is $1+1$?", "answer": 2},
        {"problem": "q", "answer": 3},
    )
    columns = {"problem": "problem", "answer": "answer"}
    traces = lines(tmp_path / "t.jsonl", {"problem": "what is  $1 + 1$", "trace": "\\boxed{2}"})
    assert attach(tmp_path, problems, traces, columns=columns) == [1, 0]
    renamed = lines(tmp_path / "u.jsonl", {"question": "q", "trace": "\\boxed{3}"})
    by_text = {"problem": "question"}
    assert attach(tmp_path, problems, renamed, traces_columns=by_text) == [0, 1]
    stranger = lines(tmp_path / "v.jsonl", {"problem": "another", "trace": "\\boxed{3}"})
    with pytest.raises(HapoError, match="no problem of source 'mine' reads 'another'"):
        attach(tmp_path, problems, stranger, columns=columns)
