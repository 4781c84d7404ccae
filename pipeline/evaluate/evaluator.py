"""One policy on benchmarks: generate, verify, keep, reduce. The stage `evaluate@NAME` and
`hapo evaluate` are both this, with other ways to find the policy and the problems."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from hapo_core.errors import HapoError
from hapo_core.graded import Graded
from hapo_core.rollout import Prompt, Rollout, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.stats.benchmark import BenchmarkResult, Generation, Protocol, benchmark_result
from hapo_core.verify import VerifierPool, VerifierSettings
from pipeline.artifacts import atomic_write_json, guard_disk, remove, write_manifest
from pipeline.artifacts.seals import Tell, sealed_part
from pipeline.artifacts.tables import GENERATIONS, Row, TableWriter
from pipeline.config import BenchmarkProtocol, Evaluate
from pipeline.evaluate.templates import Template
from pipeline.flows.observer import Observer
from pipeline.grading.benchmark import Benchmark, respond
from pipeline.grading.jobs import opened_thought


@dataclass(frozen=True)
class Conditions:
    """What all benchmarks of one evaluation share."""

    template: Template
    seed: int
    settings: Evaluate
    """`max_rows` and `confidence` are read."""


class Evaluator:
    """Measures one policy, benchmark by benchmark.

    Args:
        engine: generates; `tokenizer` belongs to it.
        folder: unfinished work, `parts/` and `out/`. What is finished there is not done again.
        unchanged: asked before a part is kept; raises where another attempt must not take it up.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        pool: VerifierPool,
        conditions: Conditions,
        folder: Path,
        observer: Observer,
        unchanged: Callable[[Tell], None] = lambda tell: None,
    ) -> None:
        self.unchanged = unchanged
        self.engine, self.tokenizer, self.pool = engine, tokenizer, pool
        self.conditions, self.folder, self.observer = conditions, folder, observer
        self.out = folder / "out"
        remove(self.out)  # it is made of the parts, which are sealed
        self.out.mkdir(parents=True)
        self.tokens = 0
        """Tokens of all responses so far, those of earlier attempts included."""

    def measure(self, benchmark: Benchmark, spec: BenchmarkProtocol) -> dict[str, object]:
        """Measure one benchmark; writes `out/NAME.parquet` and returns its entry of metrics.json.

        Raises:
            HapoError: a full disk, too little memory on the device.
        """
        sampling = Sampling(spec.k, spec.temperature, spec.top_p, spec.max_tokens)
        rows: list[Generation] = []
        with guard_disk(self.out), TableWriter(GENERATIONS, self._table(benchmark.name)) as table:
            for part in self._parts(benchmark, sampling):
                table.write(part)
                rows += _generations(part)
        self.tokens += sum(g.tokens for g in rows)
        template, settings = self.conditions.template, self.conditions.settings
        protocol = Protocol(
            spec.k, spec.temperature, spec.top_p, spec.max_tokens, template.describe()
        )
        result = benchmark_result(
            rows,
            benchmark.ids,
            protocol,
            confidence=settings.confidence,
        )
        self.observer.log(_line(benchmark.name, result))
        return {
            **result.to_dict(),
            "confidence": settings.confidence,
            "limit": spec.limit,
            "preset": spec.preset,
            "problems_sha256": benchmark.fingerprint,
            "prompts_sha256": self._asked(benchmark),
            "seed": self.conditions.seed,
            "template": template.name,
        }

    def finish(
        self,
        policy: str,
        found: Mapping[str, object],
        facts: Mapping[str, object],
        named: Mapping[str, object] | None = None,
        beside: Iterable[str] = (),
    ) -> dict[str, object]:
        """Write `out/metrics.json` and the manifest, and return the former.

        Args:
            named: more facts of the manifest, such as what identifies the policy.
            beside: files that the caller wrote to `out`.
        """
        metrics: dict[str, object] = {
            "policy": policy,
            "benchmarks": dict(found),
            "verifier": verifier_facts(self.pool.settings),
            **facts,
        }
        atomic_write_json(self.out / "metrics.json", metrics)
        about = {"policy": policy, "seed": self.conditions.seed, **(named or {})}
        names = ["metrics.json", *(self._table(name).name for name in found), *beside]
        write_manifest(self.out, "evaluation", about, names)
        return metrics

    def _asked(self, benchmark: Benchmark) -> str:
        """Hex sha256 of the prompts as the policy got them: the rendered template with its date. Of
        prompts without a template only of their parts, as tokenizers differ in what they add."""
        if not self.conditions.template.chat:
            text = self.conditions.template.describe() + benchmark.fingerprint
            return hashlib.sha256(text.encode()).hexdigest()
        digest = hashlib.sha256()
        for prompt in benchmark.prompts:
            text = self.tokenizer.decode(list(prompt.token_ids), skip_special_tokens=False)
            digest.update(text.encode() + b"\0")
        return digest.hexdigest()

    def _table(self, benchmark: str) -> Path:
        return self.out / f"{benchmark}.parquet"

    def _parts(self, benchmark: Benchmark, sampling: Sampling) -> Iterator[pa.Table]:
        """Tables of the batches in order, read where they are there, generated otherwise.

        A batch is what is decoded at once, always the same problems: in bfloat16 another
        composition of a batch could change tokens.
        """
        size = max(1, self.conditions.settings.max_rows // sampling.n)
        opening = opened_thought(self.tokenizer, benchmark.prompts)
        watch = _Watch(self.observer, benchmark, sampling)
        for start in range(0, len(benchmark.prompts), size):
            path = self.folder / "parts" / benchmark.name / f"{start:06d}.parquet"
            prompts = benchmark.prompts[start : start + size]
            make = partial(self._answers, benchmark, prompts, start, sampling, opening, watch)
            part, was_there = sealed_part(
                path, GENERATIONS, make, self.observer.log, self.unchanged
            )
            if was_there:
                watch.skip(part.num_rows)
            yield part

    def _answers(
        self,
        benchmark: Benchmark,
        prompts: Sequence[Prompt],
        start: int,
        sampling: Sampling,
        opening: str,
        watch: _Watch,
    ) -> list[Row]:
        watch.begin()
        with _memory(f"{benchmark.name}, problems {start + 1} to {start + len(prompts)}"):
            answered = respond(
                self.engine,
                self.pool,
                prompts,
                benchmark.answers,
                sampling,
                self.conditions.seed,
                rewards=benchmark.rewards,
                opening=opening,
                finished=watch.finished,
            )
        return list(_rows(benchmark.name, answered))


class _Watch:
    """Progress in samples, with the speed of this attempt."""

    def __init__(self, observer: Observer, benchmark: Benchmark, sampling: Sampling) -> None:
        self.observer, self.what = observer, f"{benchmark.name} sample"
        self.total = len(benchmark.prompts) * sampling.n
        self.done = self.kept = self.tokens = 0
        self.start: float | None = None

    def skip(self, samples: int) -> None:
        """Samples of an earlier attempt."""
        self.done += samples
        self.kept += samples
        if self.kept == self.total:
            self.observer.log(f"{self.what}s: all {self.total} are there already")

    def begin(self) -> None:
        """Before the first batch of this attempt: the clock starts."""
        if self.start is None:
            self.start = time.monotonic()
            if self.kept:
                self.observer.log(f"{self.what}s: {self.kept} of {self.total} are there already")

    def finished(self, rollout: Rollout) -> None:
        """One more sample."""
        assert self.start is not None
        self.done += 1
        self.tokens += len(rollout.token_ids)
        speed = self.tokens / max(time.monotonic() - self.start, 1e-3)
        self.observer.progress(self.done, self.total, what=self.what, tokens_per_second=speed)


@contextmanager
def _memory(where: str) -> Iterator[None]:
    """Turn an exhausted device into an error with a remedy."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HapoError(
            "the device has too little memory for so many responses at once",
            where=where,
            remedy="lower max_rows (evaluate.max_rows, or --max-rows) or max_tokens; what is "
            "finished is kept",
        ) from error


def verifier_facts(settings: VerifierSettings) -> dict[str, object]:
    """What decides the verdicts, for metrics.json."""
    return {
        "kind": settings.kind,
        "require_box": settings.require_box,
        "unevaluated": settings.unevaluated,
        "timeout_seconds": settings.timeout_seconds,
        "math_verify": version("math-verify"),
    }


def _rows(name: str, answered: Sequence[Graded]) -> list[dict[str, object]]:
    return [
        {
            "benchmark": name,
            "problem_id": one.rollout.prompt_id,
            "sample": one.rollout.sample,
            "token_ids": one.rollout.token_ids,
            "finish": one.rollout.finish.value,
            "text": one.rollout.text,
            "verdict": one.found.verdict.value,
            "extracted": one.found.extracted,
        }
        for one in answered
    ]


def _generations(part: pa.Table) -> Iterator[Generation]:
    """What the statistics need, without the tokens."""
    lengths = pc.list_value_length(part["token_ids"]).to_pylist()
    rows = part.select(["problem_id", "sample", "verdict", "extracted"]).to_pylist()
    for row, tokens in zip(rows, lengths, strict=True):
        yield Generation(row["problem_id"], row["sample"], row["verdict"], row["extracted"], tokens)


def _line(name: str, result: BenchmarkResult) -> str:
    low, high = result.ci
    p = result.protocol
    return (
        f"{name}  avg@{p.k} {100 * result.avg:.1f} % [{100 * low:.1f}, {100 * high:.1f}]  "
        f"n {result.n}  temperature {p.temperature:g}"
    )
