"""The problems to measure on, where they are a file of their own (`--test`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.config import TableSource
from pipeline.curate.sources.adapters import ADAPTERS
from pipeline.curate.sources.record import Faulty, Row
from pipeline.curate.sources.table import open_table
from pipeline.curate.text import exact_key, normalise
from pipeline.start.columns import first_rows, guess_problems, reads
from pipeline.start.fit import Given
from pipeline.start.refuse import FEWEST, Problem, refuse_rows, rows_of


def measured_source(path: Path, given: Given) -> dict[str, object]:
    """The file as a source of params.yaml: read as the training file where it has its columns,
    else by the usual names.

    Raises:
        DataError: its columns are neither.
    """
    rows = first_rows(path)
    columns = {k: v for k, v in given.columns.items() if k in ("problem", "answer", "id")}
    place: dict[str, object] = {"kind": "table", "path": str(path.resolve())}
    if "answer" in columns and _has(rows, columns.values()):
        return place | {"adapter": "generic", "columns": columns}
    if given.adapter in ADAPTERS and reads(rows, ADAPTERS[given.adapter]):
        return place | {"adapter": given.adapter}
    try:
        return place | guess_problems(rows, path, traced=True)
    except DataError as error:
        raise DataError(
            error.what,
            where=error.where,
            remedy="name its columns `problem` and `answer`, or as those of --data are named",
        ) from error


def _has(rows: Sequence[Row], columns: Iterable[str]) -> bool:
    return all(any(column in row for row in rows) for column in columns)


def apart_from(
    problems: Sequence[Problem], source: dict[str, object], path: Path
) -> tuple[list[Problem], list[str]]:
    """The training problems that are not measured on, as curation keeps them, and a note on the
    others.

    Raises:
        DataError: a row of the file has no problem or no answer, or too few problems are left.
    """
    measured = _keys(source, path)
    left = [p for p in problems if exact_key(p.text) not in measured]
    shared = [p.where for p in problems if exact_key(p.text) in measured]
    if len(left) < FEWEST:
        raise DataError(
            f"{len(shared)} of {len(problems)} problems stand in the test file too, and "
            f"{len(left)} are left to train on; a run needs {FEWEST}: " + ", ".join(shared[:3]),
            where=str(path),
            remedy="measure on other problems, or leave --test out: then some are held out",
        )
    note = f"{rows_of(len(shared), 'stand')} in the test file too, and not trained on: "
    return left, [note + shared[0]] if shared else []


def _keys(source: dict[str, object], path: Path) -> set[bytes]:
    found: set[bytes] = set()
    faults: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for record in open_table("test", TableSource.model_validate(source)).records:
        if isinstance(record, Faulty):
            fault, example = record.fault.reason, record.excerpt
        else:
            example = normalise(record.parts.problem)
            fault = "" if record.parts.answer.strip() else "no answer"
            fault = fault if example.strip() else "no problem text"
        if not fault:
            found.add(exact_key(example))
            continue
        faults[fault] += 1
        examples.setdefault(fault, []).append(f"{record.where}: {example[:80]}")
    if faults:
        refuse_rows(faults, {k: v[:3] for k, v in examples.items()}, (), path)
    return found
