"""`hapo status`: what ran, what runs and how far, what the next `dvc repro` would do and why.

Read-only: DVC's objects are asked one by one, without its locks, so that it works while a run
goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from hapo_core.errors import HapoError
from pipeline.artifacts import SCRATCH
from pipeline.artifacts.revisions import need_git
from pipeline.config import Params, load_params
from pipeline.dependencies.lock import (
    FOLDER,
    GRAPH,
    READS,
    differences,
    graph_of,
    lock_of,
    place_in_graph,
    read_lock,
)
from pipeline.dependencies.provenance import read_provenance
from pipeline.dependencies.values import changed_values
from pipeline.dependencies.watch import STAGE as DEPS
from pipeline.flows.observer import brief
from pipeline.system.disk_use import DiskSizes, _disk
from pipeline.system.dvc_state import writers
from pipeline.system.locks import run_holder

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

State = Literal["up to date", "running", "changed", "waits", "new"]


@dataclass(frozen=True)
class Progress:
    """Unfinished work of a stage in its scratch folder.

    `kept` is what a kill now would leave: rounds, or batches of an evaluation. `goes_on`: whether
    the next run goes on with it; it does not where it was begun with other values or code.
    """

    kept: int
    total: int | None
    seconds_each: float | None = None
    goes_on: bool = True

    def __str__(self) -> str:
        what = "batches kept" if self.total is None else "rounds kept"
        text = f"{self.kept}{'' if self.total is None else f'/{self.total}'} {what}"
        if not self.goes_on:
            return text + ", made with other values: put those back, or it starts anew"
        if self.seconds_each and self.total is not None and self.total > self.kept:
            text += f", {self.seconds_each:.3g} s each, "
            text += f"left {brief(self.seconds_each * (self.total - self.kept))}"
        return text


@dataclass(frozen=True)
class StageStatus:
    """One stage: `reasons` says what changed, `after` names stages that run before it."""

    name: str
    state: State
    reasons: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    process: int | None = None
    progress: Progress | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Status:
    """The project at one moment."""

    run: int | None
    """Process id of the `hapo run` that goes on."""
    stages: tuple[StageStatus, ...]
    disk: dict[str, int] = field(default_factory=dict)
    """Bytes on disk by folder; a file that several names share counts once, where first met."""
    free: int = 0


def read_status(root: Path = Path()) -> Status:
    """The status of the project in `root`.

    Raises:
        ConfigError: params.yaml is not valid.
        HapoError: DVC cannot read dvc.yaml or dvc.lock.
    """
    params = load_params(root / "params.yaml")
    writing = writers(root)
    sizes = DiskSizes()
    stages: list[StageStatus] = []
    moving: set[str] = set()
    for stage, upstream in _ordered(root):
        name = stage.addressing
        if name == DEPS:  # what it would find is asked below
            continue
        owner = next((writing[o.fs_path] for o in stage.outs if o.fs_path in writing), None)
        reasons = tuple(dict.fromkeys(_reasons(stage, params, root)))
        after = tuple(sorted(moving & upstream))
        state: State = "up to date"
        if owner is not None:
            state, reasons, after = "running", (), ()
        elif "never ran" in reasons:
            state = "new"
        elif reasons:
            state = "changed"
        elif after:
            state = "waits"
        if state != "up to date":
            moving.add(name)
        progress = _progress(name, params, root) if state != "up to date" else None
        if progress is not None and _since_it_began(name, params, root):
            progress = replace(progress, goes_on=False)
        size = sum(sizes.of(Path(o.fs_path)) for o in stage.outs)
        stages.append(StageStatus(name, state, reasons, after, owner, progress, size))
    return Status(run_holder(root), tuple(stages), *_disk(root))


def _ordered(root: Path) -> Iterator[tuple[PipelineStage, set[str]]]:
    """The stages in the order in which DVC would run them, with the names of all they need."""
    import networkx as nx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    need_git(root)
    try:
        repo: Repo = Repo(str(root))
        graph = get_active_graph(repo.index.graph)
        steps: list[PipelineStage] = plan_repro(graph)
    except DvcException as error:
        raise HapoError(
            f"DVC cannot read the project: {error}",
            where=str(root.absolute()),
            remedy="`dvc status` says more; a dvc.lock torn by a kill is mended by `hapo run`",
        ) from error
    for stage in steps:
        yield stage, {s.addressing for s in nx.descendants(graph, stage)}


# --- why a stage would run ----------------------------------------------------------------------


def code_changes(name: str, params: Params, root: Path = Path()) -> list[str]:
    """What differs from what the stage's result was made with, parameters of params.yaml aside."""
    kind = name.partition("@")[0]
    if kind not in READS:
        return []
    made = read_provenance(root).get(name) or read_lock(kind, root)
    if made is None:
        return []
    now = lock_of(kind, params, root)
    old = {k: v for k, v in made.items() if k != "inputs"}
    old["parameters"] = {
        k: v for k, v in old["parameters"].items() if k not in ("segment", "target")
    }
    old["packages"] = {k: old["packages"].get(k) for k in now["packages"]}
    return differences(old, now)


