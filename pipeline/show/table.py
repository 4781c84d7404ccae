"""A table that knows its title, head and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table:
    """Cells as text. The first `text_columns` columns are words, the others numbers. The rows whose
    numbers are `fallen` stand in red."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""
    text_columns: int = 1
    last: Literal["number", "text", "code"] = "number"
    """What the last column holds; `code` is set in a fixed-width font (hashes)."""
    fallen: tuple[int, ...] = ()
