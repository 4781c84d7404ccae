"""`hapo data peek`: what every adapter makes of a source, and the YAML that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from hapo_core.errors import HapoError
from pipeline.config import TableSource
from pipeline.curate.join import Joined, propose_join
from pipeline.curate.propose import propose
from pipeline.curate.source_yaml import as_yaml
from pipeline.curate.sources.files import expand
from pipeline.curate.sources.generic import FIELDS
from pipeline.curate.sources.record import Row, RowFault
from pipeline.curate.sources.table import find_adapter, open_rows
from pipeline.curate.trial import Trial

_OF_HUB = 20_000
"""Rows of a hub dataset that a proposal is checked on."""


def proposal_lines(
    name: str, source: TableSource, sample: Sequence[Row], traces: str | None, shown: int
) -> Iterator[str]:
    """Every adapter with the rows that it accepts, the best one on all rows, and its YAML.

    Args:
        traces: a file with a trace a row, of the problems in `source`; default: the one it names.
        shown: rows to print as they are read.

    Raises:
        HapoError: the source or the traces cannot be read.
    """

    def again() -> Iterator[Row]:
        rows, _, _ = open_rows(source)
        local = source.path is not None and expand(source.path).exists()
        return (row for row, _, _ in (rows if local else islice(rows, _OF_HUB)))

    if not sample:
        yield "there are no rows"
        return
    traces = traces or source.traces_path
    best, trials = propose(source, sample, again, traces is not None)
    yield "adapters (rows accepted; traces that end in their row's answer; why others are not)"
    for adapter, trial in trials:
        yield f"  {adapter:<16} {trial.line()}"
    if best is None:
        yield "nothing reads these rows. A problem and an answer, or a solution that marks one, are"
        yield "needed as text; name their columns with `columns`: " + ", ".join(FIELDS)
        return
    yield from _read_lines(best, sample, shown)
    joined = None
    if traces is not None:
        joined = _joined(best, again, traces)
        yield f"traces   {joined.line()}"
        best.source = best.source.model_copy(
            update={"traces_path": traces, "traces_columns": joined.columns, "mark": joined.mark}
        )
    yield from _advice(best, joined)
    yield from as_yaml(name, best.source)
    yield "next: hapo data check, with this in params.yaml and the name of the source"


def _joined(best: Trial, again: object, traces: str) -> Joined:
    """Raises: HapoError: no trace finds its problem."""
    assert callable(again)
    rows, _, _ = open_rows(TableSource(kind="table", path=traces))
    loose = [row for row, _, _ in rows]
    if best.source.adapter != "generic":
        raise HapoError(
            "traces of their own need the generic adapter, but these problems are read by "
            f"{best.source.adapter!r}",
            where=traces,
            remedy="give the problems plain columns: problem, answer, id",
        )
    joined = propose_join(best, again(), loose)
    if joined is None:
        raise HapoError(
            "no trace finds its problem, by id or by its text; the rows have "
            + ", ".join(dict.fromkeys(str(name) for row in loose for name in row)),
            where=traces,
            remedy="the traces need a column with the problem's id, or with its text, and one "
            "with the solution as text",
        )
    return joined


def _read_lines(best: Trial, sample: Sequence[Row], shown: int) -> Iterator[str]:
    adapter, left = find_adapter("peek", best.source), shown
    yield f"best     {best.source.adapter}: {best.line()}"
    for row in sample:
        if not left:
            return
        try:
            parts = adapter.read(row)
        except RowFault:
            continue
        left -= 1
        yield f"read     problem: {short(parts.problem)}"
        yield f"         answer:  {short(parts.answer)}"
        yield from (f"         trace:   …{short(t.text[-80:])}" for t in parts.traces[:2])


def _advice(best: Trial, joined: Joined | None) -> Iterator[str]:
    """What the YAML below will not do by itself."""
    traces, right = best.traces, best.right
    for what, rows in best.doubts.items():
        yield f"WARNING {len(rows)} {what}; curate drops them: {'; '.join(rows[:3])}"
    if joined is not None:
        if joined.empty:
            rows = list(map(str, joined.empty[:12]))
            yield f"WARNING curate refuses traces without text: remove rows {', '.join(rows)}"
        if joined.bare:
            yield f"WARNING {len(joined.bare)} traces mark no answer (the first in row "
            yield f"        {joined.bare[0]}): mark: last_number takes their last number for it"
        traces, right = joined.traces, joined.right
        if joined.found < joined.traces:
            yield "WARNING curate refuses traces without a problem: remove them, or add it"
    if traces and 2 * right < traces:
        yield f"WARNING {traces - right} of {traces} traces do not end in their answer; is there"
        yield "        another mark? mark: box | '####' | last_number | a pattern with one group"
    if not traces:
        yield "no traces: the methods that learn from a teacher need some"


def short(value: object, width: int = 100) -> str:
    """A cell on one line."""
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= width else f"{line[:width]}… ({len(text):,} characters)"
