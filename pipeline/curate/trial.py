"""What one way of reading makes of a source's rows: how many curation would take, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hapo_core.errors import HapoError
from hapo_core.verify import extract_answer
from hapo_core.verify.math.fastpath import plain_number
from pipeline.config import TableSource
from pipeline.curate.intake import row_fault
from pipeline.curate.rules.golds import too_long
from pipeline.curate.sources.record import Parts, Record, Row, RowFault
from pipeline.curate.sources.table import check_columns, find_adapter
from pipeline.curate.text import exact_key, normalise

_REMEMBERED = 100_000
"""Problems whose answers are kept, to find another answer of the same one."""


@dataclass
class Trial:
    """What one way of reading makes of the rows.

    `accepted` rows have a problem and an answer; `right` of the `traces` end in it, `boxed` end in
    any box; from `mended` rows an instruction was taken off, or the like. `doubts` are accepted
    rows that curation drops for their answer, by what is wrong; `golds` is the first row and
    answer of every problem.
    """

    source: TableSource
    rows: int = 0
    accepted: int = 0
    traces: int = 0
    right: int = 0
    boxed: int = 0
    mended: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    doubts: dict[str, list[str]] = field(default_factory=dict)
    golds: dict[bytes, tuple[int, str]] = field(default_factory=dict)

    @property
    def score(self) -> tuple[int, int, int]:
        """More is better: rows, right traces, fewer others."""
        return self.accepted, self.right, -self.traces

    def line(self) -> str:
        """`12 of 20 rows, 12 traces (11 end in the answer as written); 8 not: no boxed answer`."""
        traces = (
            f", {self.traces} traces ({self.right} end in the answer as written)"
            if self.traces
            else ""
        )
        if not self.accepted and len(self.faults) == 1:
            return f"0 of {self.rows} rows: {next(iter(self.faults))}"
        why = "; ".join(f"{n} not: {reason}" for reason, n in self.faults.most_common(3))
        return f"{self.accepted} of {self.rows} rows{traces}{'; ' + why if why else ''}"

    def doubt(self, parts: Parts) -> None:
        """Note an answer that is none, or not that of the same problem before."""
        if long := too_long(parts.answer, "math"):
            size = f"row {self.rows}: {len(parts.answer):,} characters"
            self.doubts.setdefault(f"answers are {long}", []).append(size)
        if len(self.golds) == _REMEMBERED:
            return
        key = exact_key(normalise(parts.problem))
        row, gold = self.golds.setdefault(key, (self.rows, parts.answer))
        if not (same_answer(gold, parts.answer) or exact_key(gold) == exact_key(parts.answer)):
            pair = f"row {row}: {gold:.30}, row {self.rows}: {parts.answer:.30}"
            self.doubts.setdefault("rows repeat a problem with another answer", []).append(pair)


def try_reading(source: TableSource, rows: Iterator[Row] | Sequence[Row]) -> Trial:
    """Read rows as `source` says; every row that curation would refuse is counted."""
    trial, keys = Trial(source), set[str]()
    try:
        adapter = find_adapter("peek", source)
    except HapoError as error:
        trial.faults[error.what] += 1
        return trial
    for row in rows:
        trial.rows += 1
        try:
            if trial.rows == 1 or adapter.strict:
                check_columns(row, adapter, ".jsonl", first=trial.rows == 1)
            parts = adapter.read(row)
        except RowFault as fault:
            trial.faults[fault.reason] += 1
            continue
        except HapoError as error:
            trial.faults[error.what.partition("; it has")[0]] += 1
            if trial.rows == 1 and not adapter.strict:  # curation stops at it
                trial.rows += sum(1 for _ in rows) if isinstance(rows, Iterator) else len(rows) - 1
                return trial
            continue
        found = row_fault(Record(parts, trial.rows, ""), strict=True)
        if found is None and parts.key is not None and not parts.lenient_key:
            found = ("duplicate id", "") if parts.key in keys else None
            keys.add(parts.key)
        if found is not None:
            trial.faults[found[0]] += 1
            continue
        trial.accepted += 1
        trial.doubt(parts)
        trial.traces += len(parts.traces)
        trial.mended += bool(parts.tolerated)
        ends = [extract_answer(t.text).answer for t in parts.traces]
        trial.boxed += sum(end is not None for end in ends)
        trial.right += sum(same_answer(end, parts.answer) for end in ends)
    return trial


def same_answer(one: str | None, other: str) -> bool:
    if one is None:
        return False
    numbers = plain_number(one), plain_number(other)
    if all(numbers):
        return numbers[0] == numbers[1]
    return "".join(one.split()) == "".join(other.split())
