"""What stands in a cell of a row: text, an answer, an id, a list, a message; or a `RowFault`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TypeGuard

from hapo_core.verify import extract_answer
from pipeline.curate.sources.record import Row, RowFault


def text(row: Row, *names: str) -> str:
    """The first of these columns that holds text; an empty string if none does.

    Raises:
        RowFault: it holds something else.
    """
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, float) and value != value):  # NaN: an empty cell
            continue
        if not isinstance(value, str):
            raise RowFault(f"column {name!r} is no text", f"{type(value).__name__}: {value!r:.80}")
        return value
    return ""


def answer_text(value: object, name: str = "answer") -> str:
    """An answer cell as text: 27.0 becomes 27, true numbers keep their digits, a list of one is
    its item, and NaN (how pandas writes an empty cell) is no answer.

    Raises:
        RowFault: several values, a mapping, a boolean, or infinity.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if value is None or value == []:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise RowFault(f"column {name!r} is no answer", f"bool: {value!r}")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        if value != value:
            return ""
        if not math.isfinite(value):
            raise RowFault(f"column {name!r} is no answer", f"{type(value).__name__}: {value}")
        if value == int(value):
            return str(int(value))
        return repr(value) if isinstance(value, float) else f"{value.normalize():f}"
    remedy = (
        "give one answer as text; several values are one text, `2, 5`"
        if (isinstance(value, list | tuple))
        else "give the answer as text or number"
    )
    raise RowFault(
        f"column {name!r} is no answer", f"{type(value).__name__}: {value!r:.80}", remedy
    )


def key_text(value: object) -> str | None:
    """A row id as text; None for an empty one."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value != value:  # NaN: an empty cell
        return None
    if isinstance(value, float) and value.is_integer():  # a column of integers with empty cells
        return str(int(value))
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise RowFault("the id is neither text nor integer", f"{value!r:.80}")


def sequence(row: Row, name: str) -> list[object]:
    """A list column; empty where it is null.

    Raises:
        RowFault: it holds no list.
    """
    value = row.get(name)
    if value is None:
        return []
    if not is_list(value):
        raise RowFault(f"column {name!r} is no list", f"{value!r:.80}")
    return list(value)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Whether it is a list of things: text and bytes, which are sequences too, are one thing."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def message(row: Row, name: str, role: str) -> str:
    """The last message of `role` in a chat column (or a plain text in its place)."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    contents = [
        m.get("content")
        for m in sequence(row, name)
        if isinstance(m, Mapping) and m.get("role") == role
    ]
    found = contents[-1] if contents else ""
    if not isinstance(found, str):
        raise RowFault(f"column {name!r} holds no message text", f"{found!r:.80}")
    return found


def boxed_answer(solution: str) -> str:
    """The answer that a solution boxes.

    Raises:
        RowFault: it has no box, or an empty one.
    """
    answer = extract_answer(solution, "box").answer
    if answer is None:
        raise RowFault("no boxed answer in the solution", solution[-80:])
    if not answer.strip():
        raise RowFault("the box in the solution is empty", solution[-80:])
    return answer


def last_answer(solution: str, mark: str = "box") -> str:
    """The marked final answer of a solution; empty where it has none."""
    return extract_answer(solution, mark).answer or ""
