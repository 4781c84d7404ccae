"""What a segment goes on from: the segment before it, or its own newest whole state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.distributed import Ranks
from hapo_core.errors import DataError
from hapo_core.fit import refuse_checkpointing
from hapo_core.gate import GateState
from hapo_core.policy import load_policy
from pipeline.artifacts import check_manifest, identity, need_part, read_json
from pipeline.artifacts.places import DATA, POLICIES
from pipeline.build.device import prepare_compute
from pipeline.build.optimizer import adapt
from pipeline.config import Params
from pipeline.grading.jobs import opened_thought
from pipeline.models import policy_model
from pipeline.train.checkpoint import (
    in_shards,
    load_weights,
    newest_state,
    read_gate_state,
    read_waiting,
)
from pipeline.train.trainset import TrainSet, load_trainset, refuse_misfit


@dataclass(frozen=True)
class SegmentStart:
    """A segment's start in this process.

    `source` is the folder whose optimizer state goes on, None where none is there yet; `done`
    counts the rounds of all segments so far; `waiting` are prompts that the method keeps for later.
    """

    data: TrainSet
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    gate: GateState
    done: int
    waiting: list[str]
    source: Path | None
    resumed: bool


def inputs_of(params: Params) -> list[Path]:
    """The files of the curated data that training reads: other benchmarks are none of them."""
    files = [DATA / "problems.parquet", DATA / "traces.parquet"]
    return files + [DATA / "benchmarks" / f"{name}.parquet" for name in params.train.watched]


def same_run(params: Params, previous: Path, name: str) -> dict[str, object]:
    """Check the artifacts that segment `name` left in `previous`; the facts that name them.

    Raises:
        DataError: damaged, or a segment of another run.
    """
    manifest = check_manifest(previous)
    data = check_manifest(DATA, "data")
    problems = data["files"]["problems.parquet"]["sha256"]
    facts = manifest["facts"]
    if manifest["kind"] == "segment":
        wanted = {
            "segment": name,
            "method": params.method,
            "seed": params.seed,
            "problems": problems,
        }
        for key, value in wanted.items():
            if facts.get(key, value) != value:
                raise DataError(
                    f"the segment belongs to another run: its {key} is {facts[key]}, not {value}",
                    where=str(previous),
                    remedy=f"`dvc repro train@{name}`",
                )
    return {"previous": identity(previous), "problems": problems}


def start_of(
    params: Params, name: str, scratch: Path, ranks: Ranks, tell: Callable[[str], None]
) -> SegmentStart:
    """Load data, policy and counts of segment `name`.

    Args:
        scratch: resume points and finished rounds of this segment, if it was begun before.
        ranks: the processes that train together; the first chooses the state for all.
        tell: gets a line if the segment goes on.

    Raises:
        DataError: artifacts are missing or do not fit.
    """
    spec = params.segments[name]
    previous = POLICIES / spec.prev
    device, dtype = prepare_compute(params.compute)
    data = load_trainset(DATA, params.set_aside)
    begun = params.rounds_before(name)

    def newest() -> str | None:
        found = newest_state(scratch, begun, tell)
        return None if found is None else str(found)

    place = ranks.broadcast(newest)
    resumed = None if place is None else Path(place)
    source = resumed or previous
    sharded = in_shards(source)
    model, tokenizer = load_policy(
        source / "model" if resumed and not sharded else policy_model(previous),
        dtype,
        params.compute.attention,
    )
    adapt(params, model)
    if sharded:
        load_weights(model, source)
    model.to(device)  # type: ignore[arg-type]
    if params.update.gradient_checkpointing:
        refuse_checkpointing(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    refuse_misfit(data, model, params.rollout.max_tokens)
    data = replace(data, opening=opened_thought(tokenizer, data.prompts.values()))
    first = params.rounds_before(name)
    if not resumed and spec.prev == params.start:
        return SegmentStart(data, model, tokenizer, GateState(), first, [], None, False)
    need_part(source, "state/optimizer.safetensors")
    gate, done = read_gate_state(source)
    if not first <= done <= first + spec.rounds:
        raise DataError(
            f"the state has {done} rounds, the segment starts after {first}",
            where=str(source),
            remedy=f"`dvc repro -f train@{name}`",
        )
    if resumed:
        tell(f"continues after round {done}")
    waiting = read_waiting(source)
    return SegmentStart(data, model, tokenizer, gate, done, waiting, source, resumed is not None)


def seconds_before(path: Path, tell: Callable[[str], None]) -> dict[str, float]:
    """Seconds by part of the earlier attempts; they decide nothing, so damage is only told."""
    try:
        return {str(name): float(value) for name, value in read_json(path).items()}
    except (DataError, AttributeError, ValueError) as error:
        tell(f"the times of earlier attempts are lost ({error})")
        return {}
