"""The curated problems and traces as a training stage needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from hapo_core.errors import DataError
from hapo_core.groups import Trace
from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.verify import Job
from pipeline.store import check_manifest
from pipeline.tables import PROBLEMS, TRACES, read_table

THOUGHT = "<think>"


@dataclass(frozen=True)
class TrainSet:
    """Training prompts by id, their gold answers, the usable traces of rank 0 in the order of the
    source, what grades each problem, and what the prompts already wrote of the responses."""

    prompts: dict[str, Prompt]
    answers: dict[str, str]
    traces: dict[str, tuple[Trace, ...]]
    rewards: dict[str, str]
    opening: str = ""

    @property
    def prompt_ids(self) -> list[str]:
        """All training prompts."""
        return list(self.prompts)


def load_trainset(data: Path) -> TrainSet:
    """Read `problems.parquet` and `traces.parquet`.

    Raises:
        DataError: a damaged artifact, or no training problem in it.
    """
    check_manifest(data, "data")
    prompts: dict[str, Prompt] = {}
    answers: dict[str, str] = {}
    rewards: dict[str, str] = {}
    for row in read_table(data / "problems.parquet", PROBLEMS).to_pylist():
        if row["split"] == "train":
            prompts[row["problem_id"]] = Prompt(row["problem_id"], tuple(row["prompt_ids"]))
            answers[row["problem_id"]] = row["answer"]
            rewards[row["problem_id"]] = row["reward"]
    if not prompts:
        raise DataError(
            "no training problem is left",
            where=str(data / "problems.parquet"),
            remedy="read artifacts/data/curation.json for the rules that took them",
        )
    # Filtered before it becomes Python objects: a problem may have many long traces.
    chosen = read_table(data / "traces.parquet", TRACES).filter(
        (pc.field("rank") == 0) & pc.field("usable")
    )
    traces: dict[str, tuple[Trace, ...]] = {}
    for row in chosen.to_pylist():
        trace = Trace(row["trace_id"], tuple(row["token_ids"]), row["text"])
        traces[row["problem_id"]] = (*traces.get(row["problem_id"], ()), trace)
    return TrainSet(prompts, answers, traces, rewards)


def opened_thought(tokenizer: Any, prompts: Iterable[Prompt]) -> str:
    """`<think>` where the prompts end with it, else an empty string; the first one tells.

    The policy's response then starts inside a thought, which the verifier has to know: an answer
    in a thought that is never closed is no final answer.
    """
    tail = tokenizer.decode(list(next(iter(prompts)).token_ids[-16:])).rstrip()
    return THOUGHT if tail.endswith(THOUGHT) else ""


def verify_jobs(
    rollouts: Iterable[Rollout],
    answers: Mapping[str, str],
    *,
    rewards: Mapping[str, str],
    opening: str = "",
) -> Iterator[Job]:
    """One verification job per rollout, in order; gold and reward by problem id.

    Args:
        opening: what the prompt already wrote of the response (`<think>`, in some templates).
    """
    for rollout in rollouts:
        yield Job(
            key=f"{rollout.prompt_id}/{rollout.sample}",
            gold=answers[rollout.prompt_id],
            response=opening + rollout.text,
            truncated=rollout.finish is Finish.LENGTH,
            kind=rewards[rollout.prompt_id],
        )
