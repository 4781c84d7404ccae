"""Traces on disk while the problems are judged: Arrow streams, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import pyarrow as pa

RAW = pa.schema(
    [
        pa.field("index", pa.int64()),  # of the row read (Candidate.index)
        pa.field("text", pa.string()),
        pa.field("cut", pa.bool_()),
        pa.field("label", pa.bool_()),
    ]
)
BATCH_BYTES = 4 * 1024 * 1024
BATCH_ROWS = 1024


class Spool:
    """Append rows, then read them back in the same order, batch by batch."""

    def __init__(self, path: Path, schema: pa.Schema = RAW) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.schema, self.rows = path, schema, 0
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self._pending: list[Mapping[str, object]] = []
        self._bytes = 0

    def add(self, row: Mapping[str, object], size: int) -> None:
        """Append one row of about `size` bytes."""
        self._pending.append(row)
        self._bytes += size
        self.rows += 1
        if self._bytes >= BATCH_BYTES or len(self._pending) >= BATCH_ROWS:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Append a whole batch as it is."""
        self._flush()
        self.rows += batch.num_rows
        self._writer.write_batch(batch)

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._pending, self.schema))
        self._pending, self._bytes = [], 0

    def close(self) -> None:
        """Finish the file; `batches` may be called from now on."""
        self._flush()
        self._writer.close()
        self._sink.close()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, a batch at a time."""
        with pa.OSFile(str(self.path), "rb") as source, pa.ipc.open_stream(source) as reader:
            yield from reader

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
