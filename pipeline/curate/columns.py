"""Which column is what, guessed from its name and from what is in its cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from statistics import median

from pipeline.curate.sources.cells import answer_text, key_text
from pipeline.curate.sources.generic import truth
from pipeline.curate.sources.marks import HASHES, LAST_NUMBER, STATED, parse_mark
from pipeline.curate.sources.record import Row, RowFault

NAMES = {
    "problem": "problem question prompt instruction query input task exercise statement text",
    "answer": "answer final_answer gold gold_answer ground_truth expected expected_answer "
    "reference_answer correct_answer reference target result output label",
    "trace": "trace solution response generation generations completion completions rationale "
    "reasoning cot explanation gold_solution solutions worked_solution output target text answer "
    "traces",
    "id": "id problem_id uid uuid unique_id question_id idx index key",
    "cut": "cut truncated",
    "label": "label correct is_correct",
}
"""Our field -> names that others give it, the likeliest first."""
_KINDS: dict[str, tuple[type, ...]] = {
    "id": (str, int, float, Decimal, list),
    "answer": (str, int, float, Decimal, list),
    "trace": (str, list),
}
"""What cells of a kind are; all others are texts."""
MARKS = (None, HASHES, STATED, LAST_NUMBER)
"""None is the box. The last is for traces whose answer is known from a column."""
_BESIDE = 20
"""Characters beside its answer from which a text is a solution."""


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns that some row has."""
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def named(rows: Sequence[Row], kind: str) -> list[str]:
    """The columns that have a name of this kind (a key of NAMES), the likeliest first."""
    by_name = {re.sub(r"\W+", "_", c.strip().lower()): c for c in reversed(columns_of(rows))}
    return [by_name[name] for name in NAMES[kind].split() if name in by_name]


def median_length(rows: Sequence[Row], column: str) -> float:
    """Characters of a column's texts, numbers included; 0 for anything else."""
    cells = [row.get(column) for row in rows if row.get(column) not in (None, "")]
    lengths = [
        len(str(c)) for c in cells if isinstance(c, str | int | float) and not isinstance(c, bool)
    ]
    return median(lengths) if lengths and 2 * len(lengths) > len(cells) else 0


def asks(rows: Sequence[Row], column: str) -> float:
    """Share of the rows with a question mark in this cell."""
    return sum("?" in str(row.get(column)) for row in rows) / len(rows)


def holds_answers(rows: Sequence[Row], column: str) -> bool:
    """Whether most cells are answers, and no solutions that mark one."""
    if _is_label(rows, column):
        return False
    good = 0
    for row in rows:
        try:
            text = answer_text(row.get(column), column)
        except RowFault:
            continue
        good += bool(text.strip()) and not any(
            _marks_within(text, m) for m in (None, HASHES, STATED)
        )
    return 2 * good > len(rows)


def first_named(rows: Sequence[Row], kind: str, taken: Sequence[str] = ()) -> str | None:
    """The likeliest column by name whose cells can be of this kind, or None."""
    return next((c for c in named(rows, kind) if c not in taken and _fits(rows, c, kind)), None)


def _fits(rows: Sequence[Row], column: str, kind: str) -> bool:
    """Whether most cells, of an id all, can be of this kind. What is wrong with the others is said
    row by row when they are read."""
    if kind == "answer" and _is_label(rows, column):
        return False
    if kind == "answer" and any(holds_solutions(rows, column, m) for m in (None, HASHES, STATED)):
        return False
    cells = [row[column] for row in rows if row.get(column) not in (None, "")]
    kinds = _KINDS.get(kind, (str,))
    good = sum(isinstance(c, kinds) and not isinstance(c, bool) for c in cells)
    return good == len(cells) if kind == "id" else 2 * good > len(cells) or not cells


def _is_label(rows: Sequence[Row], column: str) -> bool:
    """A column called `label` may hold answers, or say of traces whether they are right."""
    return column in named(rows, "label") and is_flag(rows, column)


def holds_solutions(rows: Sequence[Row], column: str, mark: str | None) -> bool:
    """Whether most cells are solutions with a marked answer and text beside it."""
    cells = [row.get(column) for row in rows]
    texts = [str(c[0]) if isinstance(c, list) and c else c for c in cells]
    found = sum(isinstance(t, str) and _marks_within(t, mark) for t in texts)
    return 2 * found > len(rows)


def _marks_within(text: str, mark: str | None) -> bool:
    answer = parse_mark(mark or "box", "peek").find(text)
    return bool(answer) and len(text) >= len(answer) + _BESIDE


def is_id(rows: Sequence[Row], column: str) -> bool:
    """Whether every row has a text or number here, and each its own."""
    try:
        keys = [key_text(row.get(column)) for row in rows]
    except RowFault:
        return False
    return None not in keys and len(set(keys)) == len(keys)


def is_flag(rows: Sequence[Row], column: str) -> bool:
    """Whether every cell says yes or no, or is empty."""
    return all(truth(row.get(column)) is not None or row.get(column) is None for row in rows)
