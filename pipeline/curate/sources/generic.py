"""The generic adapter: anyone's own file, its columns named in the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from hapo_core.errors import ConfigError, DataError
from pipeline.config.nearest import did_you_mean
from pipeline.curate.sources.adapters import Adapter
from pipeline.curate.sources.cells import answer_text, is_list, key_text, text
from pipeline.curate.sources.files import LocatedRow
from pipeline.curate.sources.marks import Mark, parse_mark
from pipeline.curate.sources.record import LooseTrace, Parts, RawTrace, Row, RowFault

FIELDS = {
    "problem": "the problem's text (required)",
    "answer": "the reference answer; without it the marked answer of `trace` is taken",
    "trace": "one solution, or a list of solutions",
    "id": "a row id, unique in the source",
    "cut": "true where the trace stopped at a length limit",
    "label": "the source's own verdict on the trace (compared, not believed)",
    "mark": "how this row's trace marks its answer, where rows differ (else: the source's mark)",
}
TRACE_FIELDS = ("problem_id", "problem", "trace", "cut", "label")
_ALWAYS = ("problem", "answer")
"""Fields that no row may leave out, where `columns` names them."""
DEFAULT = ("problem", "answer", "trace", "id")


def generic_adapter(
    columns: Mapping[str, str], where: str, mark: Mark, strict: bool = True
) -> Adapter:
    """An adapter from our field names to the file's columns.

    Args:
        columns: our field -> their column; empty means that the columns have our names.
        mark: how traces mark their answers.
        strict: a row without what it needs is an error.

    Raises:
        ConfigError: a field that there is not.
    """
    _check_fields(columns, tuple(FIELDS), "columns", where)
    named = dict(columns) if columns else {name: name for name in DEFAULT}
    if "problem" not in named:
        raise ConfigError(
            "`columns` does not say which column is `problem`",
            where=where,
            remedy="columns: {problem: THEIR_COLUMN, answer: ...}; `hapo data peek` proposes them",
        )
    needed: list[tuple[str, ...]] = [(named[f],) for f in _ALWAYS if f in named and columns]
    if not columns:
        needed += [("problem",), ("answer", "trace")]
    elif "answer" not in named and "trace" in named:
        needed.append((named["trace"],))
    somewhere = tuple(c for c in named.values() if columns and (c,) not in needed)

    def read(row: Row) -> Parts:
        return _read(row, named, mark, where)

    return Adapter("a generic mapping", tuple(needed), read, strict, somewhere)


def _check_fields(
    columns: Mapping[str, str], known: Sequence[str], option: str, where: str
) -> None:
    for name in columns:
        if name not in known:
            raise ConfigError(
                f"`{option}` names the unknown field {name!r}{did_you_mean(name, known)}",
                where=where,
                remedy="fields: " + ", ".join(known),
            )


def loose_traces(
    rows: Iterable[LocatedRow], columns: Mapping[str, str], where: str, mark: Mark, has_ids: bool
) -> Iterator[LooseTrace]:
    """Traces from a table of their own, each with its problem's id or the problem's text.

    Args:
        columns: `traces_columns`; `problem` in it joins by text even where there are ids.
        has_ids: whether the problems have ids of their own.

    Raises:
        ConfigError: `traces_columns` names a field that there is not.
        DataError: a row without its problem or without text.
    """
    _check_fields(columns, TRACE_FIELDS, "traces_columns", where)
    named = {name: columns.get(name, name) for name in TRACE_FIELDS}
    by_text = not has_ids or ("problem" in columns and "problem_id" not in columns)
    for row, place, _ in rows:
        key_column = named["problem" if by_text or named["problem_id"] not in row else "problem_id"]
        for name in (named["trace"], key_column):
            if name not in row:
                raise _no_column(name, named, row, place)
        try:
            joined_by_text = key_column == named["problem"]
            key = text(row, key_column) if joined_by_text else key_text(row[key_column])
            value, cut, label = (row.get(named[n]) for n in ("trace", "cut", "label"))
            traces = _traces(value, cut, label, named["trace"], mark)
        except RowFault as fault:
            raise DataError(str(fault), where=place, remedy="mend or remove the row") from fault
        if not key or not traces:
            missing = "without its problem" if not key else "without text"
            raise DataError(f"trace {missing}", where=place, remedy="mend or remove the row")
        for trace in traces:
            yield LooseTrace(key, trace, place, joined_by_text)


def _no_column(name: str, named: Mapping[str, str], row: Row, place: str) -> DataError:
    wanted = repr(name)
    if name == named["problem"]:
        wanted = f"{named['problem_id']!r} or {named['problem']!r}"
    return DataError(
        f"no column {wanted}; the row has {', '.join(sorted(map(str, row)))}",
        where=place,
        remedy="name the columns in `traces_columns`: trace, and problem_id or problem (its text)",
    )


def _read(row: Row, named: Mapping[str, str], mark: Mark, where: str) -> Parts:
    def cell(name: str) -> object:
        return row.get(named[name]) if name in named else None

    own = text(row, named["mark"]) if "mark" in named else ""
    if own:
        try:
            mark = parse_mark(own, where)
        except ConfigError as error:
            raise RowFault(error.what, remedy=error.remedy) from error
    problem = text(row, named["problem"])
    name = named.get("trace", "trace")
    traces = _traces(cell("trace"), cell("cut"), cell("label"), name, mark)
    answer = answer_text(cell("answer"), named.get("answer", "answer"))
    if not answer and traces and _without_answer(row, named):
        answer = mark.find(str(_texts(cell("trace"))[0]))
        if not answer:
            raise RowFault(
                "no marked answer in the trace",
                f"it ends {traces[0].text[-60:]!r}, the mark is {mark.name!r}",
                "say how traces mark their answers: `mark` of the source (docs/data.md)",
            )
    return Parts(problem, answer, traces, key_text(cell("id")), lenient_key=False)


def _without_answer(row: Row, named: Mapping[str, str]) -> bool:
    """Whether the rows have no answers of their own (an empty cell is a fault of its row)."""
    return "answer" not in named or named["answer"] not in row


def _texts(value: object) -> list[object]:
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return []
    return list(value) if is_list(value) else [value]


def _traces(
    value: object, cut: object, label: object, name: str, mark: Mark
) -> tuple[RawTrace, ...]:
    texts = _texts(value)
    cuts, labels = _beside(cut, len(texts), "cut"), _beside(label, len(texts), "label")
    traces = []
    for trace, is_cut, is_right in zip(texts, cuts, labels, strict=True):
        if not isinstance(trace, str):
            raise RowFault(f"column {name!r} holds a trace that is no text", f"{trace!r:.80}")
        traces.append(RawTrace(mark.boxed(trace), bool(is_cut), is_right))
    return tuple(traces)


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _beside(value: object, count: int, name: str) -> list[bool | None]:
    """Flags beside the traces: one for all, or a list of the same length."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise RowFault(f"{name!r} has another length than the traces", f"{len(values)}, {count}")
    flags: list[bool | None] = []
    for item in values:
        if item is None or item == "" or item != item:  # NaN: an empty cell
            flags.append(None)
        elif truth(item) is not None:
            flags.append(truth(item))
        else:
            raise RowFault(f"{name!r} is neither true nor false", repr(item))
    return flags


def truth(item: object) -> bool | None:
    """A cell that is true or false in one of the usual spellings; None for any other."""
    return _TRUTH.get(str(item).casefold().removesuffix(".0"))
