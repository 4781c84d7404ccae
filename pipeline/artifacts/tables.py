"""Declared schemas of every parquet table, and the only functions that write or read one."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from hapo_core.errors import DataError
from hapo_core.verdicts import VERDICTS
from pipeline.artifacts.files import mend_of

if TYPE_CHECKING:
    import pandas as pd  # takes half a second: a stage that makes no frame must not wait for it

_IDS = pa.list_(pa.int32())


def _schema(**fields: pa.DataType | tuple[pa.DataType, bool]) -> pa.Schema:
    """Fields are required unless given as (type, True)."""
    return pa.schema(
        [
            pa.field(name, *(kind if isinstance(kind, tuple) else (kind, False)))
            for name, kind in fields.items()
        ]
    )


_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()

PROBLEMS = _schema(
    problem_id=_TEXT,
    problem=_TEXT,
    answer=_TEXT,
    source=_TEXT,
    split=_TEXT,  # train | validation
    reward=_TEXT,  # what grades it: math | exact | reasoning_gym | module:function
    prompt_ids=_IDS,  # the whole templated prompt, tokenised once
)
TRACES = _schema(
    trace_id=_TEXT,
    problem_id=_TEXT,
    text=_TEXT,
    token_ids=_IDS,  # ends with EOS
    verdict=_TEXT,
    extracted=(_TEXT, True),
    rank=_INT,  # those of rank 0 are trained on
    usable=_BOOL,  # verified, complete and within the budget
    note=_TEXT,  # why not usable, else empty
)
BENCHMARK = _schema(
    problem_id=_TEXT, problem=_TEXT, answer=_TEXT, source=_TEXT, reward=_TEXT, prompt_ids=_IDS
)
DROPPED = _schema(
    problem_id=_TEXT,  # the id that it had or would have had
    source=_TEXT,
    row=_INT,  # row of the source, from 1
    rule=_TEXT,
    reason=_TEXT,
    detail=_TEXT,
    problem=_TEXT,
)
ROLLOUTS = _schema(
    round=_INT,
    prompt_id=_TEXT,
    sample=_INT,
    kind=_TEXT,  # policy | continuation | teacher
    prefix_tokens=(_INT, True),  # continuations: tokens of the trace in front of token_ids
    token_ids=_IDS,
    logprobs=(pa.list_(pa.float32()), True),  # of the sampler; null on teacher rows
    finish=_TEXT,  # stop | length | teacher
    text=_TEXT,
    verdict=_TEXT,
    extracted=(_TEXT, True),
    reward=(_FLOAT, True),  # null where the verdict is unknown
    replaced=_BOOL,  # a policy row that gave its place to the teacher
    injected=_BOOL,  # the teacher row that took it
    advantage=(_FLOAT, True),  # null on rows that are not trained
)
GROUPS = _schema(
    round=_INT,
    prompt_id=_TEXT,
    successes=_INT,  # S, before any injection
    known=_INT,  # rollouts with a known reward
    size=_INT,  # N
    prior_a=(_FLOAT, True),  # Beta evidence before this group (after forgetting)
    prior_b=(_FLOAT, True),
    posterior_a=(_FLOAT, True),  # and after it
    posterior_b=(_FLOAT, True),
    confidence=(_FLOAT, True),  # c
    gamma=(_FLOAT, True),
    has_trace=_BOOL,  # a verified trace within the response budget
    decision=_TEXT,  # hapo_core.gate.Decision
    dead=_BOOL,  # no row learns from a reward or the teacher (an entropy bonus is no signal)
)
# Further columns of GROUPS where the surprise of traces is measured (METHOD 9).
SURPRISE = _schema(
    trace_id=(_TEXT, True),  # the trace of the visit; null without a usable one
    surprise=(_FLOAT, True),  # of the trace: trimmed mean nats a token
    impossible=(_FLOAT, True),  # share of its tokens with p < .001
    own_surprise=(_FLOAT, True),  # of the own rollouts: mean of their trimmed means
    refused=_BOOL,  # surprise - own_surprise lies above gate.max_surprise
)
DIFFICULTY = _schema(
    problem_id=_TEXT,
    samples=_INT,  # responses of the starting policy
    known=_INT,  # of these, with a known reward
    successes=_INT,
    kept=_BOOL,  # the success rate lies in the band
)
POSTERIORS = _schema(prompt_id=_TEXT, a=_FLOAT, b=_FLOAT, visits=_INT, last_round=_INT)
# Metrics of the update (hapo_core.metrics) that have no field here follow as further columns.
ROUNDS = _schema(
    round=_INT,
    segment=_TEXT,
    method=_TEXT,
    phase=_TEXT,  # rl | sft
    prompts=_INT,
    rollouts=_INT,
    success_rate=(_FLOAT, True),  # on-policy, before injection; null without rollouts
    solved_groups=_INT,  # groups with S = N
    failed_groups=_INT,  # groups with S = 0
    injected_groups=_INT,
    dead_groups=_INT,  # dead after the gate had its say
    no_trace_groups=_INT,  # gate open, but no usable trace
    gamma=(_FLOAT, True),
    mean_response_tokens=(_FLOAT, True),
    generated_tokens=_INT,
    trained_tokens=_INT,  # tokens that went through forward and backward
    extra_rows=(_INT, True),  # traces trained outside of the groups (chord, relift)
    loss=(_FLOAT, True),
    grad_norm=(_FLOAT, True),
    entropy=(_FLOAT, True),  # mean nats per trained on-policy token
    learning_rate=_FLOAT,
    teacher_balance=(_FLOAT, True),  # sum |gradient weight|: teacher tokens over on-policy ones
    mismatch_mean=(_FLOAT, True),  # |delta log p| sampler against trainer
    mismatch_max=(_FLOAT, True),
    **{f"verdict_{v}": _INT for v in VERDICTS},
    probe_avg=(_FLOAT, True),  # held-out avg@k after this round's update
    probe_low=(_FLOAT, True),
    probe_high=(_FLOAT, True),
    probe_n=(_INT, True),
    probe_k=(_INT, True),
)
GENERATIONS = _schema(
    benchmark=_TEXT,
    problem_id=_TEXT,
    sample=_INT,
    token_ids=_IDS,
    finish=_TEXT,
    text=_TEXT,
    verdict=_TEXT,
    extracted=(_TEXT, True),
)
SCORES = _schema(
    row=_INT,  # of the scored file, from 1
    problem_id=_TEXT,
    sample=_INT,
    gold=_TEXT,
    verdict=_TEXT,
    extracted=(_TEXT, True),
    detail=_TEXT,  # the rule that decided, or what went wrong
    label=(_BOOL, True),  # the file's own verdict
)
BASE_LOG = _schema(step=_INT, loss=_FLOAT, learning_rate=_FLOAT)

Row = Mapping[str, object]


def whole(row: Row, column: str) -> int:
    """A column of counts, such as `round` or `generated_tokens`, as the number that it holds.

    Raises:
        TypeError: the row holds no count there.
    """
    return operator.index(row[column])  # type: ignore[arg-type]


def write_table(rows: Sequence[Row], schema: pa.Schema, path: Path) -> None:
    """Write rows as parquet: same rows, same bytes; whole or not at all (write aside, rename).

    Raises:
        DataError: naming the column and row that do not fit the schema.
    """
    schema = _as_given(schema, {name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    for row in rows[:1]:
        unknown = set(row) - set(schema.names)
        if unknown:
            raise DataError(f"columns {sorted(unknown)} are not in the schema", where=str(path))
    arrays = []
    for field in schema:
        try:
            array = pa.array(columns[field.name], type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(
                f"column {field.name!r} does not fit {field.type}: {error}", where=str(path)
            ) from error
        if array.null_count and not field.nullable:
            raise DataError(
                f"column {field.name!r} is empty in row {columns[field.name].index(None)}",
                where=str(path),
            )
        arrays.append(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    with _removed_where_it_fails(aside), aside.open("wb") as sink:
        table = pa.Table.from_arrays(arrays, schema=schema)
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        sink.flush()
        os.fsync(sink.fileno())
    aside.replace(path)


@contextmanager
def _removed_where_it_fails(aside: Path) -> Iterator[None]:
    """Half a table on a full disk would hold space that is needed elsewhere."""
    try:
        yield
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


class TableWriter:
    """`write_table` for tables larger than memory: rows come in batches, one row group each.

    The file appears on a clean exit only; same batches, same bytes.
    """

    def __init__(self, schema: pa.Schema, path: Path) -> None:
        self.schema, self.path, self.rows = schema, path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._aside = path.with_name(path.name + ".partial")
        self._sink = self._aside.open("wb")
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="zstd", write_page_checksum=True
        )

    def write(self, batch: pa.Table | pa.RecordBatch) -> None:
        """Append a batch.

        Raises:
            DataError: its columns are not those of the schema.
        """
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        if not table.schema.equals(self.schema):
            raise DataError(
                f"a batch does not fit the table: {_difference(table.schema, self.schema)}",
                where=str(self.path),
            )
        self.rows += table.num_rows
        self._writer.write_table(table)

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with _removed_where_it_fails(self._aside):
            with self._sink:
                self._writer.close()
                self._sink.flush()
                os.fsync(self._sink.fileno())
            if kind is None:
                self._aside.replace(self.path)
        if kind is not None:
            self._aside.unlink(missing_ok=True)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table and check that it has exactly the declared columns.

    Raises:
        DataError: missing or corrupted file, or another table's columns.
    """
    if not path.is_file():
        raise DataError("the table is missing", where=str(path), remedy=mend_of(path))
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"the table is corrupted: {error}",
            where=str(path),
            remedy=mend_of(path),
        ) from error
    schema = _as_given(schema, table.schema.names)
    if not table.schema.equals(schema):
        raise DataError(
            f"the table has other columns than declared: {_difference(table.schema, schema)}",
            where=str(path),
            remedy="it was written by another version or is another table: `dvc repro` its stage",
        )
    return table


def more_metrics(names: Iterable[str]) -> list[str]:
    """The columns of a ROUNDS table that no field of the schema declares: metrics of an update."""
    return sorted(set(names) - set(ROUNDS.names))


def _as_given(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """The schema with the further columns that a table of these names may have."""
    if schema is ROUNDS:
        for name in more_metrics(names):
            schema = schema.append(pa.field(name, _FLOAT))
    elif schema is GROUPS and not set(SURPRISE.names).isdisjoint(names):
        for field in SURPRISE:
            schema = schema.append(field)
    return schema


def read_frame(path: Path, schema: pa.Schema) -> pd.DataFrame:
    """`read_table` as a pandas frame."""
    return read_table(path, schema).to_pandas()


def _difference(found: pa.Schema, declared: pa.Schema) -> str:
    have = {f.name: str(f.type) for f in found}
    want = {f.name: str(f.type) for f in declared}
    notes = [f"missing {n}" for n in want if n not in have]
    notes += [f"unknown {n}" for n in have if n not in want]
    notes += [f"{n} is {have[n]}, not {want[n]}" for n in want if n in have and have[n] != want[n]]
    return ", ".join(notes) or "order or nullability"
