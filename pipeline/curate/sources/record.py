"""What every source yields: problems with their answers and traces, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RawTrace:
    """A solution as the source gives it."""

    text: str
    cut: bool = False
    """The source says that it stopped at a length limit."""
    label: bool | None = None
    """The source's own verdict; compared with ours and reported, never believed."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an adapter makes of one row."""

    problem: str
    answer: str
    traces: tuple[RawTrace, ...] = ()
    key: str | None = None
    """The source's own row id; None means that the id is a hash of the problem's text."""
    lenient_key: bool = True
    """Another row may have the same key if its problem is the same (several traces)."""
    kind: str | None = None
    """`proof` or `choice`, where the source says so."""
    refusal: str | None = None
    """Why the source itself calls the row unfit."""
    tolerated: tuple[str, ...] = field(default=())
    """What the adapter had to mend or set aside in this row, one short reason each."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source."""

    parts: Parts
    row: int
    """Row number in the source, counted from 1 over all of its files."""
    where: str
    """File (or dataset) and row, for messages."""


class RowFault(Exception):
    """A row without the content that it needs. Strict sources fail, the others count it.

    Args:
        reason: a short phrase, the same for all rows with this fault.
        detail: what was found in this row.
        remedy: what to do about it, where that is more than to mend the row.
    """

    def __init__(self, reason: str, detail: str = "", remedy: str | None = None) -> None:
        self.reason, self.detail, self.remedy = reason, detail, remedy
        super().__init__(f"{reason}: {detail}" if detail else reason)


@dataclass(frozen=True, slots=True)
class Faulty:
    """A row that its adapter could not read."""

    fault: RowFault
    row: int
    where: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class LooseTrace:
    """A trace from a table of its own, with its problem's id, or the problem's text."""

    key: str
    trace: RawTrace
    where: str
    by_text: bool = False


Records = Iterator[Record | Faulty]
LooseTraces = Iterator[LooseTrace]


@dataclass(frozen=True)
class Opened:
    """A source, ready to be read.

    Args:
        records: its rows, read as they are asked for.
        strict: rows that cannot be used are errors, not counted drops.
        generated: from a generator that yields no duplicates.
        facts: what the account says of it (files and hashes, revision, adapter).
        total: number of rows, where it is known beforehand.
        traces: of a table of their own, to be joined by id after the records.
    """

    records: Records
    strict: bool
    generated: bool
    facts: dict[str, object]
    total: int | None = None
    traces: LooseTraces | None = None