def _since_it_began(name: str, params: Params, root: Path) -> list[str]:
    """What differs from the locks of the last run, which unfinished work was begun under."""
    kind = name.partition("@")[0]
    lock, graph = read_lock(kind, root), read_lock(GRAPH, root)
    if lock is None or graph is None:
        return []
    places = [{"parameters": place_in_graph(name, one)} for one in (graph, graph_of(params))]
    return differences(lock, lock_of(kind, params, root)) + differences(*places)


def _reasons(stage: PipelineStage, params: Params, root: Path) -> Iterator[str]:
    """What differs from dvc.lock, in words; nothing where the stage is up to date."""
    if not any(out.hash_info for out in stage.outs):
        yield "never ran"
        return
    if stage.changed_stage():
        yield "its command or its list of files changed in dvc.yaml"
    yield from code_changes(stage.addressing, params, root)
    for dep in stage.deps:
        if str(dep).startswith(f"{FOLDER}/"):
            continue
        if dep.hash_name == "params":
            yield from _changed_params(dep)
        else:
            yield from (f"{path} {what}" for path, what in _asked(dep).items())
    for out in stage.outs:
        yield from (f"output {path} {what}" for path, what in _asked(out).items())


def _asked(thing: Any) -> dict[str, str]:
    try:
        return dict(thing.status())
    except FileNotFoundError:  # a running stage has just moved it
        return {str(thing): "is being written"}


def _changed_params(dep: Any) -> Iterator[str]:
    """`evaluate.benchmarks.heldout.k: 2 -> 3`, one for every changed value."""
    recorded = dep.hash_info.value if dep.hash_info else None
    if recorded is None:
        yield f"{dep} is new"
        return
    now = dep.read_params()
    yield from changed_values(recorded, {key: now[key] for key in now})


# --- unfinished work ----------------------------------------------------------------------------


def _progress(stage: str, params: Params, root: Path) -> Progress | None:
    """The newest scratch folder of the stage, if there is one."""
    folders = [p for p in (root / SCRATCH).glob("*-*") if p.name.rsplit("-", 1)[0] == stage]
    if not folders:
        return None
    folder = max(folders, key=lambda p: p.stat().st_mtime)
    kind, _, key = stage.partition("@")
    if kind == "train" and key in params.segments:
        return _rounds(folder, params.segments[key].rounds, params.rounds_before(key))
    parts = list(folder.glob("parts/**/*.parquet"))
    return Progress(len(parts), None) if parts else None


def _rounds(folder: Path, total: int, before: int) -> Progress:
    """Rounds up to the newest whole state, and the pace of the newest ten."""
    states = [
        int(match[1])
        for path in folder.glob("states/round-*")
        if (match := re.search(r"-(\d+)$", path.name)) and (path / "manifest.json").is_file()
    ]
    times: list[float] = []
    for path in sorted(folder.glob("rounds/round-*.parquet"))[-10:]:
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:
            continue
    steps = [b - a for a, b in pairwise(times) if b > a]  # a clock may have been set back
    pace = median(steps) if steps else None
    return Progress(max(states) - before if states else 0, total, pace)
