"""The header of a table: where it begins, and what it may not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from hapo_core.errors import DataError

T = TypeVar("T", bound=Hashable)
_UNSEEN = "\ufeff\u200b \t"
"""A byte order mark that a second program put before the first's, and other signs without width:
the column would have a name that nobody can see, and be lost."""


def first_names(rows: Iterable[list[str]]) -> list[str]:
    """The header: the first row that is not empty, as programs for tables export empty ones."""
    names = next((row for row in rows if any(cell.strip() for cell in row)), [])
    return [name.strip(_UNSEEN).strip() for name in names]


def check_header(names: Sequence[str], where: str) -> None:
    """Every column has its own name: of two with one name a reader would lose the first.

    Raises:
        DataError: two have one name.
    """
    twice = repeated(names)
    if twice:
        raise DataError(
            f"the header has the column {twice[0]!r} twice",
            where=where,
            remedy="rename or remove one of them: which one is meant cannot be known",
        )


def check_separator(names: Sequence[str], where: str) -> None:
    """A header that is one field with semicolons or tabs inside was not separated by commas.

    Raises:
        DataError: it is one.
    """
    for mark, said in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and mark in names[0]:
            raise DataError(
                f"the columns seem to be separated by {said}, not by commas",
                where=where,
                remedy="export it again with commas and quoted fields, or as parquet",
            )


def repeated(names: Iterable[T]) -> list[T]:
    """The names that stand more than once."""
    return [name for name, count in Counter(names).items() if count > 1]
