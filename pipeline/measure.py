"""Measuring a policy on a benchmark: shared by the probe, the stage and `hapo evaluate`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hapo_core.evaluate import BenchmarkResult, Generation, Protocol, benchmark_result
from hapo_core.rollout import Prompt, Rollout, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.verify import Verification, VerifierPool
from pipeline.config import Params
from pipeline.tables import BENCHMARK, read_table
from pipeline.verifying import Verifying

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
    finished: Callable[[Rollout], None] | None = None,
) -> list[tuple[Rollout, Verification]]:
    """Responses with their verdicts, sorted by problem (as given) and sample.

    They are verified while others are still generated.

    Args:
        rewards: what grades each problem, by id.
        opening: of `opened_thought`.
        finished: told of every response as it ends.
    """
    order = {p.prompt_id: k for k, p in enumerate(prompts)}
    with Verifying(pool, answers, rewards, opening) as verifying:
        rollouts = []
        for rollout in engine.generate(prompts, sampling, seed, EVALUATION_ROUND):
            verifying.put(rollout)
            rollouts.append(rollout)
            if finished is not None:
                finished(rollout)
        rollouts.sort(key=lambda r: (order[r.prompt_id], r.sample))
        return list(zip(rollouts, verifying.of(rollouts), strict=True))


def generation(rollout: Rollout, verification: Verification) -> Generation:
    """What the statistics need of one response."""
    return Generation(
        rollout.prompt_id,
        rollout.sample,
        verification.verdict.value,
        verification.extracted,
        len(rollout.token_ids),
    )


@dataclass(frozen=True)
class Probe:
    """A small held-out measurement during training."""

    benchmark: Benchmark
    sampling: Sampling
    params: Params

    def measure(self, engine: Engine, pool: VerifierPool, opening: str) -> dict[str, object]:
        """The probe columns of the ROUNDS table; `opening` is of `opened_thought`."""
        seed = self.params.seed
        b = self.benchmark
        answered = respond(
            engine,
            pool,
            b.prompts,
            b.answers,
            self.sampling,
            seed,
            rewards=b.rewards,
            opening=opening,
        )
        protocol = Protocol(
            self.sampling.n,
            self.sampling.temperature,
            self.sampling.top_p,
            self.sampling.max_tokens,
            "chat",
        )
        result: BenchmarkResult = benchmark_result(
            (generation(r, v) for r, v in answered), b.ids, protocol, seed=seed, label="probe"
        )
        return {
            "probe_avg": result.avg,
            "probe_low": result.ci[0],
            "probe_high": result.ci[1],
            "probe_n": result.n,
            "probe_k": protocol.k,
        }


def load_probe(params: Params, data: Path) -> Probe | None:
    """The configured probe, or None if it is switched off."""
    train = params.train
    if train.probe_benchmark is None:
        return None
    benchmark = load_benchmark(data, train.probe_benchmark, train.probe_problems)
    sampling = Sampling(
        train.probe_samples, train.probe_temperature, 1.0, params.rollout.max_tokens
    )
    return Probe(benchmark, sampling, params)
