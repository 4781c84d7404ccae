"""`hapo status`: what ran, what runs and how far, what the next `dvc repro` would do and why.

Read-only: DVC's objects are asked one by one, without its locks, so that it works while a run
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hapo_core.errors import HapoError
from pipeline.config import Params, load_params
from pipeline.locks import run_holder, writers
from pipeline.observe import duration
from pipeline.places import dvc_cache
from pipeline.store import SCRATCH, human_bytes

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

State = Literal["up to date", "running", "changed", "waits", "new"]
CACHE = "DVC's cache"
FOLDERS = (
    "artifacts",
    ".hapo/scratch",
    ".hapo/revisions",
    ".hapo/engine",
    ".hapo/prefect",
    "reports",
)
_REASONS_SHOWN = 4


@dataclass(frozen=True)
class Progress:
    """Unfinished work of a stage in its scratch folder.

    `kept` is what a kill now would leave: rounds, or batches of an evaluation.
    """

    kept: int
    total: int | None
    seconds_each: float | None = None

    def __str__(self) -> str:
        what = "batches kept" if self.total is None else "rounds kept"
        text = f"{self.kept}{'' if self.total is None else f'/{self.total}'} {what}"
        if self.seconds_each and self.total is not None and self.total > self.kept:
            text += f", {self.seconds_each:.3g} s each, "
            text += f"left {duration(self.seconds_each * (self.total - self.kept))}"
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
        owner = next((writing[o.fs_path] for o in stage.outs if o.fs_path in writing), None)
        reasons = tuple(_reasons(stage))
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
        size = sum(sizes.of(Path(o.fs_path)) for o in stage.outs)
        stages.append(StageStatus(name, state, reasons, after, owner, progress, size))
    return Status(run_holder(root), tuple(stages), *_disk(root))


def _ordered(root: Path) -> Iterator[tuple[PipelineStage, set[str]]]:
    """The stages in the order in which DVC would run them, with the names of all they need."""
    import networkx as nx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

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


def _reasons(stage: PipelineStage) -> Iterator[str]:
    """What differs from dvc.lock, in words; nothing where the stage is up to date."""
    if not any(out.hash_info for out in stage.outs):
        yield "never ran"
        return
    if stage.changed_stage():
        yield "its command or its list of files changed in dvc.yaml"
    for dep in stage.deps:
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
    before, after = flat(recorded), flat({k: now[k] for k in now})
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, "(none)"), after.get(key, "(none)")
        if old != new:
            yield f"{key}: {old} -> {new}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `section.key: value`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


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
    pace = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    return Progress(max(states) - before if states else 0, total, pace)


# --- disk ---------------------------------------------------------------------------------------


class DiskSizes:
    """Bytes on disk, every inode once."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def of(self, path: Path) -> int:
        """Of a file, or of all files below a folder; 0 where there is none."""
        total = 0
        for name in _files(path):
            try:
                facts = name.lstat()
            except FileNotFoundError:  # removed while we look
                continue
            key = (facts.st_dev, facts.st_ino)
            if key not in self._seen:
                self._seen.add(key)
                total += facts.st_blocks * 512
        return total


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def _disk(root: Path) -> tuple[dict[str, int], int]:
    sizes = DiskSizes()
    folders = {name: root / name for name in FOLDERS} | {CACHE: dvc_cache(root)}
    found = {name: sizes.of(folder) for name, folder in folders.items() if folder.exists()}
    facts = os.statvfs(root)
    return found, facts.f_bavail * facts.f_frsize


# --- the command --------------------------------------------------------------------------------


def show(status: Status) -> str:
    """The status as text."""
    width = max(len(s.name) for s in status.stages)
    lines = []
    for stage in status.stages:
        size = human_bytes(stage.bytes) if stage.bytes else "-"
        lines.append(f"{stage.name:<{width}}  {size:>9}  {_words(stage)}")
    running = [s.name for s in status.stages if s.state == "running"]
    lines.append("")
    if running:
        whose = f"`hapo run`, process {status.run}" if status.run else "`dvc repro`"
        lines.append(f"running  {', '.join(running)} ({whose})")
    elif status.run:
        lines.append(f"running  `hapo run`, process {status.run}, between stages")
    lines.append("next     " + _next(status))
    disk = ", ".join(f"{name} {human_bytes(n)}" for name, n in status.disk.items())
    lines.append(f"disk     {disk}; free {human_bytes(status.free)}")
    return "\n".join(lines)


def _words(stage: StageStatus) -> str:
    words: list[str] = [stage.state]
    if stage.state == "running":
        words[0] += f" (process {stage.process})"
    if stage.progress is not None:
        words.append(str(stage.progress))
    if stage.reasons and stage.reasons != ("never ran",):
        shown = list(stage.reasons[:_REASONS_SHOWN])
        more = len(stage.reasons) - len(shown)
        words.append("; ".join(shown) + (f"; and {more} more" if more else ""))
    if stage.after and stage.state == "waits":
        words.append("after " + ", ".join(stage.after))
    return "  ".join(words)


def _next(status: Status) -> str:
    sure = [s.name for s in status.stages if s.state in ("changed", "new")]
    waits = [s.name for s in status.stages if s.state == "waits"]
    if not sure and not waits:
        running = any(s.state == "running" for s in status.stages)
        return "nothing else" if running else "`dvc repro` has nothing to do"
    text = f"`dvc repro` runs {', '.join(sure)}" if sure else "`dvc repro`"
    if waits:
        text += ("; then" if sure else " looks at") + f" {', '.join(waits)}"
        text += " if what they read differs"
    return text


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo status`."""
    parser = subparsers.add_parser(
        "status", help="what ran, what runs and how far, what comes next and why, and the disk"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.run import find_root

    os.chdir(find_root())
    began = time.monotonic()
    status = read_status()
    if options.json:
        print(json.dumps({**asdict(status), "seconds": round(time.monotonic() - began, 3)}))
    else:
        print(show(status))
    return 0
