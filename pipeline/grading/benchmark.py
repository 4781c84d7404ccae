"""Measuring a policy on a benchmark: shared by the probe, the stage and `hapo evaluate`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hapo_core.graded import Graded
from hapo_core.rollout import Prompt, Rollout, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.stats.benchmark import Generation
from hapo_core.verify import VerifierPool
from pipeline.artifacts.tables import BENCHMARK, read_table
from pipeline.grading.streaming import Verifying

EVALUATION_ROUND = 0
"""All evaluations draw from the same streams: two policies are compared on common numbers."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's problems, in the order of its table.

    `fingerprint` is a sha256 over ids, problem texts and golds: equal ones are the same problems,
    whatever the tokenizer.
    """

    name: str
    prompts: tuple[Prompt, ...]
    answers: dict[str, str]
    rewards: dict[str, str]
    fingerprint: str = ""

    @property
    def ids(self) -> list[str]:
        """Problem ids."""
        return [p.prompt_id for p in self.prompts]


def benchmark_of(name: str, rows: Iterable[Mapping[str, Any]]) -> Benchmark:
    """A benchmark from rows of the table `BENCHMARK`."""
    rows = list(rows)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["problem_id"], row["problem"], row["answer"]]).encode())
    return Benchmark(
        name,
        tuple(Prompt(r["problem_id"], tuple(r["prompt_ids"])) for r in rows),
        {r["problem_id"]: r["answer"] for r in rows},
        {r["problem_id"]: r["reward"] for r in rows},
        digest.hexdigest(),
    )


def load_benchmark(data: Path, name: str, limit: int | None) -> Benchmark:
    """The first `limit` problems of `artifacts/data/benchmarks/NAME.parquet`."""
    table = read_table(data / "benchmarks" / f"{name}.parquet", BENCHMARK)
    return benchmark_of(name, table.slice(0, limit).to_pylist())


def respond(
    engine: Engine,
    pool: VerifierPool,
    prompts: Sequence[Prompt],
    answers: dict[str, str],
    sampling: Sampling,
    seed: int,
    *,
    rewards: dict[str, str],
    opening: str = "",
    round_index: int = EVALUATION_ROUND,
    finished: Callable[[Rollout], None] | None = None,
) -> list[Graded]:
    """Graded responses, sorted by problem (as given) and sample.

    They are verified while others are still generated.

    Args:
        rewards: what grades each problem, by id.
        opening: of `opened_thought`.
        round_index: keys the draws.
        finished: told of every response as it ends.
    """
    order = {p.prompt_id: k for k, p in enumerate(prompts)}
    with Verifying(pool, answers, rewards, opening) as verifying:
        rollouts = []
        for rollout in engine.generate(prompts, sampling, seed, round_index):
            verifying.put(rollout)
            rollouts.append(rollout)
            if finished is not None:
                finished(rollout)
        rollouts.sort(key=lambda r: (order[r.prompt_id], r.sample))
        return verifying.of(rollouts)


def generation(response: Graded) -> Generation:
    """What the statistics need of one response."""
    rollout, found = response.rollout, response.found
    return Generation(
        rollout.prompt_id, rollout.sample, found.verdict.value, found.extracted, rollout.length
    )
