"""Sources of problems: where rows come from, and which column is what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.config import ChainsSource, GymSource, PresetSource, TableSource
from pipeline.sources.chains import chain_records
from pipeline.sources.record import LooseTraces, Records


@dataclass(frozen=True)
class Opened:
    """A source, ready to be read.

    Args:
        records: its rows, read as they are asked for.
        strict: rows that cannot be used are errors, not counted drops.
        generated: from a generator that yields no duplicates.
        facts: what the account says of it (files and hashes, revision, adapter).
        total: number of rows, where it is known beforehand.
        traces: of a table of their own, to be joined by id after the records.
    """

    records: Records
    strict: bool
    generated: bool
    facts: dict[str, object]
    total: int | None = None
    traces: LooseTraces | None = None


def open_source(
    name: str,
    source: ChainsSource | GymSource | TableSource | PresetSource,
    seed: int,
    role: str,
    taken: set[str],
) -> Opened:
    """Open a source of the configuration.

    Args:
        role: `train` or `benchmark`.
        taken: generated problems so far; generators avoid and extend it.

    Raises:
        HapoError: it cannot be found, reached or read.
    """
    if isinstance(source, ChainsSource):
        facts: dict[str, object] = {"kind": "chains", **source.model_dump(mode="json")}
        records = chain_records(name, source, seed, role, taken)
        return Opened(records, True, True, facts, source.count)
    if isinstance(source, GymSource):
        from pipeline.sources.gym import gym_records

        facts = {**source.model_dump(mode="json")}
        return Opened(gym_records(name, source, seed, role, taken), True, True, facts, source.count)
    from pipeline.sources.table import open_table

    if isinstance(source, PresetSource):
        opened = open_table(name, source.table())
        return replace(opened, facts={"preset": source.kind, **opened.facts})
    return open_table(name, source)
