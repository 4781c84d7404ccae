"""How large rows of Arrow are as Python objects, without making these objects."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def unfolded(part: pa.RecordBatch | pa.Array) -> int:
    """Bytes of all texts in it, and one for every other value, as Python objects would hold them:
    an entry of a dictionary counts each time that it is named."""
    if isinstance(part, pa.RecordBatch):
        return sum(unfolded(column) for column in part.columns)
    kind = part.type
    if pa.types.is_dictionary(kind):
        lengths = _lengths(part.dictionary)
        return len(part) if lengths is None else _total(lengths.take(part.indices))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(part) + unfolded(part.flatten())
    if pa.types.is_map(kind):
        whole = part.offsets
        start, end = whole[0].as_py(), whole[-1].as_py()
        return sum(unfolded(side.slice(start, end - start)) for side in (part.keys, part.items))
    if pa.types.is_struct(kind):
        return len(part) + sum(unfolded(column) for column in part.flatten())
    lengths = _lengths(part)
    return len(part) if lengths is None else _total(lengths)


def _lengths(texts: pa.Array) -> pa.Array | None:
    kind = texts.type
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    if any(is_one(kind) for is_one in (*known, pa.types.is_large_binary)):
        return pc.binary_length(texts).cast(pa.int64())
    return None


def _total(lengths: pa.Array) -> int:
    return len(lengths) + (pc.sum(lengths).as_py() or 0)
