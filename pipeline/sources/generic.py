"""The generic adapter: anyone's own file, its columns named in the configuration."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hapo_core.errors import ConfigError, DataError
from pipeline.sources.adapters import Adapter, answer_text, key_text, last_answer, text
from pipeline.sources.files import LocatedRow
from pipeline.sources.record import LooseTrace, Parts, RawTrace, Row, RowFault

FIELDS = {
    "problem": "the problem's text (required)",
    "answer": "the reference answer; without it the last box of `trace` is taken",
    "trace": "one solution, or a list of solutions",
    "id": "a row id, unique in the source",
    "cut": "true where the trace stopped at a length limit",
    "label": "the source's own verdict on the trace (compared, not believed)",
    "mark": "how the trace marks its answer: box or ####",
}
TRACE_FIELDS = ("problem_id", "trace", "cut", "label")
DEFAULT = ("problem", "answer", "trace", "id")


def generic_adapter(columns: Mapping[str, str], where: str) -> Adapter:
    """An adapter from our field names to the file's columns.

    Args:
        columns: our field -> their column; empty means that the columns have our names.

    Raises:
        ConfigError: a field that there is not.
    """
    _check_fields(columns, tuple(FIELDS), "columns", where)
    named = dict(columns) if columns else {name: name for name in DEFAULT}
    if "problem" not in named:
        raise ConfigError("`columns` does not say which column is `problem`", where=where)
    needed: list[tuple[str, ...]] = [(c,) for f, c in named.items() if columns or f == "problem"]
    if not columns:
        needed.append(("answer", "trace"))

    def read(row: Row) -> Parts:
        return _read(row, named)

    return Adapter("a generic mapping", tuple(needed), read, strict=True)


def _check_fields(
    columns: Mapping[str, str], known: Sequence[str], option: str, where: str
) -> None:
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"`{option}` names the unknown field {name!r}{hint}",
                where=where,
                remedy="fields: " + ", ".join(known),
            )


def loose_traces(
    rows: Iterable[LocatedRow], columns: Mapping[str, str], where: str
) -> Iterator[LooseTrace]:
    """Traces from a table of their own.

    Raises:
        ConfigError: `traces_columns` names a field that there is not.
        DataError: a row without its problem's id or without text.
    """
    _check_fields(columns, TRACE_FIELDS, "traces_columns", where)
    named = {name: columns.get(name, name) for name in TRACE_FIELDS}
    for row, place, _ in rows:
        for name in ("problem_id", "trace"):
            if named[name] not in row:
                raise DataError(
                    f"no column {named[name]!r}; the row has {', '.join(sorted(map(str, row)))}",
                    where=place,
                    remedy="name the columns in `traces_columns`",
                )
        try:
            key = key_text(row[named["problem_id"]])
            traces = _traces(
                row[named["trace"]],
                row.get(named["cut"]),
                row.get(named["label"]),
                named["trace"],
            )
        except RowFault as fault:
            raise DataError(str(fault), where=place, remedy="mend or remove the row") from fault
        if key is None or not traces:
            missing = "without its problem's id" if key is None else "without text"
            raise DataError(f"trace {missing}", where=place, remedy="mend or remove the row")
        for trace in traces:
            yield LooseTrace(key, trace, place)


def _read(row: Row, named: Mapping[str, str]) -> Parts:
    def cell(name: str) -> object:
        return row.get(named[name]) if name in named else None

    mark = str(cell("mark") or "box")
    if mark not in ("box", "####"):
        raise RowFault("the mark is neither box nor ####", repr(mark))
    problem = text(row, named["problem"])
    traces = _traces(cell("trace"), cell("cut"), cell("label"), named.get("trace", "trace"))
    answer = answer_text(cell("answer"), named.get("answer", "answer"))
    if not answer and "answer" not in named and traces:
        answer = last_answer(traces[0].text, mark)
    return Parts(problem, answer, traces, key_text(cell("id")), lenient_key=False, mark=mark)


def _traces(value: object, cut: object, label: object, name: str) -> tuple[RawTrace, ...]:
    if value is None or value == "":
        return ()
    many = isinstance(value, Sequence) and not isinstance(value, str)
    texts = list(value) if many and isinstance(value, Sequence) else [value]
    cuts, labels = _beside(cut, len(texts), "cut"), _beside(label, len(texts), "label")
    traces = []
    for trace, is_cut, is_right in zip(texts, cuts, labels, strict=True):
        if not isinstance(trace, str):
            raise RowFault(f"column {name!r} holds a trace that is no text", f"{trace!r:.80}")
        traces.append(RawTrace(trace, bool(is_cut), is_right))
    return tuple(traces)


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _beside(value: object, count: int, name: str) -> list[bool | None]:
    """Flags beside the traces: one for all, or a list of the same length."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise RowFault(f"{name!r} has another length than the traces", f"{len(values)}, {count}")
    flags: list[bool | None] = []
    for item in values:
        if item is None or item == "":
            flags.append(None)
        elif str(item).casefold() in _TRUTH:
            flags.append(_TRUTH[str(item).casefold()])
        else:
            raise RowFault(f"{name!r} is neither true nor false", repr(item))
    return flags
