"""Sources of problems: where rows come from, and which column is what."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import ChainsSource, GymSource, PresetSource, StoriesSource, TableSource
from pipeline.curate.sources.chains import chain_records
from pipeline.curate.sources.record import Opened
from pipeline.curate.sources.stories import story_records


def open_source(
    name: str,
    source: ChainsSource | StoriesSource | GymSource | TableSource | PresetSource,
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
    if isinstance(source, StoriesSource):
        told = source.model_dump(mode="json")
        stories = story_records(name, source, seed, role, taken)
        return Opened(stories, True, True, told, source.count)
    if isinstance(source, GymSource):
        from pipeline.curate.sources.gym import gym_records

        facts = {**source.model_dump(mode="json")}
        return Opened(gym_records(name, source, seed, role, taken), True, True, facts, source.count)
    from pipeline.curate.sources.table import open_table

    if isinstance(source, PresetSource):
        opened = open_table(name, source.table())
        return replace(opened, facts={"preset": source.kind, **opened.facts})
    return open_table(name, source)
