"""Small files that unfold to large rows: refused by row, without unfolding the rest."""

from __future__ import annotations

import gzip
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPO

from hapo_core.errors import DataError
from pipeline.curate.sources import files
from pipeline.curate.sources.files import MOST_IN_ROW, file_rows
from pipeline.curate.sources.unfolded import unfolded

LARGE = "a" * (MOST_IN_ROW + 1000)
"""One row's text that is above the limit."""


def one_value(path: Path) -> None:
    pq.write_table(pa.table({"problem": [LARGE]}), path, compression="zstd")


def a_large_row_among_small_ones(path: Path) -> None:
    pq.write_table(pa.table({"problem": ["1 + 1"] * 5000 + [LARGE]}), path, compression="zstd")


def a_long_list(path: Path) -> None:
    count = MOST_IN_ROW + 1000
    values = pa.Array.from_buffers(pa.int8(), count, [None, pa.py_buffer(bytes(count))])
    rows = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    pq.write_table(pa.table({"answers": rows}), path, compression="zstd")


def a_repeated_entry(path: Path) -> None:
    entry = "b" * 1_000_000
    rows = pa.array([[entry] * (MOST_IN_ROW // 1_000_000 + 1)])
    pq.write_table(pa.table({"answers": rows}), path, compression="zstd", use_dictionary=True)


def repeated(count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), ["c" * 1_000_000])


def a_list_that_says_it_is_a_dictionary(path: Path) -> None:
    """899 bytes that would be 4 GB: Arrow keeps the entry apart, Python would not."""
    rows = pa.ListArray.from_arrays(pa.array([0, 4000], pa.int32()), repeated(4000))
    pq.write_table(pa.table({"problem": ["p"], "answers": rows}), path, compression="zstd")


def a_list_inside_of_a_struct(path: Path) -> None:
    rows = pa.ListArray.from_arrays(pa.array([0, 4000], pa.int32()), repeated(4000))
    inside = pa.StructArray.from_arrays([rows], ["texts"])
    table = pa.table({"problem": ["p"], "teacher": inside})
    pq.write_table(table, path, compression="zstd", store_schema=False)


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (a_list_that_says_it_is_a_dictionary, "row 1"),
        (a_list_inside_of_a_struct, "row 1"),
        (one_value, "row group 1"),
        (a_large_row_among_small_ones, "row 5001"),
        (a_long_list, "row group 1"),
        (a_repeated_entry, "row 1"),
    ],
)
def test_a_row_of_parquet_that_unfolds(tmp_path: Path, make, place: str) -> None:
    path = tmp_path / "bomb.parquet"
    make(path)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match=r"unfolds to .* a row holds at most") as refused:
        for _ in file_rows(path):
            pass
    assert f"bomb.parquet {place}" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("bomb.jsonl.gz", '{"problem": "1 + 1"}\n{"problem": "' + LARGE + '"}\n', "line 2"),
        ("bomb.jsonl", LARGE, "line 1"),
        ("bomb.csv.gz", f"problem,answer\n1 + 1,2\n{LARGE},3\n", "line 3"),
        ("bomb.csv", 'problem,answer\n1,2\n"' + ("a" * 79 + "\n") * (MOST_IN_ROW // 79), "row 2"),
    ],
)
def test_a_line_without_an_end(tmp_path: Path, name: str, text: str, place: str) -> None:
    path = tmp_path / name
    data = text.encode()
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    with pytest.raises(DataError, match="unfolds to more than 64 million") as refused:
        for _ in file_rows(path):
            pass
    assert f"{name} {place}" in str(refused.value)


def test_rows_that_share_a_long_text_are_unfolded_a_few_at_a_time(tmp_path: Path) -> None:
    """A thousand rows of half a megabyte each are allowed, and never in memory together."""
    path = tmp_path / "shared.parquet"
    text = pa.array(["b" * 500_000])
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), text)
    pq.write_table(pa.table({"problem": rows}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from pipeline.curate.sources.files import file_rows\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "rows = file_rows(Path(sys.argv[1]))\n"
        "assert sum(len(row.row['problem']) for row in rows) == 500_000_000\n"
        "print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 100_000  # kB


def test_long_and_ordinary_rows_are_read(tmp_path: Path) -> None:
    """What is read through a dictionary is what was written: empty, missing and repeated texts."""
    rows = [
        {"problem": text, "n": i} for i, text in enumerate(["a", "", None, "a", "é" * 9999] * 9)
    ]
    path = tmp_path / "rows.parquet"
    for flavour in (pa.string(), pa.large_string()):
        schema = pa.schema({"problem": flavour, "n": pa.int64()})
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
        assert [found.row for found in file_rows(path)] == rows


def test_the_size_of_rows_is_that_of_their_objects() -> None:
    texts = pa.array(["ab", None, "é"])
    table = {
        "text": (texts, 3 + 4),
        "bytes": (pa.array([b"abc", b"", None]), 3 + 3),
        "number": (pa.array([1, 2, 3]), 3),
        "entry": (pa.array(["abcd", None, "abcd"]).dictionary_encode(), 3 + 8),
        "list": (pa.array([["a", "bc"], None, []]), 3 + 2 + 3),
        "struct": (pa.array([{"t": "abc"}, None, {"t": ""}]), 3 + 3 + 3),
        "map": (pa.array([[("k", "vv")], [], None], pa.map_(pa.string(), pa.string())), 2 + 3),
    }
    for name, (column, size) in table.items():
        assert unfolded(column) == size, name
        batch = pa.record_batch({name: column})
        rows = [unfolded(batch.slice(index, 1)) for index in range(3)]
        assert sum(rows) == size, name


def test_a_number_without_an_end_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"problem": "p", "answer": 1' + "0" * 5000 + "}\n")
    with pytest.raises(DataError, match=r"the line is not JSON: .*4300 digits"):
        list(file_rows(path))


@pytest.mark.parametrize("broken", [False, True], ids=["as arrow reads them", "row by row"])
def test_nested_texts_of_several_row_groups(
    tmp_path: Path, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Big-Math and OpenR1 are such files: lists of messages, a dictionary for each row group."""
    rows = [{"m": [{"c": f"{i % 7} says"}, {"c": "no"}], "s": {"t": f"{i}"}} for i in range(2500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=1100)
    if broken:
        monkeypatch.setattr(files, "_batches", partial(_changing, files._batches))
    assert [row for row, _, _ in file_rows(tmp_path / "x.parquet")] == rows


def _changing(read: Any, file: pq.ParquetFile) -> Any:
    """A file whose dictionaries change within a row group, after its first batch."""

    class Changing:
        metadata = file.metadata

        def iter_batches(self, size: int, row_groups: list[int]) -> Any:
            for number, batch in enumerate(file.iter_batches(size, row_groups=row_groups)):
                if size > 1 and number:
                    raise pa.ArrowNotImplementedError("chunked")
                yield batch

    return read(Changing())
