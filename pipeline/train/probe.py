"""The probe: a few held-out problems, measured every few rounds of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hapo_core.rollout import Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.stats.benchmark import BenchmarkResult, Protocol, benchmark_result
from hapo_core.verify import VerifierPool
from pipeline.config import Params
from pipeline.grading.benchmark import Benchmark, generation, load_benchmark, respond


@dataclass(frozen=True)
class Probe:
    """A small held-out measurement during training."""

    benchmark: Benchmark
    sampling: Sampling
    params: Params

    def measure(self, engine: Engine, pool: VerifierPool, opening: str) -> dict[str, object]:
        """The probe columns of the ROUNDS table; `opening` is of `opened_thought`."""
        result = self.result(engine, pool, opening)
        return {
            "probe_avg": result.avg,
            "probe_low": result.ci[0],
            "probe_high": result.ci[1],
            "probe_n": result.n,
            "probe_k": result.protocol.k,
        }

    def result(self, engine: Engine, pool: VerifierPool, opening: str) -> BenchmarkResult:
        """The measurement; equal policies get equal ones."""
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
        return benchmark_result(
            (generation(response) for response in answered),
            b.ids,
            protocol,
        )


def load_probe(params: Params, data: Path) -> Probe | None:
    """The configured probe, or None if it is switched off."""
    name = params.train.probe_benchmark
    return None if name is None else _probe_of(params, data, name)


def load_watched(params: Params, data: Path) -> dict[str, Probe]:
    """The benchmarks of `train.watch`, measured as the probe is."""
    return {name: _probe_of(params, data, name) for name in params.train.watch}


def _probe_of(params: Params, data: Path, name: str) -> Probe:
    train = params.train
    benchmark = load_benchmark(data, name, train.probe_problems)
    sampling = Sampling(
        train.probe_samples, train.probe_temperature, 1.0, params.rollout.max_tokens
    )
    return Probe(benchmark, sampling, params)
