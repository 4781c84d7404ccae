"""Rows of local files: parquet, jsonl and csv (plain or gzip), or a folder of them.

Text is UTF-8, or UTF-16 with a byte order mark; the mark itself belongs to no column.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hapo_core.errors import DataError
from pipeline.artifacts.places import expanded
from pipeline.curate.sources.header import check_header, check_separator, first_names, repeated
from pipeline.curate.sources.plain import plain_rows
from pipeline.curate.sources.record import Row
from pipeline.curate.sources.unfolded import unfolded
from pipeline.curate.sources.unread import (
    folder_remedy,
    how_to_read,
    json_remedy,
    missing_remedy,
    python_remedy,
)

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz")
BATCH_ROWS = 1024
MOST_IN_ROW = 64_000_000
"""Characters (values, for lists) of one row. A small file can unfold to any size: compression, a
dictionary's entry that is repeated, a line without an end."""
_MOST_BYTES = 4 * MOST_IN_ROW
"""Of a row, before it is unfolded: a character has at most four."""
_UNFOLDED_ROWS = 16
"""Rows of a parquet batch that are unfolded at a time."""
_FLOAT_DIGITS = 15
"""Decimal digits that every float has."""
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark starts with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class LocatedRow(NamedTuple):
    """A row, where it stands (`FILE row 3`), and whether a file starts with it."""

    row: Row
    where: str
    first: bool


def expand(path: str) -> Path:
    """The path with `~` and environment variables expanded."""
    return expanded(os.path.expandvars(path))


def _ending(path: Path) -> str:
    """Its suffix, with the one before it where the last says how the file is packed."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])


def data_files(path: Path) -> list[Path]:
    """The files of a path: itself, or all data files below a folder, sorted by name.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    if not path.exists():
        raise DataError(
            "there is no such file or folder",
            where=str(path),
            remedy=missing_remedy(path),
        )
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(
                f"no reader for {_ending(path) or 'files without a suffix'}",
                where=str(path),
                remedy=how_to_read(path, ", ".join(SUFFIXES)),
            )
        return [path]
    inside = (p for p in path.rglob("*") if p.is_file())
    files = [
        p
        for p in inside
        if p.name.lower().endswith(SUFFIXES)
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
    ]
    if not files:
        raise DataError(
            "the folder holds no data file",
            where=str(path),
            remedy=folder_remedy(path, ", ".join(SUFFIXES)),
        )
    return sorted(files, key=lambda p: p.relative_to(path).as_posix())


def file_rows(path: Path) -> Iterator[LocatedRow]:
    """The rows of one file, in order, without holding the file in memory.

    Raises:
        DataError: the file is empty, corrupted, or a line of it is no row; names the line.
    """
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), remedy="download or export it again")
    if name.endswith(".parquet"):
        return _parquet_rows(path)
    return _csv_rows(path) if name.endswith((".csv", ".csv.gz")) else _json_rows(path)


def has_header(path: Path) -> bool:
    """Whether all rows of a file have the same columns (lines of JSON need not)."""
    return not path.name.lower().endswith((".jsonl", ".jsonl.gz"))


def row_count(path: Path) -> int | None:
    """Rows of a parquet file; None for files that would have to be read for it."""
    return _parquet(path).metadata.num_rows if path.suffix.lower() == ".parquet" else None


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"the parquet file is corrupted or no parquet file: {error}",
            where=str(path),
            remedy="download or export it again",
        ) from error


