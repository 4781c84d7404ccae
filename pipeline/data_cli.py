"""`hapo data`: look at a source before anyone waits for a long run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import TableSource
    from pipeline.sources.adapters import Adapter

WIDTH = 100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hapo data peek|adapters`."""
    parser = subparsers.add_parser("data", help="look at data sources")
    actions = parser.add_subparsers(dest="action", required=True)
    peek = actions.add_parser("peek", help="columns, lengths and a few rows of a source")
    peek.add_argument(
        "source", help="a source or benchmark of params.yaml, a file or folder, or a hub dataset"
    )
    peek.add_argument("--adapter", help="read the rows through this adapter")
    peek.add_argument("--rows", type=int, default=2, help="rows to print (default 2)")
    peek.add_argument("--sample", type=int, default=1000, help="rows to measure (default 1000)")
    peek.add_argument("--split", default="train", help="of a hub dataset")
    peek.add_argument("--config", help="of a hub dataset")
    peek.add_argument("--revision", help="of a hub dataset")
    peek.set_defaults(command=lambda o: print("\n".join(peek_lines(o))))
    listing = actions.add_parser("adapters", help="which column is what, for every known data set")
    listing.set_defaults(command=lambda o: print("\n".join(adapter_lines())))


def adapter_lines() -> Iterator[str]:
    """One line an adapter."""
    from pipeline.sources.adapters import ADAPTERS

    width = max(map(len, ADAPTERS))
    for name, adapter in ADAPTERS.items():
        columns = ", ".join("|".join(group) for group in adapter.columns)
        yield f"{name:<{width}}  {adapter.about}\n{'':<{width}}  columns: {columns}"
    yield f"{'generic':<{width}}  your own file: name its columns in `columns` (docs/data.md)"


def peek_lines(options: argparse.Namespace) -> Iterator[str]:
    """What `hapo data peek` prints.

    Raises:
        HapoError: the source cannot be found or read.
    """
    from pipeline.sources.table import find_adapter, open_rows

    source = _source(options)
    if isinstance(source, str):
        yield source
        return
    rows, facts, total = open_rows(source)
    sample = [row for row, _, _ in islice(rows, max(options.sample, options.rows))]
    yield f"source   {_facts_line(facts)}"
    measured = f"the first {len(sample):,}" if total is None or total > len(sample) else "all"
    yield f"rows     {f'{total:,}' if total is not None else 'unknown'}; measured: {measured}"
    yield from _column_lines(sample)
    for number, row in enumerate(sample[: options.rows], start=1):
        yield f"row {number}"
        yield from (f"  {name}: {_short(value)}" for name, value in row.items())
    fitting = _fitting(sample[0]) if sample else []
    yield f"adapters that fit these columns: {', '.join(fitting) or 'none but generic'}"
    if options.adapter or source.adapter != "generic" or source.columns:
        yield from _adapted_lines(find_adapter(options.source, source), sample, options.rows)


def _source(options: argparse.Namespace) -> TableSource | str:
    """The table source that the argument means; text for a generated one."""
    from pipeline.config import (
        PARAMS,
        ChainsSource,
        GymSource,
        PresetSource,
        TableSource,
        load_params,
    )
    from pipeline.sources.files import expand

    name = options.source
    if PARAMS.is_file():
        curate = load_params().curate
        found = {**curate.benchmarks, **curate.sources}.get(name)
        if isinstance(found, ChainsSource | GymSource):
            return f"{name} is generated: {found.model_dump_json()}"
        if isinstance(found, PresetSource):
            found = found.table()
        if found is not None:
            update = {"adapter": options.adapter, "columns": {}} if options.adapter else {}
            return found.model_copy(update=update)
    adapter = options.adapter or "generic"
    if expand(name).exists():
        return TableSource(kind="table", path=name, adapter=adapter)
    if name.count("/") == 1 and not Path(name).suffix:
        return TableSource(
            kind="table",
            hub=name,
            adapter=adapter,
            split=options.split,
            config=options.config,
            revision=options.revision,
        )
    raise ConfigError(
        f"{name!r} is no source of params.yaml, no file, and no hub dataset (owner/name)",
        remedy="give one of these; `hapo data adapters` lists known data sets",
    )


def _facts_line(facts: Mapping[str, object]) -> str:
    files = facts.get("files")
    shown = {k: v for k, v in facts.items() if k != "files" and v is not None}
    line = ", ".join(f"{k} {v}" for k, v in shown.items())
    return f"{line} ({len(files)} files)" if isinstance(files, dict) and len(files) > 1 else line


def _column_lines(sample: list[Mapping[str, object]]) -> Iterator[str]:
    """Every column with its types, empty cells, and lengths."""
    names: dict[str, None] = {}
    for row in sample:
        names.update(dict.fromkeys(row))
    yield "columns  (length: characters of text, items of a list; least / median / most)"
    for name in names:
        cells = [row.get(name) for row in sample]
        kinds = sorted({type(c).__name__ for c in cells if c is not None})
        empty = sum(c is None or c == "" for c in cells)
        lengths = [len(c) for c in cells if isinstance(c, str | list | dict)]
        size = f"{min(lengths)} / {median(lengths):g} / {max(lengths)}" if lengths else ""
        note = f"  {empty} empty" if empty else ""
        yield f"  {name:<24} {'|'.join(kinds) or 'empty':<10} {size}{note}"


def _adapted_lines(
    adapter: Adapter, sample: list[Mapping[str, object]], shown: int
) -> Iterator[str]:
    """What the adapter makes of the sample."""
    from pipeline.sources.record import RowFault
    from pipeline.sources.table import check_columns

    if sample:
        check_columns(sample[0], adapter, "row 1", first=True)
    good, faults, traces = 0, dict[str, int](), 0
    for row in sample:
        try:
            parts = adapter.read(row)
        except RowFault as fault:
            faults[fault.reason] = faults.get(fault.reason, 0) + 1
            continue
        good, traces = good + 1, traces + len(parts.traces)
        if good <= shown:
            yield f"read     problem: {_short(parts.problem)}"
            yield f"         answer:  {_short(parts.answer)}"
            yield from (f"         trace:   {_short(t.text)}" for t in parts.traces[:2])
    unread = "".join(f", {n} with {reason}" for reason, n in sorted(faults.items()))
    yield f"read     {good} of {len(sample)} rows, {traces} traces{unread}"


def _fitting(row: Mapping[str, object]) -> list[str]:
    from pipeline.sources.adapters import ADAPTERS

    return [
        name
        for name, adapter in ADAPTERS.items()
        if all(any(column in row for column in group) for group in adapter.columns)
    ]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text.split())
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= WIDTH else f"{line[:WIDTH]}… ({len(text):,} characters)"
