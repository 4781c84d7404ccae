"""`hapo data`: look at a source before anyone waits for a long run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError
from pipeline.commands.values import count, finite, number

if TYPE_CHECKING:
    from pipeline.config import ChainsSource, GymSource, StoriesSource, TableSource
    from pipeline.curate.sources.adapters import Adapter

WIDTH = 100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hapo data peek|check|adapters`."""
    parser = subparsers.add_parser("data", help="look at data sources")
    actions = parser.add_subparsers(dest="action", required=True)
    peek = actions.add_parser(
        "peek", help="columns and rows of a source, and the YAML that reads it"
    )
    peek.add_argument(
        "source", help="a source or benchmark of params.yaml, a file or folder, or a hub dataset"
    )
    peek.add_argument("--adapter", help="read the rows through this adapter")
    peek.add_argument("--traces", help="a file of traces of its own, to be joined to the problems")
    peek.add_argument("--rows", type=number, default=2, help="rows to print (default 2)")
    peek.add_argument("--sample", type=count, default=1000, help="rows to measure (default 1000)")
    peek.add_argument("--split", default="train", help="of a hub dataset")
    peek.add_argument("--config", help="of a hub dataset")
    peek.add_argument("--revision", help="of a hub dataset")
    peek.set_defaults(command=lambda o: print("\n".join(peek_lines(o))))
    _add_check(actions)
    listing = actions.add_parser("adapters", help="which column is what, for every known data set")
    listing.set_defaults(command=lambda o: print("\n".join(adapter_lines())))


def _add_check(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = actions.add_parser(
        "check", help="put golds, their respellings and mutations, and traces to the verifier"
    )
    add = check.add_argument
    add("source", help="a source or benchmark of params.yaml, a file or folder, or a hub dataset")
    add("--adapter", help="read the rows through this adapter")
    add("--columns", default="", help="of your own file: problem=THEIRS,answer=THEIRS,trace=...")
    add("--mark", help="how traces mark their answer: box, ####, last_number or a pattern")
    add("--reward", help="math, exact, or module:function of your own (default: of params.yaml)")
    add("--sample", type=number, default=1000, help="problems to check (default 1000; 0: all)")
    add("--split", default="train", help="of a hub dataset")
    add("--config", help="of a hub dataset")
    add("--revision", help="of a hub dataset")
    for name, what in _LIMITS.items():
        add(f"--max-{name}", type=finite, metavar="SHARE", help=f"tolerated share of {what}")
    check.set_defaults(command=check_command)


_LIMITS = {
    "rows": "rows that cannot be read (default .05)",
    "golds": "golds that the verifier refuses as an answer to themselves (default .1)",
    "respelled": "respelled golds that it refuses (default .02)",
    "mutated": "mutated golds that it accepts (default .005)",
    "traces": "traces that are not right (default .5)",
}


def check_command(options: argparse.Namespace) -> int:
    """`hapo data check SOURCE`; 1 where a share is over its limit."""
    from pipeline.checks.data import check_source
    from pipeline.curate.check import Limits

    given = {n: getattr(options, f"max_{n}") for n in _LIMITS}
    limits = Limits(**{n: v for n, v in given.items() if v is not None})
    source = _source(options)
    found = check_source(options.source, source, options.reward, options.sample or None, limits)
    for line in found.lines():
        print(line)
    for problem in found.problems:
        print(f"PROBLEM {problem}")
    print(f"{len(found.problems)} problem(s)")
    return 1 if found.problems else 0


def adapter_lines() -> Iterator[str]:
    """One line an adapter."""
    from pipeline.curate.sources.adapters import ADAPTERS

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
    from pipeline.commands.peek import proposal_lines
    from pipeline.config import ChainsSource, GymSource, StoriesSource
    from pipeline.curate.sources.table import find_adapter, open_rows

    source = _source(options)
    if isinstance(source, ChainsSource | StoriesSource | GymSource):
        yield f"{options.source} is generated: {source.model_dump_json()}"
        return
    rows, facts, total = open_rows(source)
    sample = [row for row, _, _ in islice(rows, max(options.sample, options.rows))]
    yield f"source   {_facts_line(facts)}"
    measured = f"the first {len(sample):,}" if total is None or total > len(sample) else "all"
    yield f"rows     {f'{total:,}' if total is not None else 'unknown'}; measured: {measured}"
    yield from _column_lines(sample)
    for at, row in enumerate(sample[: options.rows], start=1):
        yield f"row {at}"
        yield from (f"  {name}: {_short(value)}" for name, value in row.items())
    if options.adapter:
        yield from _adapted_lines(find_adapter(options.source, source), sample, options.rows)
        return
    yield from proposal_lines(options.source, source, sample, options.traces, options.rows)


def _said(options: argparse.Namespace) -> dict[str, object]:
    """What the command line says about how rows are read.

    Raises:
        ConfigError: `--columns` is no list of ours=theirs.
    """
    said: dict[str, object] = {}
    if options.adapter:
        said = {"adapter": options.adapter, "columns": {}}
    pairs = [p.partition("=") for p in getattr(options, "columns", "").split(",") if p.strip()]
    if any(not theirs for _, _, theirs in pairs):
        raise ConfigError(
            f"--columns {options.columns!r} is no list of ours=theirs",
            remedy="--columns problem=question,answer=result",
        )
    if pairs:
        columns = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
        said = {"adapter": "generic", "columns": columns}
    mark = getattr(options, "mark", None)
    return said | ({"mark": mark} if mark else {})


def _source(options: argparse.Namespace) -> TableSource | ChainsSource | StoriesSource | GymSource:
    """The source that the argument means.

    Raises:
        ConfigError: there is none.
    """
    from pipeline.config import (
        PARAMS,
        ChainsSource,
        GymSource,
        PresetSource,
        StoriesSource,
        TableSource,
        load_params,
    )
    from pipeline.curate.sources.files import expand

    name = options.source
    if PARAMS.is_file():
        curate = load_params().curate
        found = {**curate.benchmarks, **curate.sources}.get(name)
        if isinstance(found, PresetSource):
            found = found.table()
        if isinstance(found, ChainsSource | StoriesSource | GymSource):
            return found
        if found is not None:
            return TableSource.model_validate({**found.model_dump(), **_said(options)})
    said = _said(options)
    if expand(name).exists():
        return TableSource.model_validate({"kind": "table", "path": name, **said})
    if name.count("/") == 1 and not Path(name).suffix:
        of_hub = {n: getattr(options, n) for n in ("split", "config", "revision")}
        return TableSource.model_validate({"kind": "table", "hub": name, **of_hub, **said})
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
    from pipeline.curate.sources.record import RowFault
    from pipeline.curate.sources.table import check_columns

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


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    line = " ".join(text.split())
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= WIDTH else f"{line[:WIDTH]}… ({len(text):,} characters)"