def _parquet_rows(path: Path) -> Iterator[LocatedRow]:
    file, number = _parquet(path), 0
    plain = plain_rows(file.schema_arrow)
    check_header(file.schema_arrow.names, str(path))
    _check_groups(file.metadata, path)
    try:
        for batch in _batches(_folded(file, path)):
            if unfolded(batch) > _MOST_BYTES:  # else no row of it is too large
                for index in range(batch.num_rows):
                    if (size := unfolded(batch.slice(index, 1))) > _MOST_BYTES:
                        raise _too_large(f"{path} row {number + index + 1}", f"{size / 1e6:.0f} MB")
            for start in range(0, batch.num_rows, _UNFOLDED_ROWS):
                for row in batch.slice(start, _UNFOLDED_ROWS).to_pylist():
                    number += 1
                    where = f"{path} row {number}"
                    if (size := _size(row)) > MOST_IN_ROW:
                        raise _too_large(where, f"{size / 1e6:.0f} million characters")
                    yield LocatedRow(plain(row, where), where, number == 1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the parquet file is corrupted: {error}",
            where=f"{path} after row {number}",
            remedy="download or export it again",
        ) from error


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Row group by row group: each has dictionaries of its own, and Arrow does not join those of
    texts inside of lists and structs. A group in which they change is read row by row."""
    for group in range(file.metadata.num_row_groups):
        done = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                yield batch
                done += batch.num_rows
        except pa.ArrowNotImplementedError:
            yield from islice(file.iter_batches(1, row_groups=[group]), done, None)


def _folded(file: pq.ParquetFile, path: Path) -> pq.ParquetFile:
    """The file with its texts read as a dictionary and indices into it, those inside of lists and
    structs too."""
    leaves = [file.schema.column(index) for index in range(len(file.schema))]
    texts = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type != "DECIMAL"
    ]
    return pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts)


def _check_groups(metadata: pq.FileMetaData, path: Path) -> None:
    """What a row of each row group unfolds to on average, before it is read.

    Raises:
        DataError: more than MOST_IN_ROW bytes or values.
    """
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(index) for index in range(group.num_columns)]
        size = sum(column.total_uncompressed_size for column in columns)
        values = sum(column.num_values for column in columns)
        if max(size, values) > MOST_IN_ROW * max(group.num_rows, 1):
            where = f"{path} row group {number + 1} ({group.num_rows} rows)"
            raise _too_large(where, f"{size / 1e6:.0f} MB and {values} values")


def _size(value: object) -> int:
    """Characters of all texts in a row, and one for every other value."""
    if isinstance(value, dict):
        return sum(_size(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(_size(inner) for inner in value)
    return len(value) if isinstance(value, str | bytes) else 1


def _too_large(where: str, size: str) -> DataError:
    return DataError(
        f"it unfolds to {size}; a row holds at most {MOST_IN_ROW // 1_000_000} million characters",
        where=where,
        remedy="this is no problem with its traces: remove the row, or split it into several",
    )


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    """Lines with their ends, each read to MOST_IN_ROW characters only."""
    number = 0
    while line := file.readline(MOST_IN_ROW + 1):
        number += 1
        if len(line) > MOST_IN_ROW:
            raise _too_large(f"{path} line {number}", f"more than {len(line) // 10**6} million")
        yield line


def _encoding(path: Path) -> str:
    """How the text of a file is written, by its first bytes.

    Raises:
        DataError: UTF-16 without the mark that says so.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        start = file.read(4)
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    if b"\0" in start[:2] and start.strip(b"\0"):
        order = "LE" if start[1:2] == b"\0" else "BE"
        raise DataError(
            "the text is UTF-16 without a byte order mark",
            where=str(path),
            remedy=f"iconv -f UTF-16{order} -t UTF-8 {path.name} > utf8-{path.name}",
        )
    return "utf-8"


def _open_text(path: Path) -> IO[str]:
    encoding = _encoding(path)
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding=encoding, newline="")
    return path.open("r", encoding=encoding, newline="")


def _json_rows(path: Path) -> Iterator[LocatedRow]:
    number = 0
    try:
        with _open_text(path) as file:
            first = True
            for number, line in enumerate(_lines(file, path), start=1):
                if line.strip():
                    where = f"{path} line {number}"
                    yield LocatedRow(_json_row(line, where), where, first)
                    first = False
    except UnicodeError as error:
        raise _not_text(path, number + 1, error) from error
    except _DAMAGED as error:
        raise _corrupted(path, f"line {number}", error) from error


