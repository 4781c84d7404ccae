"""The curated problems and traces as a training stage needs them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.compute as pc
from transformers import PreTrainedModel

from hapo_core.errors import DataError
from hapo_core.fit import refuse_ids, refuse_length
from hapo_core.groups import Trace
from hapo_core.rollout import Prompt
from pipeline.artifacts import check_manifest
from pipeline.artifacts.tables import PROBLEMS, TRACES, read_table


@dataclass(frozen=True)
class TrainSet:
    """Training prompts by id, their gold answers, the usable traces of rank 0 in the order of the
    source, what grades each problem, and what the prompts already wrote of the responses."""

    prompts: dict[str, Prompt]
    answers: dict[str, str]
    traces: dict[str, tuple[Trace, ...]]
    rewards: dict[str, str]
    opening: str = ""
    problems: dict[str, str] = field(default_factory=dict)
    """Their texts, as the prompts hold them."""

    def only(self, kept: Collection[str]) -> TrainSet:
        """The problems with these ids."""
        return replace(
            self,
            prompts={i: p for i, p in self.prompts.items() if i in kept},
            answers={i: a for i, a in self.answers.items() if i in kept},
            traces={i: t for i, t in self.traces.items() if i in kept},
        )

    @property
    def prompt_ids(self) -> list[str]:
        """All training prompts."""
        return list(self.prompts)


def load_trainset(data: Path, without: Collection[str] = ()) -> TrainSet:
    """Read `problems.parquet` and `traces.parquet`.

    Args:
        without: sources that are not trained on (those of the cold start).

    Raises:
        DataError: a damaged artifact, or no training problem in it.
    """
    check_manifest(data, "data")
    prompts: dict[str, Prompt] = {}
    answers: dict[str, str] = {}
    rewards: dict[str, str] = {}
    problems: dict[str, str] = {}
    for row in read_table(data / "problems.parquet", PROBLEMS).to_pylist():
        if row["split"] == "train" and row["source"] not in without:
            prompts[row["problem_id"]] = Prompt(row["problem_id"], tuple(row["prompt_ids"]))
            answers[row["problem_id"]] = row["answer"]
            rewards[row["problem_id"]] = row["reward"]
            problems[row["problem_id"]] = row["problem"]
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
    return TrainSet(prompts, answers, traces, rewards, problems=problems)


def refuse_misfit(data: TrainSet, model: PreTrainedModel, budget: int) -> None:
    """Raises DataError where the model has no row for a token of the data, or too few positions
    for the longest prompt and a response of `budget` tokens."""
    refuse_ids(model, ((f"prompt of {i}", p.token_ids) for i, p in data.prompts.items()))
    traces = ((f"trace of {i}", t.token_ids) for i, all_ in data.traces.items() for t in all_)
    refuse_ids(model, traces)
    longest = max(data.prompts.values(), key=lambda p: len(p.token_ids))
    refuse_length(model, len(longest.token_ids) + budget, f"prompt of {longest.prompt_id}")
