"""Table sources: a local file or folder, or a hub dataset, through an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from hapo_core.errors import ConfigError, DataError
from pipeline.artifacts import sha256_file
from pipeline.config import TableSource
from pipeline.config.nearest import did_you_mean
from pipeline.curate.sources.adapters import ADAPTERS, Adapter, Reader
from pipeline.curate.sources.files import LocatedRow, data_files, expand, file_rows, row_count
from pipeline.curate.sources.generic import generic_adapter, loose_traces
from pipeline.curate.sources.hub import HubRows
from pipeline.curate.sources.marks import Mark, parse_mark
from pipeline.curate.sources.record import (
    Faulty,
    LooseTraces,
    Opened,
    Parts,
    Record,
    Row,
    RowFault,
)


def find_adapter(name: str, source: TableSource) -> Adapter:
    """The adapter of a source.

    Raises:
        ConfigError: there is none of that name, or `columns` beside a fixed adapter.
    """
    where = f"source {name!r}"
    mark = parse_mark(source.mark or "box", f"{where}: mark")
    if source.adapter == "generic":
        return generic_adapter(source.columns, where, mark, source.strict is not False)
    if source.adapter not in ADAPTERS:
        hint = did_you_mean(source.adapter, [*ADAPTERS, "generic"])
        raise ConfigError(
            f"there is no adapter {source.adapter!r}{hint}",
            where=where,
            remedy="known: generic, " + ", ".join(ADAPTERS),
        )
    if source.columns:
        raise ConfigError(
            f"`columns` belongs to the generic adapter, not to {source.adapter!r}",
            where=where,
            remedy="leave `columns` out, or set adapter: generic",
        )
    adapter = ADAPTERS[source.adapter]
    if source.mark is not None:
        adapter = replace(adapter, read=_remarked(adapter.read, mark))
    return adapter if source.strict is None else replace(adapter, strict=source.strict)


def _remarked(read: Reader, mark: Mark) -> Reader:
    """A reader whose traces end in a box, whatever their own mark is."""

    def remarked(row: Row) -> Parts:
        parts = read(row)
        traces = tuple(replace(t, text=mark.boxed(t.text)) for t in parts.traces)
        return replace(parts, traces=traces)

    return remarked


def open_table(name: str, source: TableSource) -> Opened:
    """Open a table source; see `pipeline.curate.sources.open_source`."""
    adapter = find_adapter(name, source)
    rows, facts, total = open_rows(source)
    facts = {"kind": "table", "adapter": source.adapter, "limit": source.limit, **facts}
    if source.limit is not None:
        rows = islice(rows, source.limit)
        total = min(total, source.limit) if total is not None else None
    traces: LooseTraces | None = None
    if source.traces_path is not None:
        has_ids = "id" in (source.columns or {"id": "id"})
        if not has_ids and "problem_id" in source.traces_columns:
            raise ConfigError(
                "traces of their own are joined by id, but `columns` names no id",
                where=f"source {name!r}",
                remedy="add `id` to `columns`, or join by text: traces_columns: {problem: COLUMN}",
            )
        traces_source = source.model_copy(update={"path": source.traces_path, "hub": None})
        trace_rows, trace_facts, _ = open_rows(traces_source)
        facts["traces_from"] = trace_facts
        where, mark = f"source {name!r}", parse_mark(source.mark or "box", f"source {name!r}: mark")
        traces = loose_traces(trace_rows, source.traces_columns, where, mark, has_ids)
    return Opened(_records(rows, adapter), adapter.strict, False, facts, total, traces)


def open_rows(source: TableSource) -> tuple[Iterator[LocatedRow], dict[str, object], int | None]:
    """The raw rows of a table source, facts about where they come from, and perhaps their number.

    A local path wins; without it (or where it does not exist) the hub is asked.
    """
    path = expand(source.path) if source.path is not None else None
    if path is not None and (path.exists() or source.hub is None):
        files = data_files(path)
        facts: dict[str, object] = {
            "path": source.path,
            "files": {
                p.relative_to(path).as_posix() if p != path else p.name: sha256_file(p)
                for p in files
            },
        }
        counts = [row_count(p) for p in files if p.stat().st_size]
        total = None if None in counts else sum(c or 0 for c in counts)
        return (row for p in files for row in file_rows(p)), facts, total
    hub = HubRows(source)
    facts = {"hub": source.hub, "revision": hub.commit, "config": source.config}
    return hub.rows(), {**facts, "split": source.split}, None


def _records(rows: Iterator[LocatedRow], adapter: Adapter) -> Iterator[Record | Faulty]:
    missing = set(adapter.somewhere)
    number, where = 0, ""
    for number, (row, where, first) in enumerate(rows, start=1):
        if first or adapter.strict:
            check_columns(row, adapter, where, first)
        if missing:
            missing -= row.keys()
        try:
            yield Record(adapter.read(row), number, where)
        except RowFault as fault:
            yield Faulty(fault, number, where, repr(dict(row))[:300])
    if missing and number:
        raise no_column(sorted(missing), row, where, f"none of the {number} rows has")


def check_columns(row: Row, adapter: Adapter, where: str, first: bool) -> None:
    """One column of every needed group must be there."""
    lines = ".jsonl" in where
    groups = [*adapter.columns, *(() if lines else ((c,) for c in adapter.somewhere))]
    for group in groups:
        if not any(name in row for name in group):
            raise no_column(
                group, row, where, f"the {'file' if first and not lines else 'row'} has"
            )


def no_column(group: Sequence[str], row: Row, where: str, who: str) -> DataError:
    """The error for a column that is not there, with the nearest that is."""
    what = " or ".join(repr(name) for name in group)
    names = sorted(map(str, row))
    hint = did_you_mean(group[0], names)
    return DataError(
        f"{who} no column {what}; it has {', '.join(names)}{hint}",
        where=where,
        remedy="choose the adapter that fits (--adapter, `hapo data adapters`), or name columns: "
        "--columns problem=COLUMN,answer=COLUMN, in params.yaml adapter: generic and `columns` "
        "(`hapo data peek` proposes both); files of one folder have the same columns",
    )