def _corrupted(path: Path, last: str, error: Exception) -> DataError:
    remedy = "download or export it again"
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
        remedy = f"its name says gzip, and it is none: mv {path} {path.with_suffix('')}"
    return DataError(f"the file is corrupted: {error}", where=f"{path} after {last}", remedy=remedy)


class _Twice(Exception):
    """A JSON object names something twice; the standard reader would keep the last in silence."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(repeated(name for name, _ in pairs)[0])
    return found


def _number(text: str) -> float | Decimal:
    """As a float where that has all of the digits, else as a decimal: golds may be long."""
    value = float(text)
    if len(text) <= _FLOAT_DIGITS or not math.isfinite(value):
        return value
    exact = Decimal(text)
    return value if Decimal(repr(value)) == exact else exact


def _json_row(line: str, where: str) -> Row:
    try:
        row = json.loads(line, object_pairs_hook=_object, parse_float=_number)
    except _Twice as twice:
        raise DataError(
            f"the line names {twice.name!r} twice",
            where=where,
            remedy="every name may stand once in an object; rename or remove one",
        ) from twice
    except (ValueError, RecursionError) as error:  # a number of 4,301 digits is a ValueError
        remedy = "every line must be one JSON object; a cut last line means an unfinished file"
        file = Path(where.rpartition(" line ")[0])
        if line.strip() in ("[", "{"):
            remedy = json_remedy(file)
        elif re.match(r"\s*\{\s*'", line):
            remedy = python_remedy(file)
        raise DataError(f"the line is not JSON: {error}", where=where, remedy=remedy) from error
    if not isinstance(row, dict):
        raise DataError(
            f"the line is a JSON {type(row).__name__}, not an object",
            where=where,
            remedy=json_remedy(Path(where.rpartition(" line ")[0]))
            if isinstance(row, list)
            else 'every line must be an object: {"problem": ..., "answer": ...}',
        )
    return row


def _csv_rows(path: Path) -> Iterator[LocatedRow]:
    csv.field_size_limit(MOST_IN_ROW)
    number = 0
    try:
        with _open_text(path) as file:
            lines = _lines(file, path)
            header = csv.reader(lines, strict=True)
            names = first_names(header)
            above = header.line_num
            check_header(names, f"{path} line {above}")
            check_separator(names, f"{path} line {above}")
            reader = csv.DictReader(lines, names, strict=True)
            for number, row in enumerate(reader, start=1):
                where = f"{path} row {number}"
                if None in row or None in row.values():
                    raise DataError(
                        f"the row has another number of fields than the header ({len(names)})",
                        where=f"{where} (it ends in line {above + reader.line_num})",
                        remedy="quote fields that hold commas or line ends; the first line that is "
                        "not empty must name the columns",
                    )
                yield LocatedRow(row, where, number == 1)
    except UnicodeError as error:
        raise _not_text(path, number + 1, error) from error
    except _DAMAGED as error:
        raise _corrupted(path, f"row {number}", error) from error
    except csv.Error as error:
        if "field larger than field limit" in str(error):
            where = f"{path} row {number + 1}"
            raise _too_large(
                where, f"more than {MOST_IN_ROW // 10**6} million in one field"
            ) from error
        raise DataError(
            f"the line is not CSV: {error}",
            where=f"{path} row {number + 1}",
            remedy="export it again with quoted fields, or as parquet",
        ) from error


def _not_text(path: Path, line: int, error: UnicodeError) -> DataError:
    what = str(error)
    if isinstance(error, UnicodeDecodeError):
        what = f"{error.reason} (byte {error.object[error.start]:#x})"
        if error.encoding != "utf-8":
            what += f", read as {error.encoding}"
    return DataError(
        f"the text is not UTF-8: {what}",
        where=f"{path} near line {line}",
        remedy="convert the file to UTF-8, for example `iconv -f WINDOWS-1252 -t UTF-8`",
    )
