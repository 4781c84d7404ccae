"""What `hapo clean` may take from the disk, why, and what stays: a plan, nothing more."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hapo_core.errors import ConfigError
from pipeline.artifacts import MANIFEST, PUBLISHED, SCRATCH, human_bytes
from pipeline.artifacts.places import POLICIES
from pipeline.artifacts.revisions import REVISIONS
from pipeline.build.engine import ENGINES
from pipeline.checks.status import Status, read_status
from pipeline.config import Params, load_params
from pipeline.flows import server
from pipeline.flows.server_home import HOME
from pipeline.system.disk_use import CACHE, DiskSizes
from pipeline.system.processes import works_in

_COUNTED = ("artifacts", CACHE, ".hapo/scratch", str(REVISIONS), str(HOME), str(ENGINES))
LOG_DAYS, LOG_BYTES = 30, 10_000_000
"""An older or a longer log of an engine's server goes."""
OPTIMIZER, MODEL = "state/optimizer.safetensors", "model"
Keep = Literal["every", "best", "last"]


@dataclass(frozen=True)
class Rules:
    """What is retained.

    Args:
        policies: `every` segment's, those of the `best` and the last, or of the `last` alone.
            Policies that a target of params.yaml names always stay.
        all_optimizers: keep the optimizer states of all segments, not the last one's alone.
        metric: column of the ROUNDS table; the segment whose last known value is highest is best.
        history: also what Prefect shows of earlier runs, while its server does not run.
        unfinished: also work of stages that have not finished (it could be continued).
        budget: bytes; removal stops as soon as artifacts, cache, scratch and copies fit.
    """

    policies: Keep = "every"
    all_optimizers: bool = False
    metric: str = "probe_avg"
    unfinished: bool = False
    history: bool = False
    budget: int | None = None


@dataclass(frozen=True)
class Item:
    """Something on the disk that may go, or stays; `part` is a segment's file or folder."""

    path: Path
    bytes: int
    why: str
    segment: str | None = None
    part: str | None = None
    """Below the segment's folder."""


@dataclass(frozen=True)
class Plan:
    """What goes, in this order, and what stays."""

    gone: tuple[Item, ...]
    kept: tuple[Item, ...]
    used: int
    """Bytes of artifacts, cache, scratch and copies before."""
    budget: int | None

    @property
    def freed(self) -> int:
        """Bytes that go from the workspace. The cache follows with `hapo clean --cache`."""
        return sum(item.bytes for item in self.gone)

    @property
    def missing(self) -> int:
        """Bytes over the budget that no rule lets go."""
        return max(0, self.used - self.freed - self.budget) if self.budget is not None else 0


# --- the plan -----------------------------------------------------------------------------------


def plan(rules: Rules, root: Path = Path()) -> Plan:
    """Look at the disk; changes nothing.

    Raises:
        ConfigError: params.yaml is not valid, or the metric is no column.
        DataError: a segment's tables or manifest cannot be read.
    """
    params, status = load_params(root / "params.yaml"), read_status(root)
    items, kept = [*_leftovers(root)], list[Item]()
    running = {stage.name for stage in status.stages if stage.state == "running"}
    for item, goes in (
        *_prefect(root, rules),
        *_engines(root, running),
        *_scratch(root, status, rules),
    ):
        (items if goes else kept).append(item)
    for item, goes in _segments(root, params, status, rules):
        (items if goes else kept).append(item)
    used = sum(status.disk.get(name, 0) for name in _COUNTED)
    gone: list[Item] = []
    left = used
    for item in items:
        if rules.budget is not None and left <= rules.budget:
            kept.append(Item(item.path, item.bytes, "the budget is met without it"))
            continue
        gone.append(item)
        left -= item.bytes
    return Plan(tuple(gone), tuple(kept), used, rules.budget)


def _leftovers(root: Path) -> Iterator[Item]:
    for top in ("artifacts", "reports", ".hapo/scratch"):
        for path in sorted((root / top).rglob(".*.partial")):
            yield Item(path, DiskSizes().of(path), "half-written, left by a kill; never read")
    if (root / REVISIONS).is_dir():
        size = DiskSizes().of(root / REVISIONS)
        yield Item(root / REVISIONS, size, "copies that `hapo report` and `hapo compare` made")


def _prefect(root: Path, rules: Rules) -> Iterator[tuple[Item, bool]]:
    """The files of our Prefect server. No result lies there."""
    home, runs = root / HOME, server.find(root) is not None
    for path in sorted(home.glob("*")):
        size = DiskSizes().of(path)
        if path.name.startswith("prefect.damaged-"):
            yield Item(path, size, "a damaged database of Prefect, put aside"), True
        elif path.name == "server.log.1" or (path.name == "server.log" and not runs):
            yield Item(path, size, "an old log of the Prefect server"), True
        elif path.name.startswith("prefect.db"):
            why = f"what Prefect shows of runs; it forgets after {server.KEEP_DAYS} days"
            more = " (its server runs: `hapo server stop` first)" if runs else " (--history)"
            yield Item(path, size, why + more), rules.history and not runs


