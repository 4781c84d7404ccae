"""Cells of parquet as those of JSON: a map is an object, text written as binary is text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from hapo_core.errors import DataError
from pipeline.curate.sources.header import repeated
from pipeline.curate.sources.record import Row

_Cell = Callable[[object], object]


class _Twice(Exception):
    """A map has a key twice; an object would keep the last in silence."""


def plain_rows(schema: pa.Schema) -> Callable[[Row, str], Row]:
    """What makes a row of this schema (`to_pylist`, and where it stands) one of plain cells.

    Arrow gives a map as a list of pairs, in which readers of lists would take keys for items, and
    binary as bytes, which are a sequence of integers. Spark, Hive and Impala write text as binary.
    Bytes that are no UTF-8 stay bytes.
    """
    cells = {field.name: cell for field in schema if (cell := _cell(field.type)) is not None}

    def plain(row: Row, where: str) -> Row:
        try:
            return {**row, **{name: cell(row[name]) for name, cell in cells.items()}}
        except _Twice as twice:
            raise DataError(
                f"a map has the key {twice} twice",
                where=where,
                remedy="every key may stand once in a map; rename or remove one",
            ) from twice

    return plain if cells else lambda row, where: row


def _cell(kind: pa.DataType) -> _Cell | None:
    """What makes a cell of this type plain; None where it is already."""
    if pa.types.is_dictionary(kind):
        return _cell(kind.value_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _text
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return _shortest(np.float32 if pa.types.is_float32(kind) else np.float16)
    if pa.types.is_map(kind):
        return _object(_cell(kind.key_type) or _same, _cell(kind.item_type) or _same)
    if pa.types.is_struct(kind):
        return _fields({f.name: cell for f in kind if (cell := _cell(f.type)) is not None})
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = _cell(kind.value_type)
        return None if item is None else _items(item)
    return None


def _same(value: object) -> object:
    return value


def _shortest(kind: type[np.float32] | type[np.float16]) -> _Cell:
    """Numbers as they were written: .1 in 32 bits is no .10000000149011612."""
    return lambda value: float(str(kind(value))) if isinstance(value, float) else value


def _text(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _object(key: _Cell, item: _Cell) -> _Cell:
    def cell(value: object) -> object:
        if not isinstance(value, list):
            return value
        found = {key(k): item(v) for k, v in value}
        if len(found) < len(value):
            raise _Twice(repr(repeated(key(k) for k, _ in value)[0])[:80])
        return found

    return cell


def _items(item: _Cell) -> _Cell:
    return lambda value: [item(v) for v in value] if isinstance(value, list) else value


def _fields(cells: dict[str, _Cell]) -> _Cell | None:
    def cell(value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {**value, **{name: change(value[name]) for name, change in cells.items()}}

    return cell if cells else None
