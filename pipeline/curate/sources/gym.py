"""Problems of a reasoning-gym task; their gold holds what the task's own scorer needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from hapo_core.errors import DataError
from hapo_core.verify.gym import create, entry_gold
from pipeline.config import GymSource
from pipeline.curate.sources.record import Parts, Record

TRIES = 20
"""Entries drawn for each problem that is needed; small tasks repeat themselves."""


def gym_records(
    name: str, source: GymSource, seed: int, role: str, taken: set[str]
) -> Iterator[Record]:
    """Different problems of the task; adds each to `taken`, so that later ones are disjoint.

    Args:
        role: `train` or `benchmark`; the two have different seeds.

    Raises:
        ConfigError: reasoning-gym is not installed, or has no such task or setting.
        DataError: the task has not so many different problems.
    """
    digest = hashlib.blake2b(f"{seed}/{role}/{name}".encode(), digest_size=4).digest()
    own_seed = int.from_bytes(digest, "big") >> 1
    entries = create(source.task, **source.settings, size=TRIES * source.count, seed=own_seed)
    found = 0
    for index in range(len(entries)):
        entry = entries[index]
        problem = str(entry["question"])
        if problem in taken:
            continue
        taken.add(problem)
        found += 1
        gold = entry_gold(source.task, entry)
        yield Record(Parts(problem, gold), found, f"gym source {name!r}, problem {found}")
        if found == source.count:
            return
    raise DataError(
        f"the task {source.task!r} has only {found} different problems in {len(entries)} draws",
        where=f"source {name!r}",
        remedy="lower `count`, or raise the task's difficulty in `settings`",
    )
