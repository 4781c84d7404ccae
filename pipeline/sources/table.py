"""Table sources: a local file or folder, or a hub dataset, through an adapter."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from itertools import islice

from hapo_core.errors import ConfigError, DataError
from pipeline.config import TableSource
from pipeline.sources import Opened
from pipeline.sources.adapters import ADAPTERS, Adapter
from pipeline.sources.files import LocatedRow, data_files, expand, file_rows, row_count
from pipeline.sources.generic import generic_adapter, loose_traces
from pipeline.sources.hub import HubRows
from pipeline.sources.record import Faulty, LooseTraces, Record, Row, RowFault
from pipeline.store import sha256_file


def find_adapter(name: str, source: TableSource) -> Adapter:
    """The adapter of a source.

    Raises:
        ConfigError: there is none of that name, or `columns` beside a fixed adapter.
    """
    where = f"source {name!r}"
    if source.adapter == "generic":
        return generic_adapter(source.columns, where)
    if source.adapter not in ADAPTERS:
        near = difflib.get_close_matches(source.adapter, [*ADAPTERS, "generic"], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
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
    return ADAPTERS[source.adapter]


def open_table(name: str, source: TableSource) -> Opened:
    """Open a table source; see `pipeline.sources.open_source`."""
    adapter = find_adapter(name, source)
    rows, facts, total = open_rows(source)
    facts = {"kind": "table", "adapter": source.adapter, "limit": source.limit, **facts}
    if source.limit is not None:
        rows = islice(rows, source.limit)
        total = min(total, source.limit) if total is not None else None
    traces: LooseTraces | None = None
    if source.traces_path is not None:
        if "id" not in (source.columns or {"id": "id"}):
            raise ConfigError(
                "traces of their own are joined by id, but `columns` names no id",
                where=f"source {name!r}",
                remedy="add `id` to `columns`",
            )
        traces_source = source.model_copy(update={"path": source.traces_path, "hub": None})
        trace_rows, trace_facts, _ = open_rows(traces_source)
        facts["traces_from"] = trace_facts
        traces = loose_traces(trace_rows, source.traces_columns, f"source {name!r}")
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
    for number, (row, where, first) in enumerate(rows, start=1):
        if first or adapter.strict:
            check_columns(row, adapter, where, first)
        try:
            yield Record(adapter.read(row), number, where)
        except RowFault as fault:
            yield Faulty(fault, number, where, repr(dict(row))[:300])


def check_columns(row: Row, adapter: Adapter, where: str, first: bool) -> None:
    """One column of every needed group must be there."""
    for group in adapter.columns:
        if not any(name in row for name in group):
            what = " or ".join(repr(name) for name in group)
            raise DataError(
                f"the {'file' if first else 'row'} has no column {what}; "
                f"it has {', '.join(sorted(map(str, row)))}",
                where=where,
                remedy="choose the adapter that fits, or name the columns with adapter: generic "
                "and `columns`",
            )
