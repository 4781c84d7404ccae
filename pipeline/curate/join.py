"""How traces in a file of their own find their problems, for `hapo data peek`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hapo_core.verify import extract_answer
from pipeline.curate.columns import MARKS, columns_of, median_length, named
from pipeline.curate.sources.cells import key_text
from pipeline.curate.sources.marks import LAST_NUMBER, parse_mark
from pipeline.curate.sources.record import Row, RowFault
from pipeline.curate.sources.table import find_adapter
from pipeline.curate.text import exact_key, normalise
from pipeline.curate.trial import Trial, same_answer


@dataclass(frozen=True)
class Joined:
    """How traces of another file join: their columns, and how many found their problem.

    `empty` rows have no text, `bare` traces mark no answer: their last number is taken.
    """

    columns: dict[str, str]
    mark: str | None
    traces: int
    found: int
    right: int
    first_without: str = ""
    empty: tuple[int, ...] = ()
    bare: tuple[int, ...] = ()

    def line(self) -> str:
        """One line of `hapo data peek`."""
        by = "id" if "problem_id" in self.columns else "the problem's text"
        without = f"; the first without one: {self.first_without}" if self.first_without else ""
        return (
            f"{self.found} of {self.traces} traces find their problem by {by}, "
            f"{self.right} end in its answer{without}"
        )


def propose_join(best: Trial, rows: Iterable[Row], traces: Sequence[Row]) -> Joined | None:
    """How a table of traces joins the problems; None where it has no text or key for it."""
    by_id, by_text = dict[str, str](), dict[bytes, str]()
    adapter = find_adapter("peek", best.source)
    for row in rows:
        try:
            parts = adapter.read(row)
        except RowFault:
            continue
        by_text[exact_key(normalise(parts.problem))] = parts.answer
        if parts.key is not None:
            by_id[parts.key] = parts.answer
    texts = [c for c in named(traces, "trace") if median_length(traces, c) > 0]
    found: list[Joined] = []
    for text in texts:
        for key in columns_of(traces):
            if key == text:
                continue
            for mark in MARKS:
                found.append(_join(traces, text, key, "problem_id", by_id.get, mark))
                at_text = _join(
                    traces, text, key, "problem",
                    lambda cell: by_text.get(exact_key(normalise(cell))), mark,
                )  # fmt: skip
                found.append(at_text)
    best_join = max(found, key=lambda j: (j.found, j.right), default=None)
    if best_join is None or not best_join.found:
        return None
    empty, bare = _lacking(traces, best_join)
    return replace(best_join, empty=empty, bare=bare)


def _lacking(rows: Sequence[Row], best: Joined) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of rows without text, and of those without a mark where the last number is it."""
    marks = [parse_mark(mark or "box", "peek") for mark in MARKS if mark != LAST_NUMBER]
    empty, bare = list[int](), list[int]()
    for number, row in enumerate(rows, start=1):
        cell = row.get(best.columns["trace"])
        texts = list(cell) if isinstance(cell, list) else [cell]
        if not any(isinstance(text, str) and text.strip() for text in texts):
            empty.append(number)
        elif not any(mark.find(str(text)) for mark in marks for text in texts):
            bare.append(number)
    return tuple(empty), tuple(bare) if best.mark == LAST_NUMBER else ()


def _join(
    rows: Sequence[Row], text: str, key: str, field_: str,
    gold_of: Callable[[str], str | None], mark: str | None,
) -> Joined:  # fmt: skip
    found = right = 0
    first = ""
    finder = parse_mark(mark or "box", "peek")
    for number, row in enumerate(rows, start=1):
        try:
            cell = key_text(row.get(key)) or ""
        except RowFault:
            cell = ""
        gold = gold_of(cell) if cell else None
        if gold is None:
            first = first or f"row {number}, {cell[:40]!r}"
            continue
        found += 1
        right += same_answer(extract_answer(finder.boxed(str(row.get(text)))).answer, gold)
    return Joined({field_: key, "trace": text}, mark, len(rows), found, right, first)
