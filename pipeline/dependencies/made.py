"""The configuration that the results at hand were made with, whatever params.yaml says today."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hapo_core.errors import ConfigError
from pipeline.config import Params, parse_params
from pipeline.dependencies.belongs import foreign
from pipeline.dependencies.lock import GRAPH, READS, Lock, differences, read_lock
from pipeline.dependencies.provenance import read_provenance

_WEAKEST_FIRST = ("base", "curate", "cold_start", "evaluate", "train")
"""Whose word counts last where several kinds of stages read one section (`seed`, `rewards`)."""
_LABELS = ("profile", "loggers")
"""Decide no number, and no stage records them."""


@dataclass(frozen=True)
class AsMade:
    """`params`: what the results were made with. `recorded`: whether any stage says so.
    `differs`: sentences about params.yaml as it is now, about stages of two settings, and about
    records and artifacts of another run."""

    params: Params
    recorded: bool
    differs: tuple[str, ...]


def as_made(now: Params, root: Path = Path()) -> AsMade:
    """What the results below `root` were made with.

    Segments and targets are those of the last run's graph, values those that the stages recorded
    (`artifacts/provenance`); what no stage recorded (nothing ran yet, an older version) is taken
    from `now`, the params.yaml of today.
    """
    made, graph = read_provenance(root), read_lock(GRAPH, root)
    today = {"cold_start": {}} | now.model_dump(mode="json")
    if not made:
        return AsMade(now, False, ())
    others = list(foreign(made, root))
    for stage in {one.stage for one in others if one.record}:
        del made[stage]  # what another run was made with
    dump = copy.deepcopy(today) | copy.deepcopy(graph or {})
    stages = [s for kind in _WEAKEST_FIRST for s in _stages(kind, made, dump)]
    for stage in stages:
        _lay_over(dump, stage, made[stage].get("parameters", {}))
    lines = [one.said for one in others]
    lines += _two_settings(stages, made)
    try:
        params = parse_params(dump, where="artifacts/provenance")
    except ConfigError as error:
        said = f"What it was made with cannot be read by this version: {error.what}"
        return AsMade(now, False, (said,))
    counted = [{k: v for k, v in one.items() if k not in _LABELS} for one in (dump, today)]
    changed = differences({"parameters": counted[0]}, {"parameters": counted[1]})
    if changed:
        what = "; ".join(changed)
        lines.append(f"params.yaml differs now from what this was made with (made -> now): {what}.")
    return AsMade(params, bool(made), tuple(lines))


def _stages(kind: str, made: Mapping[str, Lock], dump: Mapping[str, Any]) -> list[str]:
    """The recorded stages of a kind that the graph has, in its order."""
    section = {"cold_start": "cold_start", "evaluate": "targets", "train": "segments"}.get(kind)
    names = [kind] if section is None else [f"{kind}@{key}" for key in dump[section]]
    return [name for name in names if name in made]


def _lay_over(dump: dict[str, Any], stage: str, recorded: Mapping[str, Any]) -> None:
    kind, _, key = stage.partition("@")
    for path in READS[kind]:
        if path in recorded:
            *parents, last = path.split(".")
            place = dump
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = _ordered(copy.deepcopy(recorded[path]), place.get(last))
    for word, section in (("segment", "segments"), ("target", "targets")):
        if recorded.get(word) is not None:
            dump[section][key] = copy.deepcopy(recorded[word])


def _ordered(recorded: Any, today: Any) -> Any:
    """`recorded`, its keys in the order of params.yaml: records are sorted, and the report shows
    benchmarks as their owner lists them."""
    if not isinstance(recorded, dict) or not isinstance(today, dict):
        return recorded
    names = [*(k for k in today if k in recorded), *(k for k in recorded if k not in today)]
    return {name: _ordered(recorded[name], today.get(name)) for name in names}


def _two_settings(stages: list[str], made: Mapping[str, Lock]) -> Iterator[str]:
    """Stages of one run that were made with different values of what both read."""
    if not stages:
        return
    last = stages[-1]
    for stage in stages[:-1]:
        both = [made[s].get("parameters", {}) for s in (stage, last)]
        shared = both[0].keys() & both[1].keys()
        if stage.partition("@")[0] == last.partition("@")[0]:
            shared = both[0].keys() | both[1].keys()
        shared -= {"segment", "target"}
        changed = differences(
            *({"parameters": {k: v for k, v in one.items() if k in shared}} for one in both)
        )
        if changed:
            yield f"{stage} was made with other values than {last}: {'; '.join(changed)}."
