"""Stage `evaluate@NAME`: a policy on every benchmark; each generation is kept with its verdict."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hapo_core.errors import ConfigError
from hapo_core.evaluate import Generation, Protocol, benchmark_result
from hapo_core.policy import load_policy
from hapo_core.rollout import Prompt, Rollout, Sampling
from hapo_core.verify import Verification, VerifierPool
from pipeline import wiring
from pipeline.base import policy_model
from pipeline.config import BenchmarkProtocol, Params, load_params
from pipeline.measure import Benchmark, load_benchmark, respond
from pipeline.observe import Observer, run_stage, stage_main
from pipeline.store import (
    Scratch,
    atomic_write_json,
    check_manifest,
    guard_disk,
    inputs_hash,
    record_timing,
    write_manifest,
)
from pipeline.tables import GENERATIONS, read_table, write_table
from pipeline.train import DATA, POLICIES

EVALUATIONS = Path("artifacts/evaluation")
READS = ("seed", "evaluate", "rewards", "compute")
"""Sections of params.yaml that an evaluation depends on (dvc.yaml lists the same)."""


class Evaluation:
    """One policy on all benchmarks. Finished batches of problems survive a kill."""

    def __init__(self, params: Params, target: str, observer: Observer) -> None:
        self.params, self.target, self.observer = params, target, observer
        self.policy = params.targets[target].policy
        folder = POLICIES / self.policy
        check_manifest(folder)
        check_manifest(DATA, "data")
        subset = {key: getattr(params, key) for key in READS}
        self.scratch = Scratch(f"evaluate@{target}", inputs_hash(subset, [DATA, folder]))
        self.scratch.discard_others()
        Scratch.settle(f"evaluate@{target}")
        self.out = self.scratch.path / "out"
        self.out.mkdir(exist_ok=True)
        device, dtype = wiring.prepare_compute(params.compute)
        model, tokenizer = load_policy(policy_model(folder), dtype, params.compute.attention)
        model.to(device)
        loaded = [
            (load_benchmark(DATA, name, spec.limit), spec.max_tokens)
            for name, spec in params.evaluate.benchmarks.items()
        ]
        self.engine = wiring.rollout_engine(
            params.evaluate,
            params.compute,
            model,
            tokenizer,
            stage=f"evaluate@{target}",
            context=max(max(len(p.token_ids) for p in b.prompts) + most for b, most in loaded),
            tell=observer.log,
        )
        self.pool = VerifierPool(wiring.verifier_settings(params))

    def benchmark(self, name: str, spec: BenchmarkProtocol) -> dict[str, object]:
        """Generate, verify and reduce one benchmark; writes NAME.parquet."""
        benchmark = load_benchmark(DATA, name, spec.limit)
        sampling = Sampling(spec.k, spec.temperature, spec.top_p, spec.max_tokens)
        rows = self._rows(benchmark, sampling)
        with guard_disk(self.out):
            write_table(rows, GENERATIONS, self.out / f"{name}.parquet")
        evaluate = self.params.evaluate
        protocol = Protocol(spec.k, spec.temperature, spec.top_p, spec.max_tokens, self._template())
        result = benchmark_result(
            (_generation(row) for row in rows),
            benchmark.ids,
            protocol,
            confidence=evaluate.confidence,
            draws=evaluate.bootstrap_draws,
            seed=self.params.seed,
            label=name,
        )
        low, high = result.ci
        self.observer.log(
            f"{name}  avg@{spec.k} {100 * result.avg:.1f} % [{100 * low:.1f}, {100 * high:.1f}]  "
            f"n {result.n}  temperature {spec.temperature:g}"
        )
        return result.to_dict()

    def _rows(self, benchmark: Benchmark, sampling: Sampling) -> list[dict[str, object]]:
        size = max(1, self.params.evaluate.max_rows // sampling.n)
        prompts = benchmark.prompts
        rows: list[dict[str, object]] = []
        for start in range(0, len(prompts), size):
            part = self.scratch.path / "parts" / benchmark.name / f"{start:06d}.parquet"
            if not part.is_file():
                answered = self._answer(benchmark, prompts[start : start + size], sampling)
                write_table(_generation_rows(benchmark.name, answered), GENERATIONS, part)
            rows.extend(read_table(part, GENERATIONS).to_pylist())
            done = min(start + size, len(prompts))
            self.observer.progress(done, len(prompts), what=f"{benchmark.name} problem")
        return rows

    def _answer(
        self, benchmark: Benchmark, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[tuple[Rollout, Verification]]:
        return respond(
            self.engine, self.pool, prompts, benchmark.answers, sampling, self.params.seed
        )

    def _template(self) -> str:
        curate = self.params.curate
        system = f"system: {curate.system_prompt!r}, " if curate.system_prompt else ""
        return f"chat template, {system}user: problem + {curate.prompt_suffix!r}"

    def run(self) -> None:
        """All benchmarks, then publish."""
        began = time.monotonic()
        found = {
            name: self.observer.task(f"benchmark {name}", self.benchmark, name, spec)
            for name, spec in self.params.evaluate.benchmarks.items()
        }
        atomic_write_json(self.out / "metrics.json", {"policy": self.policy, "benchmarks": found})
        write_manifest(self.out, "evaluation", {"policy": self.policy, "seed": self.params.seed})
        tokens = sum(
            sum(len(r["token_ids"]) for r in read_table(p, GENERATIONS).to_pylist())
            for p in self.out.glob("*.parquet")
        )
        self.scratch.publish_copy(EVALUATIONS / self.target, "out")
        record_timing(
            f"evaluate@{self.target}",
            {
                "wall_s": round(time.monotonic() - began, 3),
                "tokens": {"generated": tokens, "trained": 0},
                "parts": {},
                "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            },
        )


def _generation_rows(
    name: str, answered: Sequence[tuple[Rollout, Verification]]
) -> list[dict[str, object]]:
    return [
        {
            "benchmark": name,
            "problem_id": rollout.prompt_id,
            "sample": rollout.sample,
            "token_ids": rollout.token_ids,
            "finish": rollout.finish.value,
            "text": rollout.text,
            "verdict": verdict.verdict.value,
            "extracted": verdict.extracted,
        }
        for rollout, verdict in answered
    ]


def _generation(row: Mapping[str, Any]) -> Generation:
    return Generation(
        row["problem_id"], row["sample"], row["verdict"], row["extracted"], len(row["token_ids"])
    )


def evaluate_policy(params: Params, target: str, observer: Observer) -> None:
    """Evaluate what `targets.TARGET` names and write `artifacts/evaluation/TARGET/`.

    Raises:
        HapoError: unknown target, damaged artifacts, a full disk.
    """
    if target not in params.targets:
        raise ConfigError(
            f"no target {target!r}", where="targets", remedy="one of " + ", ".join(params.targets)
        )
    evaluation = Evaluation(params, target, observer)
    try:
        evaluation.run()
    finally:
        evaluation.pool.close()
        evaluation.engine.close()


def main() -> None:
    """The stage's entry point: `python -m pipeline.evaluate --target NAME`."""
    parser = argparse.ArgumentParser(prog="pipeline.evaluate")
    parser.add_argument("--target", required=True, help="key of `targets` in params.yaml")
    target = parser.parse_args().target
    params = load_params()
    run_stage(f"evaluate@{target}", lambda observer: evaluate_policy(params, target, observer))


if __name__ == "__main__":
    stage_main(main)
