"""The samples of a source for `pipeline.curate.check`, read through the source's own adapter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from hapo_core.errors import DataError
from pipeline.config import ChainsSource, GymSource, PresetSource, StoriesSource, TableSource
from pipeline.curate.check import DataCheck, Sample
from pipeline.curate.sources import open_source
from pipeline.curate.sources.record import Faulty, LooseTrace
from pipeline.curate.text import exact_key, normalise

AnySource = ChainsSource | StoriesSource | GymSource | TableSource | PresetSource
_LOOSE = 50_000
"""Rows of a table of traces that are read for a sample of problems."""


def samples_of(
    name: str, source: AnySource, reward: str, seed: int, most: int | None, found: DataCheck
) -> Iterator[Sample]:
    """The problems of a source; rows that cannot be read are counted in `found.rows`.

    Args:
        most: read only the first rows.

    Raises:
        HapoError: the source cannot be opened, or has no rows.
    """
    opened = open_source(name, source, seed, "train", set())
    kept: list[tuple[Sample, str | None, str]] = []
    rows = 0
    for record in islice(opened.records, most):
        rows += 1
        if isinstance(record, Faulty):
            found.rows.add("row", record.fault.reason, f"{record.where} {record.fault.detail}")
            continue
        parts = record.parts
        if parts.refusal or parts.kind in ("proof", "choice"):
            continue  # curation leaves them out
        gold, problem = normalise(parts.answer).strip(), normalise(parts.problem)
        fault = "no problem text" if not problem.strip() else None
        fault = fault or ("problem without answer" if not gold else None)
        found.rows.add("row", fault, f"{record.where} {problem[:60]}")
        if fault is None:
            traces = tuple(t.text for t in parts.traces if not t.cut)
            kept.append((Sample(f"row {record.row}", gold, reward, traces), parts.key, problem))
    if not rows:
        raise DataError("the source holds no rows", where=f"source {name!r}")
    if opened.traces is None:
        yield from (sample for sample, _, _ in kept)
        return
    joined = _joined(islice(opened.traces, _LOOSE), kept)
    for sample, _, _ in kept:
        extra = joined.get(sample.where, ())
        yield Sample(sample.where, sample.gold, reward, (*sample.traces, *extra))


def _joined(
    traces: Iterator[LooseTrace], kept: list[tuple[Sample, str | None, str]]
) -> dict[str, list[str]]:
    by_id = {key: sample.where for sample, key, _ in kept if key is not None}
    by_text = {exact_key(problem): sample.where for sample, _, problem in kept}
    found: dict[str, list[str]] = {}
    for loose in traces:
        key = exact_key(normalise(loose.key)) if loose.by_text else None
        where = by_id.get(loose.key) if key is None else by_text.get(key)
        if where is not None:
            found.setdefault(where, []).append(loose.trace.text)
    return found
