"""What `hapo audit` reads: the tables and the newest policy of a run, finished or going on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hapo_core.errors import DataError
from hapo_core.gate import Decision
from hapo_core.graded import Graded
from hapo_core.groups import Group, Trace
from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.surprise import Surprise
from pipeline.artifacts import MANIFEST, SCRATCH
from pipeline.artifacts.places import POLICIES
from pipeline.artifacts.tables import GROUPS, ROLLOUTS, ROUNDS, read_frame
from pipeline.config import Params
from pipeline.train.sampling import trace_of_visit
from pipeline.train.trainset import TrainSet

_TRIES = 5


@dataclass(frozen=True)
class RunTables:
    """A run as far as it has come. `rounds` and `groups` hold whole rounds only.

    `policy`: the folder with `model/`, `state/` and `posteriors.parquet` of the newest checkpoint;
    `running`: the segment that is not finished, None where all are.
    """

    rounds: pd.DataFrame
    groups: pd.DataFrame
    rollouts: dict[int, Path]
    policy: Path
    running: str | None


@contextmanager
def open_run(params: Params, root: Path) -> Iterator[RunTables]:
    """The tables of a run. A running segment is read through hard links, as it goes on writing.

    Raises:
        DataError: no round is finished, or the artifacts are of another method.
    """
    finished, running = [], None
    for name in params.segments:
        folder = root / POLICIES / name
        if (folder / MANIFEST).is_file():
            finished.append(folder)
            continue
        running = name
        break
    with ExitStack() as stack:
        going = None
        if running is not None and (root / SCRATCH).is_dir():
            # On the run's own file system, so that hard links work.
            aside = tempfile.TemporaryDirectory(prefix="hapo-audit-", dir=root / SCRATCH.parent)
            going = _snapshot(root, running, Path(stack.enter_context(aside)))
        tables = _tables(finished, going, running)
        _same_method(params, tables.rounds, root)
        yield tables


def _snapshot(root: Path, name: str, aside: Path) -> Path | None:
    """The scratch folder of a running segment as hard links, or None where there is none."""
    found = [p for p in (root / SCRATCH).glob(f"train@{name}-*") if any(p.glob("states/round-*"))]
    if not found:
        return None
    source = max(found, key=lambda p: p.stat().st_mtime)
    for left in reversed(range(_TRIES)):
        try:
            shutil.copytree(source, aside / "run", copy_function=os.link)
        except (FileNotFoundError, shutil.Error):  # a checkpoint gave way to the next one
            shutil.rmtree(aside / "run", ignore_errors=True)
            if not left:
                raise
        else:
            return aside / "run"
    return None


def _tables(finished: list[Path], going: Path | None, running: str | None) -> RunTables:
    frames = [read_frame(folder / "rounds.parquet", ROUNDS) for folder in finished]
    homes, policy = list(finished), finished[-1] if finished else None
    if going is not None:
        homes.append(going / "out")
        states = sorted(p for p in going.glob("states/round-*") if (p / MANIFEST).is_file())
        if states:
            policy = states[-1]
            done = int(policy.name.split("-")[1])
            frames += [
                read_frame(p, ROUNDS)
                for p in sorted(going.glob("rounds/round-*.parquet"))
                if int(p.stem.split("-")[1]) <= done
            ]
    if policy is None or not frames:
        raise DataError(
            "no round of training is finished",
            where=str(POLICIES),
            remedy="`hapo run` first; a running segment can be audited after its first checkpoint",
        )
    rounds = pd.concat(frames, ignore_index=True)
    last = int(rounds["round"].max())
    groups = [read_frame(p, GROUPS) for h in homes for p in sorted(h.glob("groups/*.parquet"))]
    table = pd.concat(groups, ignore_index=True) if groups else GROUPS.empty_table().to_pandas()
    rollouts = {
        int(p.stem.split("-")[1]): p for h in homes for p in h.glob("rollouts/round-*.parquet")
    }
    return RunTables(rounds, table[table["round"] <= last], rollouts, policy, running)


def _same_method(params: Params, rounds: pd.DataFrame, root: Path) -> None:
    trained = set(rounds["method"])
    if trained != {params.method}:
        raise DataError(
            f"the run trained with method {', '.join(sorted(trained))}, but {params.method} is "
            "recorded, or (before it is recorded) in params.yaml",
            where=str(root / POLICIES),
            remedy="set `method` in params.yaml to what the run used (`git diff params.yaml`), or "
            "`dvc repro`",
        )


# --- the groups of a round ----------------------------------------------------------------------


def stored_groups(
    tables: RunTables, number: int, data: TrainSet, max_tokens: int, seed: int
) -> list[Group]:
    """The groups of a round (counted from 1), as the method got them."""
    frame = read_frame(tables.rollouts[number], ROLLOUTS)
    by_prompt = dict(tuple(frame.groupby("prompt_id", sort=False)))
    part = tables.groups[tables.groups["round"] == number]
    order, seen = part["prompt_id"], _measured(part, data)
    traces = {i: trace_of_visit(data, i, max_tokens, seed, number - 1) for i in order}
    groups = [_group(data.prompts[i], by_prompt[i], traces[i]) for i in order]
    if not seen:
        return groups
    return [
        replace(g, trace=trace, surprise=found)
        for g, (trace, found) in zip(groups, (seen[i] for i in order), strict=True)
    ]


def _measured(
    groups: pd.DataFrame, data: TrainSet
) -> dict[str, tuple[Trace | None, Surprise | None]]:
    """The trace of each visit and its surprise, where it was measured."""
    if "surprise" not in groups:
        return {}
    found: dict[str, tuple[Trace | None, Surprise | None]] = {}
    for row in groups.to_dict("records"):
        prompt_id = str(row["prompt_id"])
        known = {trace.trace_id: trace for trace in data.traces.get(prompt_id, ())}
        trace = known.get(str(row["trace_id"]))
        nats = Surprise(float(row["impossible"]), float(row["surprise"])) if trace else None
        found[prompt_id] = (trace, nats)
    return found


def _group(prompt: Prompt, rows: pd.DataFrame, trace: Trace | None) -> Group:
    own = rows[rows["kind"] == "policy"]
    branches = rows[rows["kind"] == "continuation"]
    return Group(
        prompt,
        tuple(_sample(row) for _, row in own.iterrows()),
        trace,
        tuple(_sample(row) for _, row in branches.iterrows()),
    )


def _sample(row: pd.Series[object]) -> Graded:
    prefix = 0 if row["kind"] == "policy" else int(float(str(row["prefix_tokens"])))
    rollout = Rollout(
        str(row["prompt_id"]),
        int(str(row["sample"])),
        tuple(int(t) for t in row["token_ids"]),
        tuple(float(x) for x in row["logprobs"]),
        Finish(str(row["finish"])),
        str(row["text"]),
        prefix,
    )
    return Graded(rollout, None if pd.isna(row["reward"]) else float(str(row["reward"])))


def injected_of(tables: RunTables, number: int) -> dict[str, bool]:
    """Prompt id -> whether the teacher entered, in a round (counted from 1)."""
    part = tables.groups[tables.groups["round"] == number]
    injected = part["decision"] == Decision.INJECTED.value
    return dict(zip(part["prompt_id"], injected, strict=True))
