"""The one list of modules that a stage loads and that decide none of its numbers, with reasons."""

from __future__ import annotations

from pipeline.config import Params

PLUMBING = {
    "hapo_core.errors": "the words of errors",
    "hapo_core.timing": "wall times",
    "hapo_core.heartbeat": "ends a process that stands still",
    "hapo_core.exchange": "carries values between processes, equal to the last bit",
    "pipeline.flows": "what a person sees in Prefect",
    "pipeline.show": "what a person sees; the report's own figures are counted for the report",
    "pipeline.run": "which stages are started, never what one computes",
    "pipeline.system": "processes, locks, disk use, secrets",
    "pipeline.dependencies": "what is hashed here is compared, not computed with",
    "pipeline.config": "it counts by its values: the lock holds all parameters with their defaults",
    "pipeline.build.teacher": "refuses a run without usable traces, or warns; it changes no row",
    "pipeline.train.launch": "starts processes; how many there are is a parameter",
    "pipeline.artifacts": "how files become whole; tables, columns, tensors and moments count",
}
"""Module, or room, and why it is left out of every stage's lock."""

COUNTED = {
    "pipeline.artifacts.tables",
    "pipeline.artifacts.columns",
    "pipeline.artifacts.tensors",
    "pipeline.artifacts.optimizer",
}
"""What counts all the same, inside of a room above."""

PROBE = {"pipeline.train.probe", "hapo_core.stats"}
"""Decide columns of the rounds' table, where the probe is on."""


def is_plumbing(module: str, kind: str, params: Params | None = None) -> bool:
    """Whether `module` decides no number of the stages of a kind (`train`)."""
    if module in ("pipeline", "hapo_core") or module in COUNTED:
        return module not in COUNTED
    if kind == "report" and _inside(module, {"pipeline.show"}):
        return False
    unwatched = kind == "train" and params is not None and not params.train.watched
    return _inside(module, PLUMBING) or (unwatched and _inside(module, PROBE))


def _inside(module: str, rooms: object) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)  # type: ignore[attr-defined]
