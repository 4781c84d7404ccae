"""Rows of local files: parquet, jsonl (plain or gzip), csv, or a folder of them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from hapo_core.errors import DataError
from pipeline.sources.record import Row

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".csv")
BATCH_ROWS = 1024


class LocatedRow(NamedTuple):
    """A row, where it stands (`FILE row 3`), and whether a file starts with it."""

    row: Row
    where: str
    first: bool


def expand(path: str) -> Path:
    """The path with `~` and environment variables expanded."""
    return Path(os.path.expandvars(path)).expanduser()


def data_files(path: Path) -> list[Path]:
    """The files of a path: itself, or all data files below a folder, sorted by name.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    if not path.exists():
        raise DataError(
            "there is no such file or folder",
            where=str(path),
            remedy="mend `path` in params.yaml (relative paths start at the project's folder)",
        )
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(
                f"no reader for {path.suffix or 'files without a suffix'}",
                where=str(path),
                remedy="convert it to one of " + ", ".join(SUFFIXES),
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
            remedy="put files there that end in one of " + ", ".join(SUFFIXES),
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
    return _csv_rows(path) if name.endswith(".csv") else _json_rows(path)


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
    try:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield LocatedRow(row, f"{path} row {number}", number == 1)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the parquet file is corrupted: {error}",
            where=f"{path} after row {number}",
            remedy="download or export it again",
        ) from error


def _open_text(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open("r", encoding="utf-8", newline="")


def _json_rows(path: Path) -> Iterator[LocatedRow]:
    number = 0
    try:
        with _open_text(path) as lines:
            first = True
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"{path} line {number}"
                    yield LocatedRow(_json_row(line, where), where, first)
                    first = False
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number + 1, error) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(
            f"the file is corrupted: {error}",
            where=f"{path} after line {number}",
            remedy="download or export it again",
        ) from error


def _json_row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            f"the line is not JSON: {error}",
            where=where,
            remedy="every line must be one JSON object; a cut last line means an unfinished file",
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"the line is a JSON {type(row).__name__}, not an object",
            where=where,
            remedy='every line must be an object: {"problem": ..., "answer": ...}',
        )
    return row


def _csv_rows(path: Path) -> Iterator[LocatedRow]:
    csv.field_size_limit(sys.maxsize)
    number = 0
    try:
        with _open_text(path) as lines:
            reader = csv.DictReader(lines, strict=True)
            for number, row in enumerate(reader, start=1):
                where = f"{path} row {number}"
                if None in row or None in row.values():
                    raise DataError(
                        f"the row has another number of fields than the header "
                        f"({len(reader.fieldnames or [])})",
                        where=where,
                        remedy="quote fields that hold commas or line ends",
                    )
                yield LocatedRow(row, where, number == 1)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number + 1, error) from error
    except csv.Error as error:
        raise DataError(
            f"the line is not CSV: {error}",
            where=f"{path} row {number + 1}",
            remedy="export it again with quoted fields, or as parquet",
        ) from error


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"the text is not UTF-8: {error.reason} (byte {error.object[error.start]:#x})",
        where=f"{path} near line {line}",
        remedy="convert the file to UTF-8",
    )
