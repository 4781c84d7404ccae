"""Columns of files that nobody has described, where nobody looks at the guess before training.

The guess itself is `pipeline.curate.columns`, as for `hapo data peek`. That one also proposes by
what cells look like and shows it; here a column without a telling name is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.curate.columns import (
    MARKS,
    columns_of,
    first_named,
    holds_solutions,
    is_id,
    median_length,
)
from pipeline.curate.sources.adapters import ADAPTERS, Adapter
from pipeline.curate.sources.files import data_files, file_rows
from pipeline.curate.sources.marks import LAST_NUMBER
from pipeline.curate.sources.record import Row, RowFault

SAMPLE = 100
ENOUGH = 0.9
"""Share of the sample's rows that an adapter must read to be taken."""
_SHOWN = 3
_LONG = 120
"""Characters from which a column of answers holds whole solutions."""


def first_rows(path: Path, most: int = SAMPLE) -> list[Row]:
    """The first rows of a file or folder.

    Raises:
        DataError: it is not there, cannot be read, or has no row.
    """
    rows = [row for file in data_files(path) for row, _, _ in islice(file_rows(file), most)][:most]
    if not rows:
        raise DataError("there is no row", where=str(path))
    return rows


def guess_problems(rows: Sequence[Row], path: Path, traced: bool) -> dict[str, object]:
    """`adapter` and `columns` of a source of problems.

    Args:
        rows: the first ones.
        path: for messages.
        traced: solutions come from another file: a column of them is left alone.

    Raises:
        DataError: no column is a problem with an answer; shows three rows.
    """
    problem, answer = first_named(rows, "problem"), first_named(rows, "answer")
    if problem and answer and median_length(rows, answer) <= _LONG:
        columns = {"problem": problem, "answer": answer}
        trace = None if traced else first_named(rows, "trace", (problem, answer))
        key = first_named(rows, "id")
        key = key if key and is_id(rows, key) else None
        columns |= ({"trace": trace} if trace else {}) | ({"id": key} if key else {})
        return {"adapter": "generic", "columns": columns}
    adapter = _known(rows)
    if adapter is not None:
        return {"adapter": adapter}
    trace = first_named(rows, "trace", (problem,)) if problem and not answer else None
    mark = next((m for m in MARKS if trace and holds_solutions(rows, trace, m)), LAST_NUMBER)
    if trace and mark != LAST_NUMBER:  # the answer is what the solutions mark, as in TRL's SFT sets
        columns = {"problem": str(problem), "trace": trace}
        return {"adapter": "generic", "columns": columns, **({"mark": mark} if mark else {})}
    missing = "the problem" if not problem else "the answer"
    raise _missing(
        missing, rows, path,
        "--columns problem=COLUMN,answer=COLUMN (`hapo data peek FILE` shows more), or "
        "trace=COLUMN where only solutions mark the answer; or --adapter (`hapo data adapters`)"
        + _headless(rows, path),
    )  # fmt: skip


def _headless(rows: Sequence[Row], path: Path) -> str:
    """A remedy for a table whose first line is a row already, and names no column."""
    names = columns_of(rows)
    if not path.name.lower().endswith((".csv", ".csv.gz")) or not any(map(_is_value, names)):
        return ""
    line = ",".join(["problem", "answer", *(f"other{n}" for n in range(len(names)))][: len(names)])
    said = "where the first line is a row already, name the columns above it"
    return f"; {said}: sed -i '1i {line}' {path}"


def _is_value(name: str) -> bool:
    """Whether a column's name is more likely a cell: a number, or a sentence."""
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", name.strip())) or "?" in name or len(name) > 60


def _known(rows: Sequence[Row]) -> str | None:
    """The adapter that reads nearly all rows and asks for the most columns, if there is one."""
    fitting = []
    for name, adapter in ADAPTERS.items():
        if not all(any(column in rows[0] for column in group) for group in adapter.columns):
            continue
        if reads(rows, adapter):
            fitting.append((len(adapter.columns), name))
    return max(fitting, key=lambda f: f[0])[1] if fitting else None


def reads(rows: Sequence[Row], adapter: Adapter) -> bool:
    """Whether an adapter finds problem and answer in nearly all rows."""
    good = 0
    for row in rows:
        try:
            parts = adapter.read(row)
        except RowFault:
            continue
        good += bool(parts.problem.strip() and parts.answer.strip())
    return good >= ENOUGH * len(rows)


def guess_traces(rows: Sequence[Row], path: Path, by_id: bool) -> dict[str, str]:
    """`traces_columns` of a file of solutions.

    Args:
        by_id: whether the problems have ids.

    Raises:
        DataError: no column is a solution, or none says whose it is; shows three rows.
    """
    key = first_named(rows, "id") if by_id else None
    trace = first_named(rows, "trace", (key,) if key else ())
    problem = first_named(rows, "problem", (trace,) if trace else ())
    if trace and (key or problem):
        return {"trace": trace, **({"problem_id": key} if key else {"problem": str(problem)})}
    what = "the solution" if not trace else "the problem's id or text"
    raise _missing(
        what, rows, path,
        "--traces-columns trace=COLUMN,problem_id=COLUMN (or problem=COLUMN, the problem's text)",
    )  # fmt: skip


def _missing(what: str, rows: Sequence[Row], path: Path, options: str) -> DataError:
    """No column is `what`; `options` are those that name the columns."""
    return DataError(
        f"no column looks like {what}; the rows have {', '.join(columns_of(rows))}{shown(rows)}",
        where=str(path),
        remedy=f"name them: {options}",
    )


def shown(rows: Sequence[Row]) -> str:
    """Three rows, a line each."""
    return "".join(f"\n  {short(dict(row))}" for row in rows[:_SHOWN])


def short(value: object, width: int = 100) -> str:
    """A value in one line of bounded width."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
