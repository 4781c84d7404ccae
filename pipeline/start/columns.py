"""Which column is what, guessed from names and contents, for files that nobody has described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.curate.sources.adapters import ADAPTERS
from pipeline.curate.sources.files import data_files, file_rows
from pipeline.curate.sources.record import Row, RowFault

NAMES: Mapping[str, tuple[str, ...]] = {
    "problem": ("problem", "question", "prompt", "query", "instruction", "input", "task"),
    "answer": (
        *("answer", "gold", "final_answer", "expected_answer", "reference_answer", "label"),
        *("ground_truth", "result", "target"),
    ),
    "trace": (
        *("trace", "solution", "solutions", "response", "generation", "generations", "rationale"),
        *("reasoning", "completion", "explanation", "worked_solution", "output", "text", "answer"),
    ),
    "id": ("id", "problem_id", "uid", "uuid", "question_id", "key", "idx", "index"),
}
"""Our field -> names that others give it, the likeliest first."""
SAMPLE = 100
ENOUGH = 0.9
"""Share of the sample's rows that an adapter must read to be taken."""
_SHOWN = 3
_LONG = 120


def first_rows(path: Path, most: int = SAMPLE) -> list[Row]:
    """The first rows of a file or folder.

    Raises:
        DataError: it is not there, cannot be read, or has no row.
    """
    rows = [row for file in data_files(path) for row, _, _ in islice(file_rows(file), most)][:most]
    if not rows:
        raise DataError("there is no row", where=str(path))
    return rows


def named(rows: Sequence[Row], field: str, taken: Sequence[str] = ()) -> str | None:
    """The column that is this field, by its name and what it holds; None where none is."""
    columns = {str(name).casefold(): str(name) for row in rows for name in row}
    for name in NAMES[field]:
        column = columns.get(name)
        if column is not None and column not in taken and _holds(rows, column, field):
            return column
    return None


def _holds(rows: Sequence[Row], column: str, field: str) -> bool:
    """Whether the cells can be this field: most of them, all of an id. What the others hold is
    said row by row when they are read."""
    cells = [row[column] for row in rows if row.get(column) not in (None, "")]
    kinds: tuple[type, ...] = (str,)
    if field in ("id", "answer"):
        kinds = (str, int, float, Decimal, list)
    elif field == "trace":
        kinds = (str, list)
    good = sum(isinstance(c, kinds) and not isinstance(c, bool) for c in cells)
    return good == len(cells) if field == "id" else 2 * good > len(cells) or not cells


def guess_problems(rows: Sequence[Row], path: Path, traced: bool) -> dict[str, object]:
    """`adapter` and `columns` of a source of problems.

    Args:
        rows: the first ones.
        path: for messages.
        traced: solutions come from another file: a column of them is left alone.

    Raises:
        DataError: no column is a problem with an answer; shows three rows.
    """
    problem, answer = named(rows, "problem"), named(rows, "answer")
    if problem and answer and not _worked(rows, answer):
        columns = {"problem": problem, "answer": answer}
        trace = None if traced else named(rows, "trace", (problem, answer))
        key = _key(rows)
        columns |= ({"trace": trace} if trace else {}) | ({"id": key} if key else {})
        return {"adapter": "generic", "columns": columns}
    adapter = _known(rows)
    if adapter is not None:
        return {"adapter": adapter}
    missing = "the problem" if not problem else "the answer"
    raise _missing(
        missing, rows, path,
        "--columns problem=COLUMN,answer=COLUMN (`hapo data peek FILE` shows more); or --adapter, "
        "one of `hapo data adapters`",
    )  # fmt: skip


def _worked(rows: Sequence[Row], column: str) -> bool:
    """Whether a column of answers holds whole solutions (GSM8K's `answer`)."""
    texts = [str(row.get(column) or "") for row in rows]
    return sum("####" in t or "\\boxed" in t or len(t) > _LONG for t in texts) > len(texts) / 2


def _key(rows: Sequence[Row]) -> str | None:
    """A column of ids: every row has one, and each its own."""
    column = named(rows, "id")
    cells = [row.get(column) for row in rows] if column else []
    whole = all(c not in (None, "") and not isinstance(c, list) for c in cells)
    return column if column and whole and len(set(map(str, cells))) == len(cells) else None


def _known(rows: Sequence[Row]) -> str | None:
    """The adapter that reads nearly all rows and asks for the most columns, if there is one."""
    fitting = []
    for name, adapter in ADAPTERS.items():
        if not all(any(column in rows[0] for column in group) for group in adapter.columns):
            continue
        good = 0
        for row in rows:
            try:
                parts = adapter.read(row)
            except RowFault:
                continue
            good += bool(parts.problem.strip() and parts.answer.strip())
        if good >= ENOUGH * len(rows):
            fitting.append((len(adapter.columns), name))
    return max(fitting, key=lambda f: f[0])[1] if fitting else None


def guess_traces(rows: Sequence[Row], path: Path, by_id: bool) -> dict[str, str]:
    """`traces_columns` of a file of solutions.

    Args:
        by_id: whether the problems have ids.

    Raises:
        DataError: no column is a solution, or none says whose it is; shows three rows.
    """
    key = named(rows, "id") if by_id else None
    problem = named(rows, "problem")
    trace = named(rows, "trace", tuple(filter(None, (key, problem))))
    if trace and (key or problem):
        return {"trace": trace, **({"problem_id": key} if key else {"problem": str(problem)})}
    what = "the solution" if not trace else "the problem's id or text"
    raise _missing(
        what, rows, path,
        "--traces-columns trace=COLUMN,problem_id=COLUMN (or problem=COLUMN, the problem's text)",
    )  # fmt: skip


def _missing(what: str, rows: Sequence[Row], path: Path, options: str) -> DataError:
    """No column is `what`; `options` are those that name the columns."""
    columns = dict.fromkeys(str(name) for row in rows for name in row)
    return DataError(
        f"no column looks like {what}; the rows have {', '.join(columns)}{shown(rows)}",
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