def _engines(root: Path, running: Collection[str] = ()) -> Iterator[tuple[Item, bool]]:
    """What servers of engines wrote, by stage: logs, and weights that were written for them."""
    for folder in sorted(path for path in (root / ENGINES).glob("*") if path.is_dir()):
        size = DiskSizes().of(folder)
        if folder.name in running or works_in(folder):
            yield Item(folder, size, "an engine's server works there"), False
            continue
        for path in sorted(folder.iterdir()):
            size = DiskSizes().of(path)
            if path.suffix != ".log":
                yield Item(path, size, "left by an engine's server; it is written anew"), True
                continue
            facts = path.stat()
            if time.time() - facts.st_mtime > LOG_DAYS * 86400:
                why, goes = f"a log of an engine's server, older than {LOG_DAYS} days", True
            elif facts.st_size > LOG_BYTES:
                why, goes = f"a log of an engine's server, over {human_bytes(LOG_BYTES)}", True
            else:
                why, goes = "a log of an engine's server, short and not old", False
            yield Item(path, size, why), goes


def _scratch(root: Path, status: Status, rules: Rules) -> Iterator[tuple[Item, bool]]:
    states = {s.name: s.state for s in status.stages}
    for folder in sorted((root / SCRATCH).glob("*-*")):
        stage = folder.name.rsplit("-", 1)[0]
        state, size = states.get(stage), DiskSizes().of(folder)
        if state is None:
            yield Item(folder, size, f"work of stage {stage}, which dvc.yaml no longer has"), True
        elif state == "running":
            yield Item(folder, size, f"{stage} runs"), False
        elif state == "up to date" and (folder / PUBLISHED).is_file():
            yield Item(folder, size, f"{stage} is finished and recorded by DVC"), True
        else:
            why = f"{stage} continues there" if state != "up to date" else "of other inputs"
            why = f"unfinished work, {why}"
            yield Item(folder, size, f"{why} (--unfinished removes it)"), rules.unfinished


def _segments(
    root: Path, params: Params, status: Status, rules: Rules
) -> Iterator[tuple[Item, bool]]:
    """Optimizer states first, then policies, oldest first."""
    names = list(params.segments)
    current = {s.name for s in status.stages if s.state == "up to date"}
    used = {target.policy for target in params.targets.values()}
    present = [n for n in names if (root / POLICIES / n / MANIFEST).is_file()]
    best = _best(root, present, rules.metric) if rules.policies == "best" else None

    def reason(name: str) -> str | None:
        """Why segment `name` must stay whole; None where it need not."""
        if name == names[-1] or name == present[-1]:
            return "the last segment: the run continues from it"
        follower = names[names.index(name) + 1]
        for stage in (f"train@{name}", f"train@{follower}"):
            if stage not in current:
                return f"{stage} is not up to date and needs it"
        return None

    for part in (OPTIMIZER, MODEL):
        for name in present:
            path = root / POLICIES / name / part
            if not path.exists():
                continue
            whole = reason(name)
            item = Item(path, DiskSizes().of(path), whole or "", name, part)
            if part == OPTIMIZER:
                goes, why = not rules.all_optimizers, f"only the last segment ({names[-1]})"
                why = f"segment {name} was continued; {why} needs its optimizer state"
            else:
                goes, why = rules.policies != "every", f"segment {name}'s policy ({rules.policies})"
                if name in used:
                    whole = whole or "a target of params.yaml names it"
                elif name == best:
                    whole = whole or f"the best by {rules.metric}"
            if whole is not None or not goes:
                yield Item(item.path, item.bytes, whole or "kept by the rules", name, part), False
            else:
                yield Item(item.path, item.bytes, why, name, part), True


def _best(root: Path, names: Sequence[str], metric: str) -> str | None:
    """The segment with the highest last value of a column of its rounds."""
    import pyarrow.compute as pc  # with the tables only: `hapo` must start fast

    from pipeline.artifacts.tables import ROUNDS, read_table

    if metric not in ROUNDS.names:
        raise ConfigError(
            f"{metric!r} is no column of the rounds", where="--metric", remedy="probe_avg, success"
        )
    best, highest = None, -math.inf
    for name in names:
        column = read_table(root / POLICIES / name / "rounds.parquet", ROUNDS)[metric]
        known = pc.drop_null(column)
        if len(known) and float(known[-1].as_py()) >= highest:
            best, highest = name, float(known[-1].as_py())
    return best
