"""Stage `evaluate@NAME`: a policy on every benchmark; each generation is kept with its verdict."""

from __future__ import annotations

import time

from hapo_core.errors import ConfigError
from hapo_core.fit import refuse_ids, refuse_length
from hapo_core.policy import load_policy
from hapo_core.verify import VerifierPool
from pipeline.artifacts import Scratch, check_manifest, identity, inputs_hash, record_timing
from pipeline.artifacts.places import DATA, EVALUATIONS, POLICIES
from pipeline.build.device import prepare_compute
from pipeline.build.engine import rollout_engine
from pipeline.build.prompting import reads_clock
from pipeline.build.verifier import verifier_settings
from pipeline.config import BenchmarkProtocol, Params
from pipeline.dependencies.provenance import begin
from pipeline.evaluate.evaluator import Conditions, Evaluator
from pipeline.evaluate.templates import Template
from pipeline.flows.observer import Observer
from pipeline.grading.benchmark import load_benchmark
from pipeline.models import policy_model


class Evaluation:
    """One policy of the run on all benchmarks. Finished batches of problems survive a kill."""

    def __init__(self, params: Params, target: str, observer: Observer) -> None:
        self.params, self.target, self.observer = params, target, observer
        self.policy = params.targets[target].policy
        folder = POLICIES / self.policy
        Scratch.settle(f"evaluate@{target}")  # takes names from the inputs' files: first
        benchmarks = [DATA / "benchmarks" / f"{n}.parquet" for n in params.evaluate.benchmarks]
        self.made = begin(f"evaluate@{target}", params, [*benchmarks, folder])
        check_manifest(folder)
        check_manifest(DATA, "data")
        self.scratch = Scratch(f"evaluate@{target}", inputs_hash(self.made.lock, []))
        self.scratch.discard_others()
        device, dtype = prepare_compute(params.compute)
        model, tokenizer = load_policy(policy_model(folder), dtype, params.compute.attention)
        model.to(device)  # type: ignore[arg-type]
        loaded = [
            (load_benchmark(DATA, name, spec.limit), spec.max_tokens)
            for name, spec in params.evaluate.benchmarks.items()
        ]
        for benchmark, most in loaded:
            refuse_ids(model, ((p.prompt_id, p.token_ids) for p in benchmark.prompts))
            longest = max(len(p.token_ids) for p in benchmark.prompts) + most
            refuse_length(model, longest, f"benchmark {benchmark.name}")
        self.engine = rollout_engine(
            params.evaluate,
            params.compute,
            model,
            tokenizer,
            stage=f"evaluate@{target}",
            context=max(max(len(p.token_ids) for p in b.prompts) + most for b, most in loaded),
            tell=observer.log,
        )
        self.pool = VerifierPool(verifier_settings(params.rewards))
        curate = params.curate
        date = curate.prompt_date if reads_clock(tokenizer) else None
        template = Template(
            "curate", suffix=curate.prompt_suffix, system=curate.system_prompt, date=date
        )
        self.evaluator = Evaluator(
            self.engine,
            tokenizer,
            self.pool,
            Conditions(template, params.seed, params.evaluate),
            self.scratch.path,
            observer,
            self.made.unchanged,
        )

    def benchmark(self, name: str, spec: BenchmarkProtocol) -> dict[str, object]:
        """Measure one benchmark of the curated data."""
        return self.evaluator.measure(load_benchmark(DATA, name, spec.limit), spec)

    def run(self) -> None:
        """All benchmarks, then publish."""
        began = time.monotonic()
        found = {
            name: self.observer.task(f"benchmark {name}", self.benchmark, name, spec)
            for name, spec in self.params.evaluate.benchmarks.items()
        }
        named = {"measured": identity(POLICIES / self.policy)}
        self.evaluator.finish(self.policy, found, {}, named)
        self.made.check()
        self.scratch.publish_copy(EVALUATIONS / self.target, "out", self.observer.log)
        self.made.write()
        record_timing(
            f"evaluate@{self.target}",
            time.monotonic() - began,
            generated=self.evaluator.tokens,
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
