"""Stage `evaluate@NAME`: a policy on every benchmark; each generation is kept with its verdict."""

from __future__ import annotations

import argparse
import time

from hapo_core.errors import ConfigError
from hapo_core.policy import load_policy
from hapo_core.verify import VerifierPool
from pipeline import wiring
from pipeline.base import policy_model
from pipeline.config import BenchmarkProtocol, Params, load_params
from pipeline.evaluation import Conditions, Evaluator
from pipeline.measure import load_benchmark
from pipeline.observe import Observer, run_stage, stage_main
from pipeline.places import DATA, EVALUATIONS, POLICIES
from pipeline.prompting import Template
from pipeline.store import Scratch, check_manifest, identity, inputs_hash, record_timing

READS = ("seed", "evaluate", "rewards", "compute")
"""Sections of params.yaml that an evaluation depends on (dvc.yaml lists the same)."""


class Evaluation:
    """One policy of the run on all benchmarks. Finished batches of problems survive a kill."""

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
        self.pool = VerifierPool(wiring.verifier_settings(params.rewards))
        curate = params.curate
        template = Template("curate", suffix=curate.prompt_suffix, system=curate.system_prompt)
        self.evaluator = Evaluator(
            self.engine,
            tokenizer,
            self.pool,
            Conditions(template, params.seed, params.evaluate),
            self.scratch.path,
            observer,
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
        self.scratch.publish_copy(EVALUATIONS / self.target, "out")
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


def main() -> None:
    """The stage's entry point: `python -m pipeline.evaluate --target NAME`."""
    parser = argparse.ArgumentParser(prog="pipeline.evaluate")
    parser.add_argument("--target", required=True, help="key of `targets` in params.yaml")
    target = parser.parse_args().target
    params = load_params()
    run_stage(f"evaluate@{target}", lambda observer: evaluate_policy(params, target, observer))


if __name__ == "__main__":
    stage_main(main)
